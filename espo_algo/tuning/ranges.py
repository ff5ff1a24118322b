"""Ranges in the place of values, in a configuration's sections.

- :class:`Range`: where it stands, and what it is drawn from.
- :func:`find_ranges`: those of a configuration.
- :func:`with_values`: the configuration with a value in each one's place.
- :data:`KINDS`: what a range may be, by the names of ``ray.tune``'s functions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Range", "find_ranges", "with_values"]

KINDS = ("uniform", "loguniform", "randint", "choice", "grid_search")
"""Numbers ``[low, high]``, evenly or in their logarithm; whole ones without ``high``; one of a list, drawn or each."""

_LISTS = ("choice", "grid_search")


@dataclass(frozen=True)
class Range:
    """A range in the place of a value.

    Attributes:
        place: Section and keys, such as ``("training", "lr")``.
        kind: One of :data:`KINDS`.
        values: Low and high end, or all choices.
    """

    place: tuple[str, ...]
    kind: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """``training.lr``."""
        return ".".join(self.place)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """What has to be allowed, if all of the range is: both ends, or every choice."""
        return (self.values[0], self.values[1] - 1) if self.kind == "randint" else self.values

    def domain(self) -> Any:
        """The same as Ray Tune has it."""
        from ray import tune

        draw = getattr(tune, self.kind)
        return draw([*self.values]) if self.kind in _LISTS else draw(*self.values)

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {list(self.values)}"


def find_ranges(content: Mapping[str, Any], place: tuple[str, ...] = ()) -> list[Range]:
    """The ranges of a configuration, in their order.

    A range is a mapping with one key, which is one of :data:`KINDS`: ``lr: {loguniform: [1e-5, 1e-3]}``.

    Raises:
        ValueError: If a range has no ends, or no choices, or they are the wrong way round.
    """
    found = []
    for key, value in content.items():
        if not isinstance(value, Mapping):
            continue
        where = (*place, str(key))
        if place and len(value) == 1 and (kind := next(iter(value))) in KINDS:
            found.append(_read_range(where, kind, value[kind]))
        else:
            found += find_ranges(value, where)
    return found


def with_values(content: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration with values in the place of ranges.

    Args:
        content: The configuration.
        values: Name of a range (:attr:`Range.name`) -> its value.
    """
    filled = copy.deepcopy(dict(content))
    for found in find_ranges(content):
        *sections, key = found.place
        inner = filled
        for section in sections:
            inner = inner[section]
        inner[key] = values[found.name]
    return filled


def _read_range(place: tuple[str, ...], kind: str, values: Any) -> Range:
    name = f"{'.'.join(place)}: {kind}"
    if kind in _LISTS:
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name}: expected a list of choices, got {values!r}")
        return Range(place, kind, tuple(values))
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if not (numbers and len(values) == 2 and values[0] < values[1]):
        raise ValueError(f"{name}: expected two numbers [low, high] with low < high, got {values!r}")
    if kind == "loguniform" and values[0] <= 0:
        raise ValueError(f"{name}: expected a low end > 0, got {values[0]!r}")
    if kind == "randint" and not all(isinstance(value, int) for value in values):
        raise ValueError(f"{name}: expected whole numbers, got {values!r}")
    return Range(place, kind, tuple(values))
