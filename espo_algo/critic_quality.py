"""How well the critic tells responses that will be right from those that will not.

- :func:`auroc`: area under the receiver operating characteristic, by ranks.
- :func:`success_auroc`: that of the critic's values for final success, at several positions of the responses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from espo_algo.episodes import POSITIONS, TokenEpisode
from espo_env.types import StopReason

__all__ = ["auroc", "success_auroc"]

_DECIMALS = 5
"""Of values: those of the same text differ by the rounding of their batches, which is no order."""


def auroc(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: NDArray[np.floating] | None = None
) -> float:
    """Probability that a positive has a higher score than a negative; ties count half.

    Args:
        scores: Shape (n,).
        positive: Shape (n,).
        weights: What each counts for, shape (n,), >= 0; None for 1.

    Returns:
        In [0, 1]; NaN where there are no positives or no negatives.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    below = np.concatenate([[0.0], np.cumsum(weights[~positive][order])])
    wins = (below[np.searchsorted(negatives, scores[positive], side)] for side in ("left", "right"))
    total = weights[positive].sum() * below[-1]
    return float((weights[positive] * sum(wins)).sum() / (2 * total)) if total else math.nan


def success_auroc(episodes: Sequence[TokenEpisode]) -> dict[str, float]:
    """AUROC of ``V(s_t)`` for a right answer in the end.

    Stopped responses have no end to know. Those that were marked and ran on stand for all marked ones, so that the
    batch is not judged on what the detector let pass.

    Args:
        episodes: With their values; those without are left out. Values that differ by rounding are ties.

    Returns:
        For each of :data:`~espo_algo.episodes.POSITIONS`, as text, the AUROC there; NaN where it cannot be told.
    """
    summaries = [e.summarised() for e in episodes]
    known = [
        (e, s.values)
        for e, s in zip(episodes, summaries, strict=True)
        if e.stop_reason is not StopReason.REGRET and s.values
    ]
    marked = np.array([e.mark >= 0 for e, _ in known], np.bool_)
    total = sum(e.mark >= 0 for e in episodes)
    weights = np.where(marked, total / max(int(marked.sum()), 1), 1.0)
    right = np.array([e.correct is True for e, _ in known], np.bool_)
    values = np.round(np.array([v for _, v in known], np.float32).reshape(-1, len(POSITIONS)), _DECIMALS)
    return {str(percent): auroc(values[:, i], right, weights) for i, percent in enumerate(POSITIONS)}
