"""Peaks of memory, from runs on tensors without data, against sums by hand."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_qwen2
from transformers import AutoModelForCausalLM

from espo_algo.learning.lora import LoRASettings
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.memory import PeakMemory, decode_peak, update_peak

CONFIG = tiny_qwen2(100, hidden_size=32, num_hidden_layers=3)
UPDATE = {
    "critic": "separate",
    "vocab_size": 90,
    "dtype": torch.float32,
    "gradient_checkpointing": False,
    "sequences": 4,
    "length": 20,
    "prompt": 8,
    "accumulates": False,
}


def num_parameters(critic):
    return sum(
        p.numel() for p in LanguageModelWithCritic(AutoModelForCausalLM.from_config(CONFIG), critic).parameters()
    )


def test_only_what_is_alive_counts():
    kept = torch.zeros(1000)  # 4,000 bytes
    with PeakMemory([kept]) as memory:
        first = torch.ones(500)  # + 2,000
        view = first[10:]  # the same storage
        assert memory.peak == 6_000
        del first
        second = torch.ones(100)  # the storage is alive in its view: + 400
        assert memory.peak == 6_400
        del view, second
        third = torch.ones(600, dtype=torch.float64)  # 4,000 + 4,800
        assert memory.peak == 8_800
        third += 1.0  # in place
    assert memory.peak == 8_800


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_an_update_holds_weights_gradients_and_moments(critic):
    weights = 4 * num_parameters(critic)
    peak = update_peak(CONFIG, **UPDATE | {"critic": critic})
    assert peak.held == {"weights": weights, "gradients": weights, "AdamW's two moments": 2 * weights}
    assert peak.total == 4 * weights + peak.passing


def test_of_adapters_these_alone_have_gradients_and_moments():
    """Two of them on one frozen model: in all four projections of attention and the three of the MLP."""
    lora = LoRASettings(r=4)
    peak = update_peak(CONFIG, **UPDATE | {"dtype": torch.bfloat16, "lora": lora})
    head = 32 // 4
    attention = (32 + 4 * head) + 2 * (32 + 2 * head) + (4 * head + 32)  # inputs and outputs of q, k and v, o
    adapter = 3 * 4 * (attention + 3 * (32 + 64))  # layers, rank
    weights = 4 * (2 * adapter + 33)  # the value head, too
    assert peak.held == {
        "frozen weights, bfloat16": 2 * (num_parameters("shared") - 33),
        "weights": weights,
        "gradients": weights,
        "AdamW's two moments": 2 * weights,
    }
    assert peak.total < update_peak(CONFIG, **UPDATE | {"dtype": torch.bfloat16}).total
    sharded = update_peak(CONFIG, **UPDATE | {"dtype": torch.bfloat16, "lora": lora, "num_shards": 2})
    assert [*sharded.held.values()] == [-(-size // 2) for size in peak.held.values()]


def test_what_passes_grows_with_the_sequences_and_less_where_it_is_computed_again():
    """At this size activations outweigh the gradients that are not there yet; logits come in chunks."""
    passing = [update_peak(CONFIG, **UPDATE | {"sequences": n}).passing for n in (64, 128)]
    assert passing[1] == pytest.approx(2 * passing[0], rel=0.1)
    # At least the hidden states of two trunks of three layers: 64 x 20 x 32 floats each.
    assert passing[1] - passing[0] > 6 * 64 * 20 * 32 * 4
    again = update_peak(CONFIG, **UPDATE | {"sequences": 128, "gradient_checkpointing": True}).passing
    assert again < passing[1]


def test_gradients_of_a_micro_batch_are_there_in_the_next_one():
    one, several = (update_peak(CONFIG, **UPDATE | {"sequences": 64, "accumulates": a}) for a in (False, True))
    assert one.passing < several.passing <= one.passing + one.held["gradients"]


def test_a_decode_step_holds_weights_and_cache():
    peak = decode_peak(CONFIG, "separate", 90, torch.bfloat16, slots=16, length=24, prompt=8)
    head = 32 // 4
    assert peak.held["cache"] == 2 * (2 * 3 * 16 * 2 * head * 24) * 2  # trunks, keys and values, layers, ..., bytes
    value_head = 33
    assert peak.held["weights"] == 2 * (num_parameters("separate") - value_head) + 4 * value_head
    # Logits of all slots in float32, weights of the draw in float64.
    assert peak.passing >= 16 * 90 * (4 + 8)
