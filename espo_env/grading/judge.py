"""Grading as far as it goes without a parser and without another process.

- :class:`Grade`: right or not, the answer that was found, and why.
- :func:`check_grade`, :class:`InvalidGrade`: refuses what a task gives back that is no verdict.
- :class:`Undecided`: what is left for a parser.
- :func:`judge`: the grade, or an :class:`Undecided`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from espo_env.grading.extraction import MAX_ANSWER_CHARS, MAX_DEPTH, extract_answer, nesting_depth
from espo_env.grading.normalise import key, tidy
from espo_env.grading.numeric import Number, parse_number
from espo_env.grading.symbolic import Equivalence, compare

__all__ = ["Grade", "InvalidGrade", "Kind", "Undecided", "check_grade", "judge"]

Kind = Literal["numeric", "symbolic"]
"""``"numeric"``: one number literal, exactly equal. ``"symbolic"``: any mathematical answer."""


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict.

    Attributes:
        correct: Whether the answer is right; a task of one's own may give part of a reward, a number in [0, 1].
        answer: The answer that was found in the response, None if there was none.
        reason: One word on how the verdict came about. Right: ``"equal"``. Wrong: ``"different"``, ``"no_answer"``,
            ``"too_long"``, ``"too_deep"`` (nested brackets), ``"not_a_number"``, ``"unevaluated"`` (an operation that
            was left to do), ``"copied"`` (an expression out of the question), ``"unparsable"``. Undecided, and
            counted as wrong: ``"timeout"``, ``"memory"``, ``"crash"``, ``"unparsable_reference"``.
    """

    correct: bool | float
    answer: str | None
    reason: str


class InvalidGrade(ValueError):
    """A task's grader has given back something that is no verdict."""


def check_grade(grade: Any) -> Grade:
    """The grade, with 1 and 0 of any kind as True and False.

    One reward that is not finite would spread over a whole batch when advantages are whitened.

    Raises:
        InvalidGrade: If it is no :class:`Grade`, or its ``correct`` is no number in [0, 1].
    """
    if not isinstance(grade, Grade):
        raise InvalidGrade(f"expected a Grade, got {grade!r}")
    correct = grade.correct
    if not (isinstance(correct, Real | np.bool_) and 0 <= correct <= 1):  # NaN is not, either
        raise InvalidGrade(f"expected a grade in [0, 1], got {correct!r}")
    if isinstance(correct, bool):
        return grade
    return replace(grade, correct=bool(correct) if correct in (0, 1) else float(correct))


class Undecided(NamedTuple):
    """An answer that only a parser can compare with the reference."""

    answer: str
    equivalence: Equivalence


_EXPRESSION = re.compile(r"[-+*/^]|\\(?:frac|cdot|times|binom|sqrt)")
_POWER = re.compile(r"[0-9]+\s*(?:\^|\*\*)\s*(?:\{\s*-?[0-9]+\s*\}|-?[0-9]+)")


def _compare_numbers(answer: str, gold: Number) -> str:
    number = parse_number(answer)
    if number is None:
        return "not_a_number"
    if number.value != gold.value:
        return "different"
    # A division that comes out even was copied from the question, not worked out; 2/4 for 1/2 is let through.
    return "unevaluated" if number.division and not gold.division and number.value.denominator == 1 else "equal"


def _copied_powers(answer: str, reference: str, question: str) -> bool:
    """Whether a number is given by powers that all stand in the question, which may have asked for their value."""
    powers = _POWER.findall(tidy(answer))
    if not powers or _POWER.search(tidy(reference)):
        return False
    asked = key(tidy(question))
    return all(key(power) in asked for power in powers)


def judge(response_text: str, reference: str, kind: Kind, question: str = "") -> Grade | Undecided:
    """Grades as far as that goes without a parser.

    Args:
        response_text: What the policy wrote.
        reference: The right answer.
        kind: How to compare.
        question: The problem, so that an expression copied out of it does not pass for its answer.

    Raises:
        TypeError: If the reference is no string (None, where it is missing).
        ValueError: If the kind is unknown, the reference is empty, or not a number where one is needed.
    """
    if kind not in ("numeric", "symbolic"):
        raise ValueError(f"expected kind 'numeric' or 'symbolic', got {kind!r}")
    if not isinstance(reference, str):
        raise TypeError(f"expected a reference answer as a string, got {reference!r}")
    gold = parse_number(reference) if kind == "numeric" else None
    if kind == "numeric" and gold is None:
        raise ValueError(f"expected a number as the reference of a numeric grade, got {reference!r}")
    if not reference.strip():
        raise ValueError(f"expected a reference answer, got {reference!r}")
    answer = extract_answer(response_text)
    if answer is None:
        return Grade(False, None, "no_answer")
    if len(answer) > MAX_ANSWER_CHARS:
        return Grade(False, answer[:MAX_ANSWER_CHARS], "too_long")
    if nesting_depth(answer) > MAX_DEPTH:
        return Grade(False, answer, "too_deep")
    outcome = compare(answer, reference) if gold is None else _compare_numbers(answer, gold)
    if isinstance(outcome, Equivalence):
        written = key(tidy(answer))
        if not (question and _EXPRESSION.search(written) and written in key(tidy(question))):
            return Undecided(answer, outcome)
        outcome = "copied"
    elif outcome == "equal" and question and _copied_powers(answer, reference, question):
        outcome = "copied"
    return Grade(outcome == "equal", answer, outcome)
