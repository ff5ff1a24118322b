r"""Comparison of two mathematical answers without a parser, and the question that is left for one.

- :class:`Equivalence`: pairs of expressions that only a parser can compare.
- :func:`compare`: equal, different, or an :class:`Equivalence`.

The rules go by how the *reference* is written: a number asks for a number literal, a tuple for a tuple of as many
elements, words for the same words. So a copy of the question ("12+7"), an equation ("6=7") or an integral is never
right where a number is asked, whatever it evaluates to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from espo_env.grading.normalise import key, split_list, tidy
from espo_env.grading.numeric import parse_number

__all__ = ["Equivalence", "compare"]


class Equivalence(NamedTuple):
    """Pairs of LaTeX expressions that only a computer algebra system can compare.

    Attributes:
        references: The reference's elements (one, if it is no list).
        answers: As many elements of the answer.
        ordered: Whether element ``i`` must equal element ``i``, or the elements may come in any order.
    """

    references: tuple[str, ...]
    answers: tuple[str, ...]
    ordered: bool = True


_UNIT = re.compile(
    r"(.*?)\\(?:text|textbf|textit|textrm|textnormal|mathrm|mbox)"
    r"\s*\{\s*([mghsL]|[A-Za-z.]{2}[A-Za-z .,/-]*)\s*\}\s*(\^\s*\{?\d\}?)?\s*",
    re.DOTALL,
)
# Without \text: a word, or an abbreviation that is no product of variables.
_BARE_UNIT = re.compile(r"(.*[\d}])\s+([A-Za-z]{3,}[A-Za-z .]*|cm|mm|km|kg|ft|in|mi|lb|oz)", re.DOTALL)
_ASSIGNMENT = re.compile(
    r"((?:[A-Za-z]{1,2}|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega))(?:_\w)?'?\s*(?:\(\s*[a-z]\s*\))?)\s*"
    r"(?:=|\\in(?![a-zA-Z]))\s*(.+)",
    re.DOTALL,
)
_MIXED = re.compile(r"([+-]?)\s*(\d+)\s*(\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\})", re.ASCII)
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|equiv|approx|sim|cong|in|to|mapsto|implies|iff|lt|gt)(?![a-zA-Z])")
# Operations to be carried out: an answer may have only those that the reference has.
_OPERATION = re.compile(
    r"!|\\(?:int|iint|iiint|oint|sum|prod|lim|limsup|liminf|det|gcd|lcm|max|min|sup|inf|binom|choose|bmod|pmod|mod"
    r"|partial|nabla|lfloor|lceil)(?![a-zA-Z])|\\frac\s*\{\s*d[^{}]{0,3}\}\s*\{\s*d\s*[a-z]\s*\}"
)
_BASE = re.compile(r"[0-9A-Z}]\s*_\s*(\{[^{}]*\}|\w)")
# Words are compared as they stand: a parser would read them as products of their letters.
_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|operatorname|forall|exists|neg|land|lor)(?![a-zA-Z])"
    r"|(?<![\\A-Za-z])[A-Za-z]{3,}"
)
_NAMES_IN_BRACES = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\}")


def _number(text: str) -> Fraction | None:
    """Value of a number literal or mixed number."""
    if match := _MIXED.fullmatch(text):
        sign, whole, part = match.groups()
        fraction = parse_number(part)
        if fraction is None or fraction.value >= 1:
            return None
        return (int(whole) + fraction.value) * (-1 if sign == "-" else 1)
    number = parse_number(text)
    return None if number is None else number.value


def _split_unit(text: str) -> tuple[str, str]:
    """The answer and the unit behind it, which is empty if there is none (or if there is nothing but words)."""
    match = _UNIT.fullmatch(text) or _BARE_UNIT.fullmatch(text)
    if match is None or not match.group(1).strip():
        return text, ""
    unit = "".join(group or "" for group in match.groups()[1:])
    return match.group(1).strip(), re.sub(r"[\s.,{}]", "", unit).casefold()


def _split_assignment(text: str) -> tuple[str, str]:
    """``x = 5`` as ``("5", "x")``; no name if it is no assignment, or a chain of equations."""
    match = _ASSIGNMENT.fullmatch(text)
    if match is None or _RELATION.search(match.group(2)):
        return text, ""
    return match.group(2).strip(), re.sub(r"\s", "", match.group(1))


def _brackets(text: str) -> tuple[str, list[str]]:
    """The brackets around a list ("()", "[)", "{}", ...) and its elements; "" if it stands in none or is no list."""
    plain = text.replace(r"\{", "{").replace(r"\}", "}")
    if len(plain) > 1 and plain[0] + plain[-1] in ("()", "[]", "[)", "(]", "{}") and _balanced(plain[1:-1]):
        elements = split_list(plain[1:-1])
        if len(elements) > 1 or plain[0] != "(":  # one element in round brackets is a group
            return plain[0] + plain[-1], elements
    return "", split_list(text)


def _balanced(text: str) -> bool:
    """Whether no bracket closes that has not been opened in the text: so that ``(1,2),(3,4)`` is no tuple."""
    depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _expand_plus_minus(elements: list[str]) -> list[str]:
    expanded = []
    for element in elements:
        if len(_PLUS_MINUS.findall(element)) == 1:
            expanded += [_PLUS_MINUS.sub("+", element), _PLUS_MINUS.sub("-", element)]
        else:
            expanded.append(element)
    return expanded


def _has_words(text: str) -> bool:
    return _WORDS.search(_NAMES_IN_BRACES.sub("", text)) is not None


def _compare_one(answer: str, reference: str) -> str | Equivalence:
    """Compares two single answers, tidied."""
    if key(answer) == key(reference):
        return "equal"
    answer, unit = _split_unit(answer)
    reference, reference_unit = _split_unit(reference)
    if unit and reference_unit and unit != reference_unit:
        return "different"
    value_of_answer, name = _split_assignment(answer)
    value_of_reference, reference_name = _split_assignment(reference)
    if name and reference_name and name != reference_name:
        return "different"
    value = _number(value_of_reference)
    # y = 2x + 1 and 2x - y = -1 are compared as equations; x = 5 is compared with numbers only.
    both_equations = _RELATION.search(answer) and _RELATION.search(reference)
    if value is not None or not both_equations or (name and reference_name):
        answer, reference = value_of_answer, value_of_reference
    answer, reference = (text.removeprefix(r"\approx").strip() for text in (answer, reference))
    if key(answer) == key(reference):
        return "equal"
    if value is not None:
        found = _number(answer)
        if found is None:
            return "not_a_number"
        if found != value:
            return "different"
        division = found.denominator == 1 and ("/" in answer or "frac" in answer)
        return "unevaluated" if division and "/" not in reference and "frac" not in reference else "equal"
    if _has_words(answer) or _has_words(reference) or _BASE.findall(answer) != _BASE.findall(reference):
        return "different"
    if len(_RELATION.findall(answer)) != len(_RELATION.findall(reference)):
        return "different"
    if not set(_OPERATION.findall(answer)) <= set(_OPERATION.findall(reference)):
        return "unevaluated"
    return Equivalence((reference,), (answer,))


def _compare_unordered(answers: Sequence[str], references: Sequence[str]) -> str | Equivalence:
    """Crosses out the elements that are equal as they stand; the rest is for the parser, unless it cannot match."""
    left = list(answers)
    unmatched = []
    for reference in references:
        same = next((i for i, answer in enumerate(left) if _compare_one(answer, reference) == "equal"), None)
        if same is None:
            unmatched.append(reference)
        else:
            del left[same]
    if not unmatched:
        return "equal"
    # Every element needs a partner that only the parser can confirm.
    pairs = [[_compare_one(answer, reference) for answer in left] for reference in unmatched]
    for row in (*pairs, *zip(*pairs, strict=True)):
        if not any(isinstance(outcome, Equivalence) for outcome in row):
            return "different"
    return Equivalence(tuple(unmatched), tuple(left), ordered=False)


def compare(answer: str, reference: str) -> str | Equivalence:
    """Compares a final answer with the reference.

    Args:
        answer: The answer as it was extracted, short enough and not nested too deeply.
        reference: The right answer.

    Returns:
        One of the reasons ``"equal"``, ``"different"``, ``"not_a_number"`` and ``"unevaluated"``, or the
        :class:`Equivalence` that a parser has to decide.
    """
    answer, reference = tidy(answer), tidy(reference)
    if key(answer) == key(reference):
        return "equal"
    bare_reference, name = _split_assignment(reference)
    if _number(_split_unit(bare_reference)[0]) is not None:
        return _compare_one(answer, reference)
    brackets, references = _brackets(bare_reference)
    bare_answer, answer_name = _split_assignment(answer)
    answer_brackets, answers = _brackets(bare_answer)
    unordered = brackets in ("", "{}")
    if unordered:
        answers, references = _expand_plus_minus(answers), _expand_plus_minus(references)
    if len(references) == 1 and not brackets:
        return "different" if len(answers) > 1 or answer_brackets else _compare_one(answer, reference)
    if name and answer_name and name != answer_name:
        return "different"
    same_kind = answer_brackets in ("", "{}") if unordered else answer_brackets == brackets
    if not same_kind or len(answers) != len(references):
        return "different"
    if unordered:
        return _compare_unordered(answers, references)
    outcomes = [_compare_one(a, r) for a, r in zip(answers, references, strict=True)]
    wrong = next((outcome for outcome in outcomes if isinstance(outcome, str) and outcome != "equal"), None)
    if wrong is not None:
        return wrong
    asked = [outcome for outcome in outcomes if isinstance(outcome, Equivalence)]
    if not asked:
        return "equal"
    return Equivalence(tuple(q.references[0] for q in asked), tuple(q.answers[0] for q in asked))
