from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations import sdpa_attention

from espo_algo.rollout.embedded.attention import GroupedDecoding

ROWS, WIDTH = 3, 7


def make_model(heads: int, shared: int, attention: str = "sdpa"):
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 8 * heads, "intermediate_size": 16, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=heads, num_key_value_heads=shared, initializer_range=0.3)
    config._attn_implementation = attention
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def decode(model, tokens):
    """The last token of each row behind the others, through the cache, with a mask that hides a part of them."""
    cache = model.model(tokens[:, :-1], use_cache=True).past_key_values
    mask = torch.zeros(ROWS, 1, 1, WIDTH)
    mask[1, ..., 2:4] = -torch.inf
    return model.model(tokens[:, -1:], attention_mask=mask, past_key_values=cache).last_hidden_state


@pytest.mark.parametrize(("heads", "shared"), [(6, 2), (4, 1), (3, 3)])
def test_it_attends_to_the_same(heads, shared):
    model, tokens = make_model(heads, shared), torch.randint(0, 11, (ROWS, WIDTH))
    expected = decode(model, tokens)
    with GroupedDecoding(model.model):
        got = decode(model, tokens)
    assert torch.allclose(got, expected, atol=1e-6)


def test_a_decoded_token_copies_no_keys_and_values(monkeypatch):
    model, tokens = make_model(4, 2), torch.randint(0, 11, (ROWS, WIDTH))
    copied = []
    repeat = sdpa_attention.repeat_kv
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda keys, times: copied.append(keys) or repeat(keys, times))
    decode(model, tokens)
    assert len(copied) == 2 * model.config.num_hidden_layers  # so this is where it would be seen
    copied.clear()
    with GroupedDecoding(model.model):
        decode(model, tokens)
    assert copied == []


def test_the_model_attends_as_before_when_it_is_left_by_an_error_too():
    model, tokens = make_model(4, 2), torch.full((ROWS, WIDTH), 11)  # one more than the vocabulary has
    with pytest.raises(IndexError), GroupedDecoding(model.model):
        decode(model, tokens)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("shared", "attention"), [(4, "sdpa"), (2, "eager")])
def test_where_nothing_is_shared_or_another_attention_was_chosen_that_one_stays(shared, attention):
    model = make_model(4, shared, attention)
    with GroupedDecoding(model.model):
        assert model.config._attn_implementation == attention
