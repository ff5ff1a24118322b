"""Whole responses under a model: what the losses need of them.

- :func:`score_responses`: log-probabilities, entropies and values of a batch's response tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from espo_algo.learning.batching import TrainingBatch
from espo_algo.learning.model import LanguageModelWithCritic

__all__ = ["score_responses"]

_CHUNK = 1024
"""Response tokens whose logits exist at the same time: at most this many rows of [V]."""


def score_responses(
    model: LanguageModelWithCritic, batch: TrainingBatch, temperature: float = 1.0, autocast: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Runs the model on whole sequences, and scores their response tokens; no [T, V] is ever kept.

    Args:
        model: Policy and critic.
        batch: ``n`` sequences with ``N`` response tokens.
        temperature: That the tokens were sampled with.
        autocast: What to compute in where that is not the weights' own dtype; None where it is.

    Returns:
        ``action_logp``, ``entropy`` (no gradient unless ``batch.entropy_gradient``), ``vf_preds``, each of shape
        (N,), and ``last_values``, shape (n,): the values behind each sequence's last token. The names are RLlib's.
    """
    with torch.autocast(batch.actions.device.type, autocast, enabled=autocast is not None):
        states = batch.response_states(model)
        logprobs, entropies = [], []
        for rows, actions in zip(states.policy.split(_CHUNK), batch.actions.split(_CHUNK), strict=True):
            # Recomputed in the backward pass instead of kept: [N, V] is the largest tensor of an update.
            logprob, entropy = checkpoint(
                _score,
                model,
                rows,
                actions,
                temperature,
                batch.entropy_gradient,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            logprobs.append(logprob)
            entropies.append(entropy)
    # Outside autocast: values stay float32, here as in the engines. FSDP hangs its hooks on what comes out, and
    # would lose them with a view.
    return {
        "action_logp": torch.cat(logprobs),
        "entropy": torch.cat(entropies),
        "vf_preds": model.value(states.critic).clone(),
        "last_values": model.value(states.last).clone(),
    }


def _score(
    model: LanguageModelWithCritic, hidden: Tensor, actions: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability of each action and entropy at the sampling temperature: (M, D), (M,) -> (M,), (M,)."""
    logits = model.project(hidden)
    if temperature != 1.0:
        logits = logits / temperature
    normaliser = logits.logsumexp(-1)
    logprob = logits.gather(-1, actions[:, None])[:, 0] - normaliser
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        # In place as far as gradients allow: another [M, V] is another pass over memory that is not in any cache.
        probabilities = (logits - normaliser[:, None]).exp_()
        weighted = probabilities * logits if torch.is_grad_enabled() else probabilities.mul_(logits)
        entropy = normaliser - weighted.sum(-1)
    return logprob, entropy
