"""How well the critic tells responses that will be right from those that will not.

- :func:`auroc`: area under the receiver operating characteristic, by ranks.
- :func:`success_auroc`: that of the critic's values for final success, at several positions of the responses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from espo_env.types import StopReason, Trajectory

__all__ = ["POSITIONS", "auroc", "success_auroc"]

POSITIONS = (0, 25, 50, 75)
"""Where values are looked at: behind this many percent of a response's tokens."""

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


def success_auroc(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """AUROC of ``V(s_t)`` for a right answer in the end.

    Stopped responses have no end to know. Those that were marked and ran on stand for all marked ones, so that the
    batch is not judged on what the detector let pass.

    Args:
        trajectories: With their values; those without are left out. Values that differ by rounding are ties.

    Returns:
        For each of :data:`POSITIONS`, as text, the AUROC there; NaN where it cannot be told.
    """
    known = [t for t in trajectories if t.stop_reason is not StopReason.REGRET and len(t.values)]
    marked = np.array([t.mark >= 0 for t in known], np.bool_)
    total = sum(t.mark >= 0 for t in trajectories)
    weights = np.where(marked, total / max(int(marked.sum()), 1), 1.0)
    right = np.array([t.correct is True for t in known], np.bool_)
    return {
        str(percent): auroc(np.round([t.values[percent * len(t) // 100] for t in known], _DECIMALS), right, weights)
        for percent in POSITIONS
    }
