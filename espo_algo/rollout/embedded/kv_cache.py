"""A key/value cache of fixed slots, for any decoder-only model of transformers.

- :class:`SlotCache`: one row a slot, allocated once; rows of different lengths are decoded together.

The transformers caches grow by concatenation and know a single length for the whole batch. Here the memory is
allocated once, every slot has its own length, and attention reads views of it: nothing is copied but the new token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from espo_algo.learning.model import check_keys_and_values

__all__ = ["SlotCache"]


class SlotCache(Cache):
    """Keys and values of shape (num_slots, kv_heads, max_length, head_dim) a layer.

    Before each forward pass the owner says what it is: :meth:`prefill` of new prompts, or :meth:`decode` of one token
    for each of the first ``n`` slots. Memory is taken in the first pass, when shapes and dtype are known.

    Args:
        config: The model's configuration.
        num_slots: Rows.
        max_length: Columns; positions a row can hold.

    Raises:
        ValueError: If a layer's state is not plain keys and values, or a sliding window is shorter than
            ``max_length`` (its oldest columns would have to be masked).
    """

    def __init__(self, config: PretrainedConfig, num_slots: int, max_length: int) -> None:
        check_keys_and_values(config, max_length)
        self._target = _Target()
        layers = [_SlotLayer(self._target, num_slots, max_length) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=layers)

    def prefill(self, slots: Tensor) -> None:
        """The next pass writes whole prompts, right-padded, from column 0 on, and attends to nothing else.

        Padding writes columns behind the prompt; they are overwritten before they are ever read.

        Args:
            slots: Slot of each row of the batch, shape (B,).
        """
        self._target.slots, self._target.columns = slots, None

    def decode(self, columns: Tensor, width: int) -> None:
        """The next pass writes one token for each of the first ``n`` slots and reads columns ``[0, width)``.

        Args:
            columns: Where each slot's token goes, shape (n,).
            width: Longest slot's length, this token included; the mask hides what lies behind the others'.
        """
        self._target.slots, self._target.columns, self._target.width = None, columns, width

    def copy(self, source: int | Tensor, target: int | Tensor, length: int) -> None:
        """Copies the first ``length`` columns of one slot to another, or of several to as many others."""
        for layer in self.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def free(self) -> None:
        """Gives the memory back; the next pass takes it again."""
        for layer in self.layers:
            layer.reset()


@dataclass(slots=True)
class _Target:
    """Where the next forward pass writes; shared by the layers."""

    slots: Tensor | None = None
    columns: Tensor | None = None
    width: int = 0


class _SlotLayer(DynamicLayer):
    def __init__(self, target: _Target, num_slots: int, max_length: int) -> None:
        super().__init__()
        self._target = target
        self._num_slots = num_slots
        self._max_length = max_length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        # Zeros, not empty: a masked column counts 0 times its value, and 0 times NaN is NaN.
        self.keys = key_states.new_zeros(self._num_slots, key_states.shape[1], self._max_length, key_states.shape[3])
        self.values = value_states.new_zeros(*self.keys.shape[:3], value_states.shape[3])
        # The first column of each (slot, head) where the cache is seen as rows of head_dim.
        heads = torch.arange(self._num_slots * key_states.shape[1], device=self.device)
        self._first_rows = (heads * self._max_length).view(self._num_slots, -1)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._target.columns is None:
            length = key_states.shape[2]
            self.keys[self._target.slots, :, :length] = key_states
            self.values[self._target.slots, :, :length] = value_states
            return key_states, value_states
        count, width = len(self._target.columns), self._target.width
        rows = (self._first_rows[:count] + self._target.columns[:, None]).flatten()
        for column, states in ((self.keys, key_states), (self.values, value_states)):
            column.view(-1, column.shape[3]).index_copy_(0, rows, states.reshape(len(rows), -1))
        return self.keys[:count, :, :width], self.values[:count, :, :width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0  # asked in prefill only: decoding brings its own mask

    def get_seq_length(self) -> int:
        return 0  # as above: rows have lengths of their own, and positions are always given
