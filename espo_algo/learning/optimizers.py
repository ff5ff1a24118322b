"""The optimisers' steps.

- :func:`weight_scales`: how much the weights of audited stops raise the norm of a gradient.
- :func:`clipped_step`: clips each optimiser's gradient by itself and steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from espo_algo.learning.across import AcrossLearners
from espo_algo.learning.batching import TrainingBatch
from espo_algo.weight_sync.packing import whole

__all__ = ["clipped_step", "weight_scales"]


def weight_scales(across: AcrossLearners, batches: Sequence[TrainingBatch]) -> dict[str, float]:
    """How much the weights of audited stops raise the norm of each optimiser's gradient.

    The root of the ratio of the mean squares, with weights and without, of what multiplies each token's gradient: the
    norm of a sum of independent gradients grows like that. The limit of the gradient's norm is multiplied by it, so
    that a step is clipped where it would be without the weights, and a rare heavy response is not cut to a light one.

    Args:
        across: Sums over all learners.
        batches: A minibatch, with the columns of :class:`~espo_algo.learning.credit.Credit`.

    Returns:
        Factors by the optimisers' names, >= 1.
    """
    columns = {
        name: torch.cat([batch.columns[name] for batch in batches])
        for name in ("advantages", "unweighted_advantages", "policy_weights", "critic_weights")
    }
    weighted, unweighted, critic, count = across.sums(
        float((columns["advantages"] * columns["policy_weights"]).square().sum()),
        float(columns["unweighted_advantages"].square().sum()),
        float(columns["critic_weights"].square().sum()),
        len(columns["critic_weights"]),
    )
    policy = weighted / unweighted if unweighted else 1.0
    return {"policy": math.sqrt(max(policy, 1.0)), "critic": math.sqrt(max(critic / count, 1.0))}


def clipped_step(optimizers: Sequence[Optimizer], limits: Sequence[float]) -> tuple[Tensor, bool]:
    """Clips each optimiser's gradient by itself and steps; where one is not finite nothing is stepped.

    Args:
        optimizers: Of one minibatch.
        limits: Highest norm of each one's gradient, ``inf`` for none.

    Returns:
        The norm of each one's gradient before clipping, and whether they are finite.
    """
    norms = torch.stack(
        [
            # Of sharded gradients it is the norm of all shards.
            whole(torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], limit))
            for optimizer, limit in zip(optimizers, limits, strict=True)
        ]
    )
    finite = bool(torch.isfinite(norms.norm()))
    if finite:
        for optimizer in optimizers:
            optimizer.step()
    return norms, finite
