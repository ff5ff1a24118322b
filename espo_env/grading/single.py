r"""Comparing two single answers, as far as that goes without a parser.

- :class:`Equivalence`: the question that is left for the parser.
- :func:`compare_one`: equal, different, or an :class:`Equivalence`.
- :func:`read_reference`: value of a reference that is a number.
- :func:`strip_words`: answer and reference without words that say nothing.
- :func:`balanced`: whether brackets match.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from espo_env.grading.assignments import RELATION, split_assignment, split_label
from espo_env.grading.normalise import key, split_list
from espo_env.grading.units import compatible, split_unit
from espo_env.grading.values import MAX_BRACKETS, Value, read_value
from espo_env.grading.wording import split_choice, strip_phrase, strip_remark, unify_words

__all__ = ["MAX_DECIMALS", "Equivalence", "balanced", "compare_one", "read_reference", "strip_words"]

MAX_DECIMALS = 11
"""A decimal with more places, beside a reference that is none, is rounded. The parser compares twelve."""


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
_WORD_IN_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]{2,}\}")
_DECIMALS = re.compile(r"-?[0-9,]*\.([0-9]+)")
_CHOICE_LETTER = re.compile(r"[A-H]")
_COMMAND_OR_LETTER = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\}|\\[a-zA-Z]+|[a-zA-Z]")
_RATIO = re.compile(r"([0-9]+):([0-9]+)")
_APPROXIMATION = re.compile(r"(.+?)\s*\\approx(?![a-zA-Z])\s*-?[0-9.,]+")


def read_reference(text: str) -> Value | None:
    """Value of a reference; (100,101) is a pair and no number."""
    return None if text.startswith("(") and "," in text else read_value(text)


def _has_words(text: str) -> bool:
    return _WORDS.search(_NAMES_IN_BRACES.sub("", text)) is not None


def balanced(text: str) -> bool:
    """Whether no bracket closes that has not been opened in the text: so that ``(1,2),(3,4)`` is no tuple."""
    depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _fold_words(text: str) -> str:
    """The key of a text whose words are spelled in small letters, without the full stops of abbreviations."""
    return key(_WORD_IN_TEXT.sub(lambda match: re.sub(r"[.,]|\sand\s", "", match.group().casefold()), text))


def _strip_brackets(text: str) -> str:
    """``(7)`` as ``7``; a tuple as it is."""
    for _ in range(MAX_BRACKETS):
        if (
            not (text.startswith("(") and text.endswith(")") and balanced(text[1:-1]))
            or len(split_list(text[1:-1])) != 1
        ):
            break
        text = text[1:-1].strip()
    return text


def strip_words(answer: str, reference: str) -> tuple[str, str]:
    """Takes off the words that only one of them has around it, or both alike."""
    (plain_answer, phrase), (plain_reference, reference_phrase) = strip_phrase(answer), strip_phrase(reference)
    if not phrase or not reference_phrase or phrase == reference_phrase:
        answer, reference = plain_answer, plain_reference
    (plain_answer, domain), (plain_reference, reference_domain) = strip_remark(answer), strip_remark(reference)
    if not domain or not reference_domain or domain == reference_domain:
        answer, reference = plain_answer, plain_reference
    (plain_answer, choice), (plain_reference, reference_choice) = split_choice(answer), split_choice(reference)
    if choice and not reference_choice:
        answer = choice if _CHOICE_LETTER.fullmatch(key(reference)) else plain_answer
    elif reference_choice and not choice:
        reference = reference_choice if _CHOICE_LETTER.fullmatch(key(answer)) else plain_reference
    return answer, reference


def _tell_cases_apart(texts: tuple[str, str]) -> tuple[tuple[str], tuple[str]]:
    """Renames capital letters whose small ones are there as well: the parser takes all letters for small ones."""
    small = {
        token for text in texts for token in _COMMAND_OR_LETTER.findall(text) if len(token) == 1 and token.islower()
    }

    def rename(match: re.Match[str]) -> str:
        token = match.group()
        return f"{token.lower()}_{{99}}" if len(token) == 1 and token.isupper() and token.lower() in small else token

    reference, answer = (_COMMAND_OR_LETTER.sub(rename, text) for text in texts)
    return (reference,), (answer,)


def _compare_ratios(answer: str, reference: str) -> str:
    """Of 3:4 and 6:8 or 3/4; where two digits follow the colon, it may be a time of day, which is not reduced."""
    terms: list[str] = []
    for text in (answer, reference):
        if match := _RATIO.fullmatch(text):
            terms += match.groups()
        elif value := read_value(text):
            terms += str(value.value.numerator), str(value.value.denominator)
        else:
            return "different"
    a, b, c, d = terms
    if (a, b) == (c, d):
        return "equal"
    short = max(len(b), len(d)) == 1 and b != "0" != d
    return "equal" if short and Fraction(int(a), int(b)) == Fraction(int(c), int(d)) else "different"


def _compare_chain(answer: str, gold: Value) -> str:
    r"""``\frac{5}{2} = 2.5`` says the same twice; any other chain of equations is no number."""
    sides = [side.strip() for side in answer.split("=")]
    if len(sides) == 3 and split_label(f"{sides[0]}=0", operations=True)[1]:
        del sides[0]
    values = [read_value(side) for side in sides]
    if len(sides) != 2 or key(sides[0]) == key(sides[1]) or any(v is None or v.value != gold.value for v in values):
        return "not_a_number"
    last = values[1]
    return "unevaluated" if last is None or last.unevaluated or last.powers else "equal"


def _compare_values(answer: str, gold: Value) -> str:
    found = read_value(answer)
    if found is None:
        return _compare_chain(answer, gold) if "=" in answer else "not_a_number"
    if found.value != gold.value:
        return "different"
    return "unevaluated" if found.unevaluated and not (gold.unevaluated or gold.powers or gold.division) else "equal"


def compare_one(answer: str, reference: str) -> str | Equivalence:
    """Compares two single answers, tidied."""
    if key(answer) == key(reference):
        return "equal"
    answer, reference = strip_words(answer, reference)
    answer, reference = (unify_words(_strip_brackets(text)) for text in (answer, reference))
    if key(answer) == key(reference):
        return "equal"
    ratios = [unify_words(split_assignment(text)[0]) for text in (answer, reference)]
    if any(_RATIO.fullmatch(text) for text in ratios):
        return _compare_ratios(*ratios)
    answer, unit = split_unit(answer)
    reference, reference_unit = split_unit(reference)
    if not compatible(unit, reference_unit):
        return "different"
    value_of_answer, name = split_assignment(answer)
    value_of_reference, reference_name = split_assignment(reference)
    if name and reference_name and name != reference_name:
        return "different"
    if not RELATION.search(reference):
        value_of_answer = split_label(answer, operations=True)[0]
    elif not RELATION.search(answer):
        value_of_reference = split_label(reference, operations=False)[0]
    value = read_reference(value_of_reference)
    # y = 2x + 1 and 2x - y = -1 are compared as equations; x = 5 is compared with numbers only.
    both_equations = RELATION.search(answer) and RELATION.search(reference)
    if value is not None or not both_equations or (name and reference_name):
        answer, reference = value_of_answer, value_of_reference
    answer, reference = (text.removeprefix(r"\approx").strip() for text in (answer, reference))
    if (rounded := _APPROXIMATION.fullmatch(answer)) and not RELATION.search(rounded.group(1)):
        answer = rounded.group(1)
    if key(answer) == key(reference):
        return "equal"
    if value is not None:
        outcome = _compare_values(answer, value)
        if outcome != "not_a_number" or not (value.powers or value.unevaluated):
            return outcome
    if _fold_words(answer) == _fold_words(reference):
        return "equal"
    if (decimals := _DECIMALS.fullmatch(answer)) and len(decimals.group(1)) > MAX_DECIMALS:
        return "different"
    if _has_words(answer) or _has_words(reference) or _BASE.findall(answer) != _BASE.findall(reference):
        return "different"
    if len(RELATION.findall(answer)) != len(RELATION.findall(reference)):
        return "different"
    if not set(_OPERATION.findall(answer)) <= set(_OPERATION.findall(reference)):
        return "unevaluated"
    return Equivalence(*_tell_cases_apart((reference, answer)))
