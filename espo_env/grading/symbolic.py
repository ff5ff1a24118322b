r"""Comparison of two mathematical answers without a parser, and the question that is left for one.

- :func:`compare`: equal, different, or an :class:`~espo_env.grading.single.Equivalence`.

The rules go by how the *reference* is written: a number asks for a number, a tuple for a tuple of as many elements,
words for the same words. So a copy of the question ("12+7"), an equation ("6=7") or an integral is never right where a
number is asked, whatever it evaluates to. A power may be left standing ("2^{10}" for 1024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from espo_env.grading.assignments import (
    RELATION,
    in_order,
    read_system,
    split_assignment,
    split_label,
    systems_as_tuples,
)
from espo_env.grading.intervals import RealSet, read_set
from espo_env.grading.matrices import Matrix, read_matrix
from espo_env.grading.normalise import clean, key, split_list, tidy
from espo_env.grading.numeric import parse_number
from espo_env.grading.single import Equivalence, balanced, compare_one, read_reference, strip_words
from espo_env.grading.units import compatible, is_measure, split_unit
from espo_env.grading.values import Value, read_value
from espo_env.grading.wording import alternatives

__all__ = ["Equivalence", "compare"]

_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_SIGN = re.compile(r"\\\$|%|percent|\\circ|\u00b0|degree", re.IGNORECASE)
_WHOLE_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\s*\{([^{}]*,[^{}]*)\}")
_CURRENCY = re.compile(r"\\\$")
_PERCENT = re.compile(r"(?:%|percent\s*\}?)\s*\.?\s*\$?\s*$", re.IGNORECASE)
_DEGREES = re.compile(r"(?:\\circ\s*\}?|\u00b0|degrees?\s*\}?)\s*\.?\s*\$?\s*$", re.IGNORECASE)


def _brackets(text: str) -> tuple[str, list[str]]:
    """The brackets around a list ("()", "[)", "{}", ...) and its elements; "" if it stands in none or is no list."""
    plain = text.replace(r"\{", "{").replace(r"\}", "}")
    if len(plain) > 1 and plain[0] + plain[-1] in ("()", "[]", "[)", "(]", "{}") and balanced(plain[1:-1]):
        elements = split_list(plain[1:-1])
        if len(elements) > 1 or plain[0] != "(":  # one element in round brackets is a group
            return plain[0] + plain[-1], elements
    return "", split_list(text)


def _expand_plus_minus(elements: list[str]) -> list[str]:
    expanded = []
    for element in elements:
        if len(_PLUS_MINUS.findall(element)) == 1:
            expanded += [_PLUS_MINUS.sub("+", element), _PLUS_MINUS.sub("-", element)]
        else:
            expanded.append(element)
    return expanded


def _compare_ordered(answers: Sequence[str], references: Sequence[str]) -> str | Equivalence:
    """Compares element by element."""
    if len(answers) != len(references):
        return "different"
    outcomes = [compare_one(a, r) for a, r in zip(answers, references, strict=True)]
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
        same = next((i for i, answer in enumerate(left) if compare_one(answer, reference) == "equal"), None)
        if same is None:
            unmatched.append(reference)
        else:
            del left[same]
    if not unmatched:
        return "equal"
    # Every element needs a partner that only the parser can confirm.
    pairs = [[compare_one(answer, reference) for answer in left] for reference in unmatched]
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
        # [1, 2] is an interval.
        return elements if brackets == "()" or (brackets == "[]" and len(elements) > 2) else None
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
    system, named, bare = (found, answer, reference) if found is not None else (gold, reference, answer)
    assert system is not None
    brackets, elements = _brackets(bare)
    # A list says the same as x=2, y=3, but not as (x,y)=(2,3).
    is_tuple = brackets == "()" or (not brackets and _brackets(split_assignment(named)[0])[0] == "")
    if not is_tuple or len(elements) != len(system):
        return "different"
    values = in_order(system)
    return _compare_ordered(values, elements) if found is not None else _compare_ordered(elements, values)


def _radians(degrees: Value) -> str:
    angle = degrees.value / 180
    return rf"\frac{{{angle.numerator}\pi}}{{{angle.denominator}}}"


def _compare_signs(answer: str, reference: str) -> str | Equivalence | None:
    """Compares numbers of which only one has a percent, currency or degree sign; None if it need not matter."""
    found, unit = split_unit(tidy(answer))
    gold, reference_unit = split_unit(tidy(reference))
    pairs = ((answer, reference_unit), (reference, unit))
    if any(_CURRENCY.search(text) and not compatible(other, "dollar") for text, other in pairs):
        return "different"
    gold_value = read_reference(gold)
    if _DEGREES.search(reference) and gold_value is not None and r"\pi" in found:
        return Equivalence((_radians(gold_value),), (found,))
    found_value = read_value(found)
    if _DEGREES.search(answer) and found_value is not None and r"\pi" in gold:
        return Equivalence((gold,), (_radians(found_value),))
    if gold_value is None:
        return None
    if any(is_measure(other) and (_PERCENT.search(text) or _DEGREES.search(text)) for text, other in pairs):
        return "different"
    percent, reference_percent = (_PERCENT.search(text) is not None for text in (answer, reference))
    if percent == reference_percent or found_value is None or found_value.unevaluated:
        return None
    share = found_value.value * (Fraction(1, 100) if percent else 100)
    if share == gold_value.value:
        return "equal"
    return "different" if percent and abs(gold_value.value) < 1 else None


def _compare_literals(answer: str, reference: str) -> str | None:
    """Compares what is a number as it stands, the usual case; None if it is not, or a percent sign needs a look."""
    gold = parse_number(reference)
    found = None if gold is None or "%" in answer or "%" in reference else parse_number(answer)
    if gold is None or found is None:
        return None
    if found.value != gold.value:
        return "different"
    return "unevaluated" if found.division and not gold.division and found.value.denominator == 1 else "equal"


def compare(answer: str, reference: str) -> str | Equivalence:
    """Compares a final answer with the reference.

    Args:
        answer: The answer as it was extracted, short enough and not nested too deeply.
        reference: The right answer.

    Returns:
        One of the reasons ``"equal"``, ``"different"``, ``"not_a_number"`` and ``"unevaluated"``, or the
        :class:`Equivalence` that a parser has to decide.
    """
    if answer == reference:
        return "equal"
    by_literal = _compare_literals(answer, reference)
    if by_literal is not None:
        return by_literal
    tidied, gold = tidy(answer), tidy(reference)
    if _SIGN.search(answer) or _SIGN.search(reference):
        by_signs = _compare_signs(answer, reference)
        if by_signs is not None:
            return by_signs
    if key(tidied) == key(gold):
        return "equal"
    sides = re.split(r"=|\\approx", gold)
    if len(sides) > 1 and all(read_value(side.strip()) for side in sides):  # 0.56 = 56\%
        return "equal" if any(compare_one(tidied, side.strip()) == "equal" for side in sides) else "different"
    bare_reference, name = split_assignment(gold)
    if read_reference(split_unit(bare_reference)[0]) is not None:
        return compare_one(tidied, gold)
    found_set, gold_set = read_set(clean(answer)), read_set(clean(reference))
    if found_set is not None and gold_set is not None and not (found_set.plain and gold_set.plain):
        return _compare_sets(found_set, gold_set)
    tidied, gold = systems_as_tuples(clean(answer)) or tidied, systems_as_tuples(clean(reference)) or gold
    tidied, gold = strip_words(tidied, gold)
    tidied, gold = (_WHOLE_TEXT.sub(r"\1", text) if _WHOLE_TEXT.fullmatch(text) else text for text in (tidied, gold))
    by_name = None if alternatives(answer) or alternatives(reference) else _compare_systems(tidied, gold)
    if by_name is not None:
        return by_name
    (bare_reference, name), (bare_answer, answer_name) = split_label(gold, False), split_label(tidied, False)
    if name and answer_name and name != answer_name and not RELATION.search(name + answer_name):
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
        return "different" if len(answers) > 1 or answer_brackets else compare_one(tidied, gold)
    if len(references) == 1 and answer_brackets == "()":  # the one element is a tuple
        answer_brackets, answers = "", [bare_answer]
    same_kind = answer_brackets in ("", "{}") if unordered else answer_brackets == brackets
    if not same_kind or len(answers) != len(references):
        return "different"
    return (_compare_unordered if unordered else _compare_ordered)(answers, references)
