"""The losses of PPO, one number for each token; pure maths on torch tensors.

- :func:`clipped_policy_loss`: PPO's clipped objective (Schulman et al. 2017, arXiv 1707.06347).
- :func:`clipped_value_loss`: squared error of the critic.
- :func:`kl_estimate`: KL divergence between the policies before and after the update.
- :func:`truncated_importance_weights`: correction for an engine whose log-probabilities differ from the learner's.

Early stopping leaves all of them as they are: they see shorter responses that end in a failure reward.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clipped_policy_loss", "clipped_value_loss", "kl_estimate", "truncated_importance_weights"]


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """PPO's surrogate, to be minimised.

    Args:
        logprobs: Of the policy that is trained, shape (N,), nats.
        old_logprobs: Of the policy before the update, shape (N,).
        advantages: Shape (N,).
        clip: Width of the trust region below a ratio of 1, and above it.
        clip_high: Width above it, where that is another (DAPO's clip-higher, Yu et al. 2025, arXiv 2503.14476).

    Returns:
        Loss of each token and whether the clip held its gradient back, each of shape (N,).
    """
    ratio = (logprobs - old_logprobs).exp()
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return torch.maximum(plain, bounded), bounded > plain


def clipped_value_loss(values: Tensor, targets: Tensor, clip: float) -> Tensor:
    """Squared error, held at ``clip`` (RLlib's ``vf_clip_param``).

    Args:
        values: Shape (N,).
        targets: Shape (N,).
        clip: Highest loss of a token; ``inf`` for none.

    Returns:
        Shape (N,).
    """
    return (values - targets).square().clamp(max=clip)


def kl_estimate(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """``KL(old || new)`` from tokens that the old policy sampled: ``ratio - 1 - log ratio``, never negative.

    Needs no distribution over the vocabulary (Schulman's "k3" estimator).

    Args:
        logprobs: Of the new policy, shape (N,), nats.
        old_logprobs: Of the old policy, shape (N,).

    Returns:
        Shape (N,), nats.
    """
    log_ratio = logprobs - old_logprobs
    return log_ratio.expm1() - log_ratio


def truncated_importance_weights(learner_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """``min(pi_learner / pi_sampler, cap)`` for tokens that a slightly different sampler drew.

    Args:
        learner_logprobs: Under the learner's weights before the update, shape (N,), nats.
        sampler_logprobs: As the engine reported them, shape (N,).
        cap: Highest weight, >= 1.

    Returns:
        Shape (N,).
    """
    return (learner_logprobs - sampler_logprobs).exp().clamp(max=cap)
