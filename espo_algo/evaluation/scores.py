"""Scores of several responses to each of several problems; plain numbers, no framework.

- :func:`pass_at_k`: chance that at least one of ``k`` responses is right.
- :func:`majority_at_k`: chance that the answer that most of ``k`` responses give is right.
- :func:`bootstrap_interval`: how far a mean over problems can be trusted.
- :class:`Score`: a mean over problems with its interval.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Score", "bootstrap_interval", "majority_at_k", "pass_at_k", "score"]

_MAX_SUBSETS = 1000
_CONFIDENCE = 0.95


class Score(NamedTuple):
    """A mean over problems.

    Attributes:
        value: The mean, in [0, 1].
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of ``k`` responses is right (arXiv 2107.03374, section 2.1).

    Args:
        num_samples: Responses to the problem, ``n``.
        num_correct: Right ones among them, ``c``.
        k: At most ``n``.

    Returns:
        ``1 - C(n - c, k) / C(n, k)``. With ``k = 1`` it is the share of right responses.

    Raises:
        ValueError: If ``k`` is not in [1, n], or ``c`` not in [0, n].

    Example:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    _check(num_samples, k)
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"expected num_correct in [0, {num_samples}], got {num_correct}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int, seed: int = 0) -> float:
    """Estimate of the chance that the most frequent answer among ``k`` responses is right.

    Answers that tie share the vote evenly. A response without an answer does not vote; where nobody votes, the problem
    counts as wrong.

    Args:
        answers: What each response answered, written in the same way where it is the same; None for no answer.
        correct: Whether it is right. Of an answer that was judged in two ways (a grader's time limit), either counts.
        k: At most the number of responses. The mean is over all choices of ``k`` of them, or over 1,000 random ones
            where there are more.
        seed: Of the random choices.

    Raises:
        ValueError: If ``k`` is out of its range, or the arguments differ in length.

    Example:
        >>> majority_at_k(["7", "7", "8"], [True, True, False], 3), majority_at_k(["7", "8"], [True, False], 2)
        (1.0, 0.5)
    """
    if len(answers) != len(correct):
        raise ValueError(f"expected a verdict for each of {len(answers)} answers, got {len(correct)}")
    _check(len(answers), k)
    right = {answer for answer, is_right in zip(answers, correct, strict=True) if is_right}
    subsets: Iterable[Sequence[int]]
    if math.comb(len(answers), k) <= _MAX_SUBSETS:
        subsets = itertools.combinations(range(len(answers)), k)
    else:
        rng = np.random.default_rng(seed)
        subsets = [rng.choice(len(answers), k, replace=False).tolist() for _ in range(_MAX_SUBSETS)]
    return float(np.mean([_vote([answers[i] for i in subset], right) for subset in subsets]))


def bootstrap_interval(
    scores: ArrayLike, confidence: float = _CONFIDENCE, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of a mean over problems.

    Responses to one problem are not independent, so problems are drawn anew, not responses. It says nothing useful
    where all scores are equal: the interval is then that single point.

    Args:
        scores: One for each problem, shape (n,).
        confidence: Share of the resampled means inside the interval, in (0, 1).
        num_resamples: How many resampled means.
        seed: Of the resampling.

    Raises:
        ValueError: If there are no scores, or ``confidence`` is out of its range.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"expected scores of shape (n,), n >= 1, got {scores.shape}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"expected confidence in (0, 1), got {confidence}")
    rng = np.random.default_rng(seed)
    # One at a time: all draws at once would be gigabytes for a large data set.
    means = [scores[rng.integers(len(scores), size=len(scores))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def score(scores: ArrayLike) -> Score:
    """Mean and interval of the problems' scores, shape (n,)."""
    return Score(float(np.asarray(scores).mean()), *bootstrap_interval(scores))


def _vote(answers: Iterable[str | None], right: set[str | None]) -> float:
    """Share of the right ones among the most frequent answers."""
    votes = Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    winners = [answer for answer, count in votes.items() if count == most]
    return sum(answer in right for answer in winners) / len(winners) if winners else 0.0


def _check(num_samples: int, k: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"expected k in [1, {num_samples}], the number of responses, got {k}")
