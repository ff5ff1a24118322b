"""A trained policy.

- :class:`Policy`: the model with its state of early stopping and its configuration: what ``ESPO.policy()`` gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    """

    config: ESPOConfig
    model: LanguageModelWithCritic
    early_stopping: EarlyStoppingState | None
    source: dict[str, Any] = field(default_factory=dict)
