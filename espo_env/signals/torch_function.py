"""Signals of plain actions from torch functions.

- :class:`TorchSignals`: from logits and a value.
- :class:`QSignals`: from Q-values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from espo_env.early_stopping import step_regret

__all__ = ["QSignals", "TorchSignals"]


class TorchSignals:
    """Regret and value of an action, from a function of the observation before it.

    Copies share the function: a copied environment asks the same policy. A process of its own (``AsyncVectorEnv``) asks
    a policy of its own, which nobody trains; use these where environment and policy live in one process.

    Args:
        function: Maps a batch of observations (tensors, nested as the space is, with an axis of length B in front) to
            logits of shape (B, A) and values of shape (B,) or (B, 1). Called without gradients.
        device: Where the observations go.

    Example:
        >>> import gymnasium as gym, espo_env
        >>> signals = TorchSignals(lambda observations: (observations[:, :2], observations[:, 2]))
        >>> signals(np.array([0.0, 1.5, 0.25, 0.0], np.float32), 0)
        (1.5, 0.25)
        >>> env = espo_env.RegretTermination(gym.make("CartPole-v1"), signals=signals)
        >>> env.action_space
        Discrete(2)
    """

    def __init__(self, function: Callable[[Any], tuple[Tensor, Tensor]], device: str | torch.device = "cpu") -> None:
        self.function = function
        self.device = torch.device(device)

    def __call__(self, observation: Any, action: Any) -> tuple[Any, Any]:
        """Regret and value: two numbers for one action, two arrays of shape (N,) for N of them."""
        actions = torch.as_tensor(np.asarray(action), device=self.device)
        one = actions.ndim == 0
        with torch.no_grad():
            logits, values = self.function(self._tensors(observation, one))
        return regret_and_value(logits, values, actions)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def _tensors(self, observation: Any, one: bool) -> Any:
        if isinstance(observation, Mapping):
            return {name: self._tensors(part, one) for name, part in observation.items()}
        if isinstance(observation, tuple):
            return tuple(self._tensors(part, one) for part in observation)
        tensor = torch.as_tensor(np.asarray(observation), device=self.device)
        return tensor[None] if one else tensor


class QSignals(TorchSignals):
    """Regret ``max Q - Q(action)`` and value ``max Q``, from a function of the observation before the action.

    The regret is in units of reward, not in nats: statistics of log-probabilities do not fit it.

    Args:
        function: Maps a batch of observations, as in :class:`TorchSignals`, to Q-values of shape (B, A).
        device: Where the observations go.
    """

    def __init__(self, function: Callable[[Any], Tensor], device: str | torch.device = "cpu") -> None:
        def with_value(observations: Any) -> tuple[Tensor, Tensor]:
            q_values = function(observations)
            return q_values, q_values.amax(-1)

        super().__init__(with_value, device)


def regret_and_value(logits: Tensor, values: Tensor, actions: Tensor) -> tuple[Any, Any]:
    """Regret and value of actions.

    Args:
        logits: Shape (B, A).
        values: Shape (B,) or (B, 1).
        actions: Shape (B,), or () where B is 1.

    Returns:
        Two arrays of shape (B,), or two numbers for an action of shape ().
    """
    regrets = step_regret(logits.detach().float(), actions.reshape(-1).long()).cpu().numpy()
    numbers = values.detach().float().reshape(-1).cpu().numpy()
    return (regrets, numbers) if actions.ndim else (float(regrets[0]), float(numbers[0]))
