"""Generalised advantage estimation on whole responses; pure maths on numpy arrays.

- :func:`generalized_advantages`: advantages and value targets (Schulman et al. 2016, arXiv 1506.02438).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["generalized_advantages"]

Floats = NDArray[np.float32]


def generalized_advantages(
    values: Sequence[Floats], final_rewards: Floats, final_values: Floats, gamma: float, lambda_: float
) -> tuple[list[Floats], list[Floats]]:
    """GAE for ``n`` responses whose only reward is the last one.

    The temporal-difference error of step ``t`` is ``r_t + gamma * V(s_{t+1}) - V(s_t)``. Behind the last step stands
    ``final_values``: exactly 0 where the response is terminal (end of sequence, finite horizon, early stop), the
    critic's value of the last state where it was truncated.

    Args:
        values: ``V(s_0) .. V(s_{T-1})`` of each response, arrays of shape (T_i,), T_i >= 1.
        final_rewards: Reward of each response's last step, shape (n,).
        final_values: Value behind each response's last step, shape (n,).
        gamma: Discount; 1 in the paper.
        lambda_: Trace decay.

    Returns:
        Advantages and value targets (``advantage + value``), lists of arrays of shape (T_i,).
    """
    lengths = np.array([len(v) for v in values])
    rows, width = np.arange(len(values)), int(lengths.max())
    # Column T_i of row i holds what stands behind the last step; everything later is never read.
    padded = np.zeros((len(values), width + 1))
    for row, column in enumerate(values):
        padded[row, : len(column)] = column
    padded[rows, lengths] = final_values
    deltas = gamma * padded[:, 1:] - padded[:, :-1]
    deltas[rows, lengths - 1] += final_rewards
    deltas[np.arange(width) >= lengths[:, None]] = 0.0
    advantages = np.zeros_like(deltas)
    running = np.zeros(len(values))
    for t in range(width - 1, -1, -1):
        running = deltas[:, t] + gamma * lambda_ * running
        advantages[:, t] = running
    targets = advantages + padded[:, :-1]
    return (
        [advantages[i, :n].astype(np.float32) for i, n in enumerate(lengths)],
        [targets[i, :n].astype(np.float32) for i, n in enumerate(lengths)],
    )
