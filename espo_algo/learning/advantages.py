"""Advantage estimators on whole responses; pure maths on numpy arrays.

- :data:`ADVANTAGE_ESTIMATORS`, :func:`register_advantage_estimator`: estimators by name.
- :func:`generalized_advantages`: ``"gae"``, the paper's (Schulman et al. 2016, arXiv 1506.02438).
- :func:`group_normalized_advantages`: ``"group"``, GRPO's (Shao et al. 2024, arXiv 2402.03300).
- :class:`AdvantageInputs`: what an estimator may look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from espo_env.registry import Registry

__all__ = [
    "ADVANTAGE_ESTIMATORS",
    "AdvantageEstimator",
    "AdvantageInputs",
    "generalized_advantages",
    "get_advantage_estimator",
    "group_normalized_advantages",
    "register_advantage_estimator",
]

Floats: TypeAlias = NDArray[np.float32]

_EPSILON = 1e-6
"""Keeps a group without any spread from being divided by zero."""


@dataclass(frozen=True, slots=True)
class AdvantageInputs:
    """A learner's share of a batch: ``n`` responses whose only reward is the last one.

    Attributes:
        values: ``V(s_0) .. V(s_{T-1})`` of each response, arrays of shape (T_i,), T_i >= 1.
        final_rewards: Reward of each response's last step, shape (n,).
        final_values: Value behind each response's last step, shape (n,): exactly 0 where the response is terminal (end
            of sequence, finite horizon, early stop), the critic's value of the last state where it was truncated.
        groups: Which prompt each response answers, shape (n,); all responses to a prompt are on one learner.
        gamma: Discount; 1 in the paper.
        lambda_: Trace decay.
        marks: Step at which the failure detector fired first, -1 for none, shape (n,); None where nobody asks.
        tail_weight: What the outcome behind a mark counts for before it, see :mod:`espo_algo.learning.credit`.
    """

    values: Sequence[Floats]
    final_rewards: Floats
    final_values: Floats
    groups: NDArray[np.int64]
    gamma: float
    lambda_: float
    marks: NDArray[np.int64] | None = None
    tail_weight: float = 1.0


AdvantageEstimator = Callable[[AdvantageInputs], tuple[list[Floats], list[Floats]]]
"""Gives advantages and value targets: for each response an array of shape (T_i,)."""


def generalized_advantages(x: AdvantageInputs) -> tuple[list[Floats], list[Floats]]:
    """Generalized advantage estimation (GAE).

    The temporal-difference error of step ``t`` is ``r_t + gamma * V(s_{t+1}) - V(s_t)``; behind the last step stands
    the final value. The value target is ``advantage + value``. What the recursion carries from behind a mark to its
    token is multiplied by ``tail_weight``.
    """
    lengths = np.array([len(v) for v in x.values])
    rows, width = np.arange(len(lengths)), int(lengths.max())
    # Column T_i of row i holds what stands behind the last step; everything later is never read.
    padded = np.zeros((len(lengths), width + 1))
    for row, column in enumerate(x.values):
        padded[row, : len(column)] = column
    padded[rows, lengths] = x.final_values
    deltas = x.gamma * padded[:, 1:] - padded[:, :-1]
    deltas[rows, lengths - 1] += x.final_rewards
    deltas[np.arange(width) >= lengths[:, None]] = 0.0
    decay = np.full_like(deltas, x.gamma * x.lambda_)
    if x.marks is not None:
        marked = np.flatnonzero(x.marks >= 0)
        decay[marked, x.marks[marked]] *= x.tail_weight
    advantages = np.zeros_like(deltas)
    running = np.zeros(len(lengths))
    for t in range(width - 1, -1, -1):
        running = deltas[:, t] + decay[:, t] * running
        advantages[:, t] = running
    targets = advantages + padded[:, :-1]
    return (
        [advantages[i, :n].astype(np.float32) for i, n in enumerate(lengths)],
        [targets[i, :n].astype(np.float32) for i, n in enumerate(lengths)],
    )


def group_normalized_advantages(x: AdvantageInputs) -> tuple[list[Floats], list[Floats]]:
    """A response's reward less the mean of its group, divided by the group's standard deviation; for all its tokens.

    No critic takes part. It is trained all the same, on the discounted return, because the failure detector asks it.
    """
    rewards = x.final_rewards.astype(np.float64)
    _, index = np.unique(x.groups, return_inverse=True)
    count = np.bincount(index)
    mean = np.bincount(index, rewards) / count
    centred = rewards - mean[index]
    deviation = np.sqrt(np.bincount(index, np.square(centred)) / count)
    advantages = (centred / (deviation[index] + _EPSILON)).astype(np.float32)
    behind = x.final_rewards + x.gamma * x.final_values
    lengths = [len(v) for v in x.values]
    return (
        [np.full(n, a, np.float32) for n, a in zip(lengths, advantages, strict=True)],
        [(b * x.gamma ** np.arange(n - 1, -1, -1)).astype(np.float32) for n, b in zip(lengths, behind, strict=True)],
    )


ADVANTAGE_ESTIMATORS: Registry[AdvantageEstimator] = Registry(
    "an advantage estimator",
    "module:function",
    callable,
    {"gae": generalized_advantages, "group": group_normalized_advantages},
)
"""All registered estimators by name."""

get_advantage_estimator = ADVANTAGE_ESTIMATORS.find
"""See :meth:`~espo_env.registry.Registry.find`."""
register_advantage_estimator = ADVANTAGE_ESTIMATORS.register
"""See :meth:`~espo_env.registry.Registry.register`."""
