"""The optimisers' steps.

- :func:`make_adamw`: AdamW, with moments in float32 or in 8 bits; :func:`moment_bytes`: what these take.
- :func:`check_8bit`: whether the second kind is to be had.
- :func:`check_moments`: whether a state has the kind that is wanted.
- :func:`weight_scales`: how much the weights of audited stops raise the norm of a gradient.
- :func:`clipped_step`: clips each optimiser's gradient by itself and steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from espo_algo.learning.across import AcrossLearners
from espo_algo.learning.batching import TrainingBatch
from espo_algo.weight_sync.packing import whole

if TYPE_CHECKING:
    from espo_algo.schema import Moments

__all__ = ["check_8bit", "check_moments", "clipped_step", "make_adamw", "moment_bytes", "weight_scales"]

_SMALL = 4096
"""Tensors of fewer elements keep float32 moments: bitsandbytes' default."""
_BLOCK = 256
"""Elements that share a scale in bitsandbytes."""


def make_adamw(
    parameters: list[Parameter], weight_decay: float, moments: Moments, embeddings: Sequence[Parameter] = ()
) -> Optimizer:
    """AdamW.

    Args:
        parameters: What it trains.
        weight_decay: As for ``torch.optim.AdamW``.
        moments: What the two moments are kept in; with ``"8bit"`` those of small tensors are float32 all the same.
        embeddings: Parameters whose moments stay float32 in any case. Most of their rows have no gradient in a step: a
            second moment that is rounded to zero would divide a first one that is not.
    """
    if moments == "float32":
        return torch.optim.AdamW(parameters, weight_decay=weight_decay)
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    for parameter in embeddings:
        GlobalOptimManager.get_instance().override_config(parameter, "optim_bits", 32)
    return AdamW8bit(parameters, weight_decay=weight_decay, min_8bit_size=_SMALL)


def moment_bytes(parameter: Tensor, moments: Moments, embedding: bool) -> int:
    """What a parameter's two moments take."""
    count = parameter.numel()
    if moments == "float32" or embedding or count < _SMALL:
        return 2 * torch.float32.itemsize * count
    return 2 * (count + torch.float32.itemsize * -(-count // _BLOCK))


def check_8bit() -> None:
    """Raises an ImportError if bitsandbytes is not installed."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "expected bitsandbytes to be installed for .training(moments='8bit'): pip install 'espo[optim8bit]'"
        ) from error


def check_moments(state: dict[str, Any], moments: Moments) -> None:
    """Raises a ValueError if an optimiser's state has moments of the other kind."""
    entries = [entry for entry in state["state"].values() if entry]
    found = "float32" if all("exp_avg" in entry for entry in entries) else "8bit"
    if entries and found != moments:
        raise ValueError(f"expected a checkpoint with .training(moments={moments!r}), got one with {found!r}")


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
