"""The weights of policy and critic as engines call them, gathered where they are sharded.

- :class:`WeightPass`: one pass after the other over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espo_algo.rollout.vllm.engine import engine_names
from espo_algo.weight_sync.packing import Weight, gathered

if TYPE_CHECKING:
    from espo_algo.learning.rl_module import LanguageModelRLModule

__all__ = ["WeightPass"]


class WeightPass:
    """One pass after the other over the weights of policy and critic, in the names and dtypes of the engines.

    Sharded weights are gathered tensor by tensor, by all learners together: none may leave a pass before its end.

    Args:
        module: The learner's.
    """

    def __init__(self, module: LanguageModelRLModule) -> None:
        self._module = module
        self._rest: Iterator[tuple[str, Tensor]] = iter(())

    def begin(self) -> None:
        """Starts the pass that the next iteration makes."""
        self._rest = self._gathered()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._rest

    def finish(self) -> None:
        """Makes the rest of the pass for the others' sake, where the sender has given it up."""
        for _ in self._rest:
            pass

    def shapes(self) -> list[tuple[str, torch.dtype, torch.Size]]:
        """What a pass gives, without gathering."""
        return [(name, self._dtype(name, weight), weight.shape) for name, weight in self._weights().items()]

    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self._weights().items():
            yield name, gathered(weight, self._dtype(name, weight))

    def _weights(self) -> dict[str, Weight]:
        return engine_names(self._module.model.plain_weights())

    def _dtype(self, name: str, weight: Weight) -> torch.dtype:
        return weight.dtype if name.startswith("value_head") else self._module.dtype
