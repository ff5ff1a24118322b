from __future__ import annotations

from collections import Counter

import pytest
import torch
from hand_made import make_episode
from tiny_models import tiny_qwen2
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from espo_algo import LanguageModelWithCritic
from espo_algo.learning.batching import SequenceBatch
from espo_algo.learning.scoring import score_responses

ROWS = 37
"""Of the output embedding; no other size of the model is the same."""
TOKENS = 5
"""Of the responses."""


def make_model(vocab_size: int = ROWS) -> LanguageModelWithCritic:
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(tiny_qwen2(ROWS, initializer_range=0.3))
    return LanguageModelWithCritic(policy, vocab_size=vocab_size)


def make_batch(entropy_gradient: bool = False) -> SequenceBatch:
    episodes = [make_episode([5, 6, 0], prompt=[1, 2]), make_episode([7, 1], prompt=[3, 4, 8, 9])]
    batch = SequenceBatch.from_episodes(episodes, "cpu")
    batch.entropy_gradient = entropy_gradient
    return batch


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocab_size", [ROWS, ROWS - 5])
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_scores_and_their_gradients_are_those_of_whole_distributions(
    temperature: float, vocab_size: int, entropy_gradient: bool
) -> None:
    model, batch = make_model(vocab_size), make_batch(entropy_gradient)
    weights = torch.linspace(-1, 1, len(batch))

    def gradients(logprobs: Tensor, entropies: Tensor) -> list[Tensor]:
        loss = (weights * logprobs).sum() + ((weights.square() * entropies).sum() if entropy_gradient else 0.0)
        return list(torch.autograd.grad(loss, model.policy_parameters()))

    scores = score_responses(model, batch, temperature)
    logits = model.policy(batch.input_ids).logits[batch.predicts][:, :vocab_size] / temperature
    expected = torch.distributions.Categorical(logits=logits)
    logprobs, entropies = expected.log_prob(batch.actions), expected.entropy()
    torch.testing.assert_close(scores["action_logp"], logprobs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores["entropy"], entropies, rtol=1e-4, atol=1e-5)
    assert scores["entropy"].requires_grad is entropy_gradient
    got = gradients(scores["action_logp"], scores["entropy"])
    for ours, theirs in zip(got, gradients(logprobs, entropies), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


class Wide(TorchDispatchMode):
    """Counts operations that make a new tensor as wide as the vocabulary, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        out = operation(*arguments, **(keywords or {}))
        if isinstance(out, Tensor) and out.shape == (TOKENS, ROWS) and not operation.is_view:
            known = {id(a) for a in arguments if isinstance(a, Tensor)}
            if id(out) not in known:
                self.made[operation.overloadpacket.__name__] += 1
        return out


def test_no_logits_are_copied_that_need_not_be() -> None:
    model, batch = make_model(), make_batch()
    with Wide() as forward, torch.no_grad():
        score_responses(model, batch)
    # The projection, and what the entropy takes.
    assert forward.made == {"mm": 1, "sub": 1}
    scores = score_responses(model, batch)
    with Wide() as backward:
        scores["action_logp"].sum().backward()
    # The projection again, and what the gradients of logsumexp (3) and gather (2) take, and their sum.
    assert backward.made.total() == 7, backward.made
