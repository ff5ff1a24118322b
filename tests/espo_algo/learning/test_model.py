from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hand_made import VOCABULARY
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from espo_algo import LanguageModelWithCritic

SIZES = {
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
TOKENS = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SIZES),
        # Each of these does something of its own between the projection and the logits.
        Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
        GraniteConfig(**SIZES, logits_scaling=5.0),
        CohereConfig(**SIZES, logit_scale=0.25),
        GPT2Config(vocab_size=11, n_embd=16, n_layer=2, n_head=2),
    ],
    ids=lambda config: config.model_type,
)
@torch.no_grad()
def test_projected_hidden_states_are_the_models_logits(config: PretrainedConfig) -> None:
    policy = AutoModelForCausalLM.from_config(config).eval()
    model = LanguageModelWithCritic(policy, vocab_size=9)
    logits = model.project(model.hidden_states(TOKENS)[0])
    assert logits.shape == (2, 4, 9)
    torch.testing.assert_close(logits, policy(TOKENS).logits[..., :9], rtol=1e-5, atol=1e-5)


def test_an_architecture_that_does_more_to_its_logits_is_refused() -> None:
    class Shifted(Qwen2ForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits + torch.arange(out.logits.shape[-1])
            return out

    with pytest.raises(ValueError, match="projected last hidden state, got Shifted, whose logits differ by 10"):
        LanguageModelWithCritic(Shifted(Qwen2Config(**SIZES)))


def test_a_shared_critic_reads_the_policys_hidden_states() -> None:
    model = LanguageModelWithCritic(AutoModelForCausalLM.from_config(Qwen2Config(**SIZES)))
    hidden, critic_hidden = model.hidden_states(TOKENS)
    assert critic_hidden is hidden
    torch.nn.init.ones_(model.value_head.weight)
    model.value(critic_hidden).sum().backward()
    assert model.trunk.embed_tokens.weight.grad.abs().sum() > 0


def test_a_separate_critic_starts_from_the_policy_and_shares_no_parameter() -> None:
    model = LanguageModelWithCritic(AutoModelForCausalLM.from_config(Qwen2Config(**SIZES)), "separate")
    hidden, critic_hidden = model.hidden_states(TOKENS)
    torch.testing.assert_close(hidden, critic_hidden, rtol=0, atol=0)
    torch.nn.init.ones_(model.value_head.weight)
    model.value(critic_hidden).sum().backward()
    assert model.critic_trunk.embed_tokens.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.policy.parameters())


def test_an_untrained_critic_claims_nothing_in_float32() -> None:
    policy = AutoModelForCausalLM.from_config(Qwen2Config(**SIZES), dtype=torch.bfloat16)
    model = LanguageModelWithCritic(policy)
    hidden, critic_hidden = model.hidden_states(TOKENS)
    assert hidden.dtype is torch.bfloat16
    values = model.value(critic_hidden)
    assert values.shape == TOKENS.shape
    assert values.dtype is model.project(hidden).dtype is torch.float32
    assert values.count_nonzero() == 0


def test_a_folder_gives_weights_or_the_architecture_alone(model_folder: Path) -> None:
    loaded = LanguageModelWithCritic.from_pretrained(model_folder, vocab_size=VOCABULARY)
    bare = AutoModelForCausalLM.from_pretrained(model_folder)
    torch.testing.assert_close(loaded.project(loaded.hidden_states(TOKENS)[0]), bare(TOKENS).logits[..., :VOCABULARY])
    fresh = LanguageModelWithCritic.from_pretrained(model_folder, dtype=torch.bfloat16, weights=False)
    assert fresh.policy.dtype is torch.bfloat16
    assert fresh.vocab_size == VOCABULARY + 3
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in loaded.named_parameters()}
    assert not torch.equal(fresh.trunk.embed_tokens.weight.float(), loaded.trunk.embed_tokens.weight)


def test_dropout_is_off(tmp_path: Path) -> None:
    config = Qwen2Config(**SIZES, attention_dropout=0.5)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).attention_dropout == 0.5
    for weights in (True, False):
        model = LanguageModelWithCritic.from_pretrained(tmp_path, weights=weights).train()
        first, second = (model.hidden_states(TOKENS)[0] for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"critic": "none"}, "expected critic 'shared' or 'separate', got 'none'"),
        ({"vocab_size": 12}, "expected vocab_size of at most 11, got 12"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModelWithCritic(AutoModelForCausalLM.from_config(Qwen2Config(**SIZES)), **arguments)
