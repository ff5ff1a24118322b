from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, Mamba2Config, MistralConfig

from espo_algo.rollout.embedded.kv_cache import SlotCache

HEADS, WIDTH = 2, 3
CONFIG = LlamaConfig(num_hidden_layers=1, hidden_size=6, num_attention_heads=HEADS, num_key_value_heads=HEADS)


def states(rows: int, length: int, start: float = 1.0) -> torch.Tensor:
    count = rows * HEADS * length * WIDTH
    return torch.arange(start, start + count, dtype=torch.float32).view(rows, HEADS, length, WIDTH)


def test_prefill_writes_the_slots_named_and_attends_to_the_prompt_itself():
    cache = SlotCache(CONFIG, num_slots=4, max_length=5)
    keys, values = states(2, 3), states(2, 3, start=100)
    cache.prefill(torch.tensor([3, 1]))
    got = cache.update(keys, values, 0)
    assert got[0] is keys
    assert got[1] is values
    cache.decode(torch.tensor([0, 3, 0, 3]), width=4)
    all_keys, all_values = cache.update(torch.zeros(4, HEADS, 1, WIDTH), torch.zeros(4, HEADS, 1, WIDTH), 0)
    torch.testing.assert_close(all_keys[[3, 1], :, :3], keys)
    torch.testing.assert_close(all_values[[3, 1], :, :3], values)
    assert all_keys[[0, 2]].count_nonzero() == 0


def test_decode_writes_each_row_at_its_own_column_and_copies_nothing():
    cache = SlotCache(CONFIG, num_slots=4, max_length=5)
    keys, values = states(3, 1), states(3, 1, start=100)
    cache.decode(torch.tensor([0, 2, 1]), width=3)
    got_keys, got_values = cache.update(keys, values, 0)
    assert got_keys.shape == (3, HEADS, 3, WIDTH)
    expected = torch.zeros(2, 3, HEADS, 3, WIDTH)
    for row, column in enumerate((0, 2, 1)):
        expected[0, row, :, column] = keys[row, :, 0]
        expected[1, row, :, column] = values[row, :, 0]
    torch.testing.assert_close(torch.stack((got_keys, got_values)), expected)
    again, _ = cache.update(keys, values, 0)
    assert again.data_ptr() == got_keys.data_ptr()


def test_a_moved_slot_keeps_its_columns():
    cache = SlotCache(CONFIG, num_slots=3, max_length=4)
    keys = states(1, 2)
    cache.prefill(torch.tensor([2]))
    cache.update(keys, keys + 50, 0)
    cache.copy(2, 0, 2)
    cache.decode(torch.tensor([2]), width=3)
    got_keys, got_values = cache.update(torch.zeros(1, HEADS, 1, WIDTH), torch.zeros(1, HEADS, 1, WIDTH), 0)
    torch.testing.assert_close(got_keys[:, :, :2], keys)
    torch.testing.assert_close(got_values[:, :, :2], keys + 50)


def test_a_freed_cache_starts_empty():
    cache = SlotCache(CONFIG, num_slots=1, max_length=2)
    cache.decode(torch.tensor([0]), width=2)
    cache.update(states(1, 1), states(1, 1), 0)
    cache.free()
    assert cache.layers[0].keys is None
    cache.decode(torch.tensor([1]), width=2)
    keys, _ = cache.update(states(1, 1), states(1, 1), 0)
    assert keys[:, :, 0].count_nonzero() == 0


def test_a_window_shorter_than_the_longest_response_is_refused_with_both_numbers():
    config = MistralConfig(num_hidden_layers=2, sliding_window=16)
    SlotCache(config, num_slots=1, max_length=16)
    with pytest.raises(ValueError, match=r"max_length 17 and a sliding window of 16"):
        SlotCache(config, num_slots=1, max_length=17)


def test_recurrent_layers_are_refused():
    config = Mamba2Config(num_hidden_layers=2)
    with pytest.raises(ValueError, match=rf"LinearAttentionLayer in layer 0 of {config.model_type}"):
        SlotCache(config, num_slots=1, max_length=4)
