r"""What can be said about two mathematical answers without a parser, and what has to be asked of one.

- :class:`Equivalence`: the question that is left for the parser.
- :func:`compare`: equal, different, or an :class:`Equivalence`.

The rules go by how the *reference* is written: a number asks for a number, a tuple for a tuple of as many elements,
words for the same words. So a copy of the question ("12+7"), an equation ("6=7") or an integral is never right where a
number is asked, whatever it evaluates to. A power may be left standing ("2^{10}" for 1024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from espo_env.grading.assignments import RELATION, in_order, read_system, split_assignment, split_label
from espo_env.grading.intervals import RealSet, read_set
from espo_env.grading.matrices import Matrix, read_matrix
from espo_env.grading.normalise import clean, key, split_list, tidy
from espo_env.grading.units import compatible, split_unit
from espo_env.grading.values import MAX_BRACKETS, Value, read_value
from espo_env.grading.wording import alternatives, split_choice, strip_phrase, strip_remark, unify_words

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


_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
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
_WHOLE_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\s*\{([^{}]*,[^{}]*)\}")
_CHOICE_LETTER = re.compile(r"[A-H]")
_COMMAND_OR_LETTER = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\}|\\[a-zA-Z]+|[a-zA-Z]")
_RATIO = re.compile(r"([0-9]+):([0-9]+)")
_APPROXIMATION = re.compile(r"(.+?)\s*\\approx(?![a-zA-Z])\s*-?[0-9.,]+")
_SIGN = re.compile(r"\\\$|%|percent|\\circ|\u00b0|degree", re.IGNORECASE)
_CURRENCY = re.compile(r"\\\$")
_PERCENT = re.compile(r"(?:%|percent\s*\}?)\s*\.?\s*\$?\s*$", re.IGNORECASE)
_DEGREES = re.compile(r"(?:\\circ\s*\}?|\u00b0|degrees?\s*\}?)\s*\.?\s*\$?\s*$", re.IGNORECASE)


def _read_reference(text: str) -> Value | None:
    """Value of a reference; (100,101) is a pair and no number."""
    return None if text.startswith("(") and "," in text else read_value(text)


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


def _strip_brackets(text: str) -> str:
    """``(7)`` as ``7``; a tuple as it is."""
    for _ in range(MAX_BRACKETS):
        if (
            not (text.startswith("(") and text.endswith(")") and _balanced(text[1:-1]))
            or len(split_list(text[1:-1])) != 1
        ):
            break
        text = text[1:-1].strip()
    return text


def _strip_words(answer: str, reference: str) -> tuple[str, str]:
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


def _compare_one(answer: str, reference: str) -> str | Equivalence:
    """Compares two single answers, tidied."""
    if key(answer) == key(reference):
        return "equal"
    answer, reference = _strip_words(answer, reference)
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
    value = _read_reference(value_of_reference)
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
    if _has_words(answer) or _has_words(reference) or _BASE.findall(answer) != _BASE.findall(reference):
        return "different"
    if len(RELATION.findall(answer)) != len(RELATION.findall(reference)):
        return "different"
    if not set(_OPERATION.findall(answer)) <= set(_OPERATION.findall(reference)):
        return "unevaluated"
    return Equivalence(*_tell_cases_apart((reference, answer)))


def _compare_ordered(answers: Sequence[str], references: Sequence[str]) -> str | Equivalence:
    """Compares element by element."""
    if len(answers) != len(references):
        return "different"
    outcomes = [_compare_one(a, r) for a, r in zip(answers, references, strict=True)]
    wrong = next((outcome for outcome in outcomes if isinstance(outcome, str) and outcome != "equal"), None)
    if wrong is not None:
        return wrong
    asked = [outcome for outcome in outcomes if isinstance(outcome, Equivalence)]
    if not asked:
        return "equal"
    return Equivalence(tuple(q.references[0] for q in asked), tuple(q.answers[0] for q in asked))


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


def _compare_sets(found: RealSet, gold: RealSet) -> str | Equivalence:
    """Compares unions of intervals, however they are written."""
    if found.variable and gold.variable and found.variable != gold.variable:
        return "different"
    kinds = [[(i.low_closed, i.high_closed) for i in one.intervals] for one in (found, gold)]
    if kinds[0] != kinds[1]:
        return "different"
    return _compare_ordered(
        [end for i in found.intervals for end in (i.low, i.high)],
        [end for i in gold.intervals for end in (i.low, i.high)],
    )


def _vector(matrix: Matrix | None, text: str) -> list[str] | None:
    """Elements of a row, of a column or of a tuple."""
    if matrix is None:
        brackets, elements = _brackets(text)
        return elements if brackets == "()" else None
    return matrix.entries if 1 in matrix.shape and not matrix.bars and len(matrix.entries) > 1 else None


def _compare_matrices(answer: str, reference: str) -> str | Equivalence | None:
    """Compares matrices, vectors and tuples; None if neither is a matrix, or one is for the parser."""
    found, gold = read_matrix(answer), read_matrix(reference)
    if found is not None and gold is not None:
        if found.shape != gold.shape or found.bars != gold.bars:
            return "different"
        outcome = _compare_ordered(found.entries, gold.entries)
        # The parser tells an entry that is left to work out from a wrong one.
        return None if outcome == "not_a_number" and "=" not in answer else outcome
    if found is None and gold is None:
        return None
    vector, gold_vector = _vector(found, answer), _vector(gold, reference)
    if vector is not None and gold_vector is not None:
        return _compare_ordered(vector, gold_vector)
    return None if r"\begin" in answer and r"\begin" in reference else "different"


def _compare_systems(answer: str, reference: str) -> str | Equivalence | None:
    """Compares x=2, y=3 with the same or with (2,3); None if neither gives values by name."""
    found, gold = read_system(answer), read_system(reference)
    if found is None and gold is None:
        return None
    if found is not None and gold is not None:
        if set(found) != set(gold):
            return "different"
        return _compare_ordered([found[name] for name in gold], list(gold.values()))
    if gold is not None:
        brackets, elements = _brackets(answer)
        return _compare_ordered(elements, in_order(gold)) if brackets in ("", "()") else "different"
    assert found is not None
    brackets, elements = _brackets(reference)
    return _compare_ordered(in_order(found), elements) if brackets in ("", "()") else "different"


def _compare_signs(answer: str, reference: str) -> str | Equivalence | None:
    """Compares numbers of which only one has a percent, currency or degree sign; None if it need not matter."""
    found, unit = split_unit(tidy(answer))
    gold, reference_unit = split_unit(tidy(reference))
    for text, other in ((answer, reference_unit), (reference, unit)):
        if _CURRENCY.search(text) and other and not compatible(other, "dollar"):
            return "different"
    gold_value = _read_reference(gold)
    if gold_value is None:
        return None
    if _DEGREES.search(reference) and r"\pi" in found and not _DEGREES.search(answer):
        return Equivalence((rf"\frac{{{gold_value.value}\pi}}{{180}}",), (found,))
    percent, reference_percent = (_PERCENT.search(text) is not None for text in (answer, reference))
    found_value = read_value(found) if percent != reference_percent else None
    if found_value is None or found_value.unevaluated:
        return None
    share = found_value.value * (Fraction(1, 100) if percent else 100)
    if share == gold_value.value:
        return "equal"
    return "different" if percent and abs(gold_value.value) < 1 else None


def compare(answer: str, reference: str) -> str | Equivalence:
    """Compares a final answer with the reference.

    Args:
        answer: The answer as it was extracted, short enough and not nested too deeply.
        reference: The right answer.

    Returns:
        One of the reasons ``"equal"``, ``"different"``, ``"not_a_number"`` and ``"unevaluated"``, or the
        :class:`Equivalence` that a parser has to decide.
    """
    tidied, gold = tidy(answer), tidy(reference)
    if _SIGN.search(answer) or _SIGN.search(reference):
        by_signs = _compare_signs(answer, reference)
        if by_signs is not None:
            return by_signs
    if key(tidied) == key(gold):
        return "equal"
    sides = re.split(r"=|\\approx", gold)
    if len(sides) > 1 and all(read_value(side.strip()) for side in sides):  # 0.56 = 56\%
        return "equal" if any(_compare_one(tidied, side.strip()) == "equal" for side in sides) else "different"
    bare_reference, name = split_assignment(gold)
    if _read_reference(split_unit(bare_reference)[0]) is not None:
        return _compare_one(tidied, gold)
    found_set, gold_set = read_set(clean(answer)), read_set(clean(reference))
    if found_set is not None and gold_set is not None and not (found_set.plain and gold_set.plain):
        return _compare_sets(found_set, gold_set)
    tidied, gold = _strip_words(tidied, gold)
    tidied, gold = (_WHOLE_TEXT.sub(r"\1", text) if _WHOLE_TEXT.fullmatch(text) else text for text in (tidied, gold))
    by_name = None if alternatives(answer) or alternatives(reference) else _compare_systems(tidied, gold)
    if by_name is not None:
        return by_name
    bare_reference, name = split_assignment(gold)
    bare_answer, answer_name = split_assignment(tidied)
    if name and answer_name and name != answer_name:
        return "different"
    by_entry = _compare_matrices(bare_answer, bare_reference)
    if by_entry is not None:
        return by_entry
    brackets, references = _brackets(bare_reference)
    answer_brackets, answers = _brackets(bare_answer)
    unordered = brackets in ("", "{}")
    if unordered:
        answers, references = _expand_plus_minus(answers), _expand_plus_minus(references)
    if len(references) == 1 and not brackets:
        return "different" if len(answers) > 1 or answer_brackets else _compare_one(tidied, gold)
    same_kind = answer_brackets in ("", "{}") if unordered else answer_brackets == brackets
    if not same_kind or len(answers) != len(references):
        return "different"
    return (_compare_unordered if unordered else _compare_ordered)(answers, references)
