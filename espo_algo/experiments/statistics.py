"""Statistics of runs over seeds, or of one over problems; plain numbers, no framework.

- :class:`Interval`: a mean with its 95 % interval.
- :func:`interval`, :func:`paired_interval`: of numbers, and of the differences of two runs seed by seed.
- :func:`saving`: the share of tokens or seconds saved.
- :func:`tokens_to_accuracy`, :func:`tokens_needed`: the rollout tokens after which an accuracy is reached, and their
  ratio to a baseline's. :func:`tokens_needed_interval`: the same of a single seed, with its interval over problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

__all__ = [
    "Interval",
    "interval",
    "paired_interval",
    "saving",
    "tokens_needed",
    "tokens_needed_interval",
    "tokens_to_accuracy",
]

_CONFIDENCE = 0.95
_RESAMPLES = 1000


class Interval(NamedTuple):
    """A mean over seeds or problems.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % interval; NaN with a single value.
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


def tokens_needed(
    tokens: Sequence[float],
    accuracies: Sequence[float],
    baseline_tokens: Sequence[float],
    baseline_accuracies: Sequence[float],
) -> float | None:
    """Tokens to a baseline's last accuracy, over those that the baseline itself needed; None if it is never reached.

    Args:
        tokens: Rollout tokens at each measurement of a run, rising.
        accuracies: Accuracy at each.
        baseline_tokens: The same of the baseline.
        baseline_accuracies: The same of the baseline; the last one is the target.
    """
    target = baseline_accuracies[-1]
    own = tokens_to_accuracy(tokens, accuracies, target)
    baseline = tokens_to_accuracy(baseline_tokens, baseline_accuracies, target)
    assert baseline is not None  # its last measurement is the target
    return None if own is None else own / baseline


def tokens_needed_interval(
    tokens: Sequence[float],
    correct: ArrayLike,
    baseline_tokens: Sequence[float],
    baseline_correct: ArrayLike,
    seed: int = 0,
) -> Interval:
    """:func:`tokens_needed` of a single seed, with a bootstrap interval over the choice of problems.

    Args:
        tokens: Rollout tokens at each of ``m`` measurements, rising.
        correct: Which of ``n`` problems were right at each, shape (m, n).
        baseline_tokens: The same of the baseline.
        baseline_correct: The same of the baseline, on the same problems.
        seed: Of the resampling.

    Returns:
        Infinite where the accuracy is never reached.
    """
    own, baseline = np.asarray(correct, float), np.asarray(baseline_correct, float)
    rng = np.random.default_rng(seed)
    everything = np.arange(own.shape[1])
    ratios = []
    for chosen in (everything, *rng.integers(len(everything), size=(_RESAMPLES, len(everything)))):
        ratio = tokens_needed(
            tokens, own[:, chosen].mean(1).tolist(), baseline_tokens, baseline[:, chosen].mean(1).tolist()
        )
        ratios.append(math.inf if ratio is None else ratio)
    edge = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(ratios[1:], [edge, 1 - edge], method="nearest")
    return Interval(ratios[0], float(low), float(high))
