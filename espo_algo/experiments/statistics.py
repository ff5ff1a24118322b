"""Statistics of runs over seeds; plain numbers, no framework.

- :class:`Interval`: a mean over seeds with its 95 % interval.
- :func:`interval`, :func:`paired_interval`: of numbers, and of the differences of two runs of each seed.
- :func:`saving`: the share of tokens or seconds saved.
- :func:`tokens_to_accuracy`: the rollout tokens after which an accuracy is reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

__all__ = ["Interval", "interval", "paired_interval", "saving", "tokens_to_accuracy"]

_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % interval; NaN with a single seed.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Mean with Student's 95 % interval, ``n - 1`` degrees of freedom.

    Raises:
        ValueError: If there are no values.

    Example:
        >>> [round(number, 3) for number in interval([1.0, 2.0, 3.0])]  # 2 ± 4.303 / sqrt(3)
        [2.0, -0.484, 4.484]
    """
    if not len(values):
        raise ValueError("expected a value or more, got none")
    numbers = np.asarray(values, float)
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Interval(mean, math.nan, math.nan)
    half = student.ppf((1 + _CONFIDENCE) / 2, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers))
    return Interval(mean, float(mean - half), float(mean + half))


def paired_interval(left: Sequence[float], right: Sequence[float]) -> Interval:
    """:func:`interval` of ``left - right``, pair by pair.

    Raises:
        ValueError: If there are not as many of the one as of the other, or none.
    """
    if len(left) != len(right):
        raise ValueError(f"expected as many values on both sides, got {len(left)} and {len(right)}")
    return interval([a - b for a, b in zip(left, right, strict=True)])


def saving(spent: float, baseline: float) -> float:
    """Share saved against a baseline; negative where more was spent."""
    return 1 - spent / baseline


def tokens_to_accuracy(tokens: Sequence[float], accuracies: Sequence[float], target: float) -> float | None:
    """Tokens at which measured accuracies first reach a target, linear between two measurements.

    Args:
        tokens: Rollout tokens at each measurement, rising.
        accuracies: Accuracy at each.
        target: What is to be reached.

    Returns:
        None if it is never reached.

    Example:
        >>> tokens_to_accuracy([0, 10, 20], [0.4, 0.5, 0.7], 0.6)
        15.0
    """
    previous: tuple[float, float] | None = None
    for spent, accuracy in zip(tokens, accuracies, strict=True):
        if accuracy >= target:
            if previous is None:
                return float(spent)
            before, low = previous
            return before + (spent - before) * (target - low) / (accuracy - low)
        previous = (spent, accuracy)
    return None
