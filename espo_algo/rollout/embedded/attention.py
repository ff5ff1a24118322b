"""Attention of one new token for each response, for models whose query heads share keys and values.

- :class:`GroupedDecoding`: has a model attend so, while it is entered.

transformers' own attention copies the whole cache out for each query head that shares it, in every step and layer: most
of a decode step's time on a CPU. Here the query heads that share keys take the place of query positions, which
a decoded token has only one of, so that the cache is read where it lies.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["GroupedDecoding"]

_NAME = "espo_grouped"


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: query (n, H, T, D), key and value (n, K, S, D) -> (n, T, H, D)."""
    rows, heads, tokens, _ = query.shape
    shared = key.shape[1]
    if tokens > 1 or heads == shared:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    # A key/value head's query heads lie behind each other.
    grouped = query.reshape(rows, shared, heads // shared, -1)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, tokens, heads, -1), None


AttentionInterface.register(_NAME, _attend)


class GroupedDecoding:
    """Has models attend without a copy of keys and values, while it is entered; where they can, and else does nothing.

    Args:
        models: Trunks; they attend as before when it is left.
    """

    def __init__(self, *models: PreTrainedModel) -> None:
        self._configs = [
            model.config
            for model in models
            if model.config._attn_implementation == "sdpa"
            and any(getattr(module, "num_key_value_groups", 1) > 1 for module in model.modules())
        ]

    def __enter__(self) -> None:
        for config in self._configs:
            config._attn_implementation = _NAME

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for config in self._configs:
            config._attn_implementation = "sdpa"
