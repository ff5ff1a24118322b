"""A trained policy.

- :class:`Policy`: the model with its state of early stopping and its configuration: what ``ESPO.policy()`` gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from espo_algo.learning.model import LanguageModelWithCritic
from espo_env.early_stopping import EarlyStoppingState

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy with its critic, its state of early stopping and its configuration.

    Attributes:
        config: How it was trained, or is to be used.
        model: Weights, on the CPU.
        early_stopping: State of early stopping; None for a model whose critic was never trained.
        source: Where it came from, as JSON.
        adapter: The policy's LoRA by the names of peft's files, beside ``model``, which it is merged into; None where
            all weights were trained.
    """

    config: ESPOConfig
    model: LanguageModelWithCritic
    early_stopping: EarlyStoppingState | None
    source: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, NDArray[np.float32]] | None = None
