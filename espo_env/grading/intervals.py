r"""Sets of real numbers, written as intervals or as inequalities.

- :class:`Interval`, :class:`RealSet`: what is read.
- :func:`read_set`: reads ``(-\infty,-1)\cup[3,\infty)``, ``x<-1 \text{ or } x\ge3``, ``\{x \mid 2<x<3\}``, ``x\ne3``,
  ``\mathbb{R}\setminus\{3\}``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from espo_env.grading.normalise import split_list
from espo_env.grading.values import read_value

__all__ = ["Interval", "RealSet", "read_set"]

_LOWEST, _HIGHEST = r"-\infty", r"\infty"


class Interval(NamedTuple):
    r"""An interval; its ends are as they are written, infinite ones ``-\infty`` and ``\infty``."""

    low: str
    high: str
    low_closed: bool
    high_closed: bool


class RealSet(NamedTuple):
    """A union of intervals.

    Attributes:
        intervals: From the lowest to the highest, as far as the ends are numbers.
        variable: The variable that they were written for, empty if none.
        plain: Whether it is a single pair of finite ends in brackets of one kind, which may be a point as well.
    """

    intervals: tuple[Interval, ...]
    variable: str = ""
    plain: bool = False


_VARIABLE = r"(?:[a-zA-Z]|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|varphi))(?:_\w|_\{\w+\})?"
_IS_VARIABLE = re.compile(_VARIABLE)
_MEMBER = re.compile(rf"({_VARIABLE})\s*\\in(?![a-zA-Z])\s*(.+)", re.DOTALL)
_BUILDER = re.compile(
    rf"\\?\{{\s*({_VARIABLE})\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?(?:\\mid(?![a-zA-Z])|\||:|\\colon)\s*(.+?)\s*\\?\}}",
    re.DOTALL,
)
_ALL = re.compile(r"\\mathbb\{R\}|(?:\\text\{\s*)?all\s+real(?:\s*numbers|s)?(?:\s+[a-z])?\s*\}?", re.IGNORECASE)
_WITHOUT = re.compile(r"\\mathbb\{R\}\s*(?:\\setminus|-)\s*\\?\{([^{}]*?)\\?\}")
_BRACKETED = re.compile(r"([(\[\]])\s*(.+?)\s*([)\]\[])", re.DOTALL)
_ABSOLUTE = re.compile(rf"\|\s*({_VARIABLE})\s*\|\s*(<|\\le(?![a-zA-Z]))\s*(.+)", re.DOTALL)
_RELATION = re.compile(r"(<|>|\\(?:le|ge|ne)(?![a-zA-Z]))")
_OTHER_RELATION = re.compile(r"=|\\(?:in|cup|cap|mid|approx|equiv|to|pm)(?![a-zA-Z])|\|")
_TEXT_WORD = r"(?:\\(?:text|textrm|mathrm|mbox)\s*\{{[\s,]*{0}\s*\}}|(?<=\s){0}(?=\s))"
_OR = re.compile(rf",?\s*(?:{_TEXT_WORD.format('or')}|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])|\\cup(?![a-zA-Z]))\s*")
_AND = re.compile(rf",?\s*(?:{_TEXT_WORD.format('and')}|\\land(?![a-zA-Z])|\\wedge(?![a-zA-Z]))\s*")


def _number(end: str) -> Fraction | None:
    value = read_value(end)
    return None if value is None else value.value


def _is_empty(interval: Interval) -> bool:
    """Whether it is known to hold less than two numbers."""
    low, high = _number(interval.low), _number(interval.high)
    return low is not None and high is not None and low >= high


def _read_interval(text: str) -> tuple[Interval, bool] | None:
    """An interval in brackets, and whether it could be a point or pair."""
    match = _BRACKETED.fullmatch(text)
    if match is None:
        return None
    left, inside, right = match.groups()
    ends = split_list(inside)
    if len(ends) != 2 or ";" in inside:
        return None
    low, high = (end.replace(" ", "") if "infty" in end else end for end in ends)
    interval = Interval(low, high, left == "[", right == "]")
    infinite = low == _LOWEST or high == _HIGHEST
    if ("infty" in low and low != _LOWEST) or ("infty" in high and high != _HIGHEST) or _is_empty(interval):
        return None
    closed = (left == "[" and low == _LOWEST) or (right == "]" and high == _HIGHEST)
    return None if closed else (interval, not infinite and left + right in ("()", "[]"))


def _read_bounds(text: str) -> tuple[str, list[Interval]] | None:
    """A chain of inequalities about one variable, and the intervals that it leaves."""
    if match := _ABSOLUTE.fullmatch(text):
        variable, relation, bound = match.groups()
        if (number := _number(bound)) is None or number <= 0:
            return None
        closed = relation != "<"
        return variable, [Interval(f"-{bound}", bound, closed, closed)]
    parts = [part.strip() for part in _RELATION.split(text)]
    sides, relations = parts[::2], parts[1::2]
    if not all(sides) or any(_OTHER_RELATION.search(side) or "," in side for side in sides):
        return None
    if len(relations) == 1:
        if _IS_VARIABLE.fullmatch(sides[0]) and not _IS_VARIABLE.fullmatch(sides[1]):
            variable, bound, relation = sides[0], sides[1], relations[0]
        elif _IS_VARIABLE.fullmatch(sides[1]) and not _IS_VARIABLE.fullmatch(sides[0]):
            flipped = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
            variable, bound, relation = sides[1], sides[0], flipped.get(relations[0], relations[0])
        else:
            return None
        if relation == r"\ne":
            return variable, [Interval(_LOWEST, bound, False, False), Interval(bound, _HIGHEST, False, False)]
        if relation in (">", r"\ge"):
            return variable, [Interval(bound, _HIGHEST, relation != ">", False)]
        return variable, [Interval(_LOWEST, bound, False, relation != "<")]
    if len(relations) != 2 or not _IS_VARIABLE.fullmatch(sides[1]):
        return None
    if not ({*relations} <= {"<", r"\le"} or {*relations} <= {">", r"\ge"}):
        return None
    (low, high), (first, second) = (sides[0], sides[2]), relations
    if first in (">", r"\ge"):
        low, high, first, second = high, low, second, first
    closed_low, closed_high = first in (r"\le", r"\ge"), second in (r"\le", r"\ge")
    # -\infty < x < 3 is fine, and so is -\infty \le x.
    return sides[1], [Interval(low, high, closed_low and low != _LOWEST, closed_high and high != _HIGHEST)]


def _intersect(first: Interval, second: Interval) -> Interval | None:
    """What a lower and an upper bound leave; None if that is nothing, or they are something else."""
    low, high = (first, second) if first.high == _HIGHEST else (second, first)
    if low.high != _HIGHEST or high.low != _LOWEST or low.low == _LOWEST or high.high == _HIGHEST:
        return None
    both = Interval(low.low, high.high, low.low_closed, high.high_closed)
    return None if _is_empty(both) else both


def _unite(intervals: list[Interval]) -> tuple[Interval, ...]:
    """Sorted and joined where they touch; in the order they came in if an end is no number."""

    def low(interval: Interval) -> Fraction | None:
        return Fraction(-1) if interval.low == _LOWEST else _number(interval.low)

    def high(interval: Interval) -> Fraction | None:
        return Fraction(1) if interval.high == _HIGHEST else _number(interval.high)

    if len(intervals) < 2:
        return tuple(intervals)
    if any(low(interval) is None or high(interval) is None for interval in intervals):
        return tuple(sorted(intervals, key=lambda interval: (interval.low != _LOWEST, interval.high == _HIGHEST)))
    intervals = sorted(
        intervals, key=lambda interval: (interval.low != _LOWEST, low(interval), not interval.low_closed)
    )
    united = [intervals[0]]
    for interval in intervals[1:]:
        last = united[-1]
        if last.high == _HIGHEST:
            continue
        if interval.low != _LOWEST:
            end, start = high(last), low(interval)
            assert end is not None
            assert start is not None
            if start > end or (start == end and not (last.high_closed or interval.low_closed)):
                united.append(interval)
                continue
        wider = max(last, interval, key=lambda one: (one.high == _HIGHEST, high(one), one.high_closed))
        united[-1] = last._replace(high=wider.high, high_closed=wider.high_closed)
    return tuple(united)


def _read_part(text: str) -> tuple[str, list[Interval], bool] | None:
    """One member of a union: its variable, its intervals, and whether it could be a pair."""
    if interval := _read_interval(text):
        return "", [interval[0]], interval[1]
    elements = _AND.split(text)
    if len(elements) == 1:
        elements = split_list(text)
    if len(elements) not in (1, 2) or any(not _RELATION.search(element) for element in elements):
        return None
    bounds = [_read_bounds(element) for element in elements]
    if len(bounds) == 1:
        return None if bounds[0] is None else (*bounds[0], False)
    first, second = bounds
    if first is None or second is None or first[0] != second[0] or len(first[1]) + len(second[1]) != 2:
        return None
    both = _intersect(first[1][0], second[1][0])
    if both is not None:
        return first[0], [both], False
    # With a comma between them, bounds that exclude each other are alternatives.
    return None if _AND.search(text) else (first[0], [first[1][0], second[1][0]], False)


def read_set(text: str) -> RealSet | None:
    r"""Reads a set of real numbers.

    Args:
        text: The answer, as :func:`~espo_env.grading.normalise.clean` returned it.

    Returns:
        The set; None if the text is none, or one that is empty or ill-formed.
    """
    variable = ""
    if match := _BUILDER.fullmatch(text) or _MEMBER.fullmatch(text):
        variable, text = match.groups()
    if _ALL.fullmatch(text):
        return RealSet((Interval(_LOWEST, _HIGHEST, False, False),), variable)
    if match := _WITHOUT.fullmatch(text):
        points = split_list(match.group(1))
        numbers = [_number(point) for point in points]
        if len(points) > 1:
            if any(number is None for number in numbers) or len(set(numbers)) < len(numbers):
                return None
            points = [point for _, point in sorted(zip(numbers, points, strict=True), key=lambda pair: pair[0] or 0)]
        ends = [_LOWEST, *points, _HIGHEST]
        return RealSet(tuple(Interval(a, b, False, False) for a, b in pairwise(ends)), variable)
    intervals: list[Interval] = []
    plain = False
    parts = _OR.split(text)
    for part in parts:
        read = _read_part(part.strip())
        if read is None:
            return None
        name, members, plain = read
        if name and variable and name != variable:
            return None
        variable = variable or name
        intervals += members
    if any(_is_empty(interval) for interval in intervals):
        return None
    return RealSet(_unite(intervals), variable, plain and len(parts) == 1 and not variable)
