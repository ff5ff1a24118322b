"""One optimiser step's loss and gradients, without RLlib.

- :class:`LossSettings`: the loss's constants.
- :func:`ppo_loss`: PPO's loss of a micro-batch.
- :func:`accumulate_gradients`: the gradients of several micro-batches, added up.

The learner makes its steps of these and of :func:`~espo_algo.learning.optimizers.clipped_step`; so can anybody who has
torch and transformers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from espo_algo.learning.batching import TrainingBatch
from espo_algo.learning.losses import clipped_policy_loss, clipped_value_loss, kl_estimate, truncated_importance_weights

__all__ = ["LossSettings", "accumulate_gradients", "ppo_loss"]


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Constants of :func:`ppo_loss`, by the names that ``ESPOConfig.training`` has for most of them.

    Attributes:
        clip_param: As for :func:`~espo_algo.learning.losses.clipped_policy_loss`.
        clip_param_high: As there.
        vf_clip_param: As for :func:`~espo_algo.learning.losses.clipped_value_loss`.
        vf_loss_coeff: Factor of the critic's loss.
        entropy_coeff: Factor of the entropy, which is part of the loss where a batch's ``entropy_gradient`` is set.
        kl_coeff: Factor of the KL divergence from the policy before the update; None leaves it out.
        importance_weight_cap: Corrects for the sampler's log-probabilities up to this weight; None does not.
        weighted: Whether tokens have weights (those of audited stops).
    """

    clip_param: float
    clip_param_high: float | None
    vf_clip_param: float
    vf_loss_coeff: float
    entropy_coeff: float = 0.0
    kl_coeff: Tensor | float | None = None
    importance_weight_cap: float | None = None
    weighted: bool = False


def ppo_loss(
    scores: dict[str, Tensor], batch: TrainingBatch, settings: LossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's loss, summed over the response tokens of one micro-batch (the caller divides by all tokens).

    Args:
        scores: Of :func:`~espo_algo.learning.scoring.score_responses`.
        batch: With the columns ``action_logp`` (under the weights before the update), ``advantages`` and ``targets``;
            ``sampler_logprobs`` with ``importance_weight_cap``; ``policy_weights``, ``critic_weights`` where weighted.
        settings: The constants.

    Returns:
        The loss, shape (), and what it is made of for each token, shape (N,), by the names of the metrics.
    """
    logprobs, old_logprobs = scores["action_logp"], batch.columns["action_logp"]
    policy_loss, clipped = clipped_policy_loss(
        logprobs, old_logprobs, batch.columns["advantages"], settings.clip_param, settings.clip_param_high
    )
    if settings.importance_weight_cap is not None:
        policy_loss = policy_loss * truncated_importance_weights(
            old_logprobs, batch.columns["sampler_logprobs"], settings.importance_weight_cap
        )
    value_loss = clipped_value_loss(scores["vf_preds"], batch.columns["targets"], settings.vf_clip_param)
    if settings.weighted:
        policy_loss = policy_loss * batch.columns["policy_weights"]
        value_loss = value_loss * batch.columns["critic_weights"]
    kl = kl_estimate(logprobs, old_logprobs)
    loss = policy_loss.sum() + settings.vf_loss_coeff * value_loss.sum()
    if settings.kl_coeff is not None:
        loss = loss + settings.kl_coeff * kl.sum()
    if batch.entropy_gradient:
        loss = loss - settings.entropy_coeff * scores["entropy"].sum()
    return loss, {
        "policy_loss": policy_loss,
        "vf_loss": value_loss,
        "entropy": scores["entropy"],
        "mean_kl_loss": kl,
        "clip_fraction": clipped,
    }


def accumulate_gradients(
    batches: Sequence[TrainingBatch],
    loss_of: Callable[[TrainingBatch], Tensor],
    scale: float,
    but_the_last: Callable[[], AbstractContextManager] = nullcontext,
) -> Tensor:
    """Adds up the gradients of micro-batches, one after the other.

    Args:
        batches: At least one.
        loss_of: Runs the model on a micro-batch; its loss, shape ().
        scale: Factor of every loss.
        but_the_last: Stands around every micro-batch but the last, such as DDP's ``no_sync``.

    Returns:
        The sum of the scaled losses, shape ().
    """
    total = torch.zeros((), device=batches[0].actions.device)
    for index, batch in enumerate(batches):
        with but_the_last() if index < len(batches) - 1 else nullcontext():
            loss = loss_of(batch)
            (loss * scale).backward()
        total += loss.detach() * scale
    return total
