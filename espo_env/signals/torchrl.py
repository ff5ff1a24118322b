"""Signals from TorchRL.

- :class:`ActionWithSignals`: writes a policy's own logits and value into its action: no second forward pass.
- :class:`TorchRLSignals`: signals of plain actions, from an actor-critic.

TorchRL's ``GymWrapper`` takes the parts of an action under their own names. So around an environment whose actions say
regret and value themselves, a policy names its action ``"token"``, and :class:`ActionWithSignals` follows it::

    env = GymWrapper(RegretTermination(gym.make("CartPole-v1")))
    policy = TensorDictSequential(actor, critic, ActionWithSignals())  # actor: out_keys=["token"]
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor

from espo_env.early_stopping import step_regret
from espo_env.signals.torch_function import TorchSignals

__all__ = ["ActionWithSignals", "TorchRLSignals"]


class ActionWithSignals(TensorDictModule):
    """Adds ``"regret"`` and ``"value"`` to an action of a TorchRL policy.

    Args:
        logits: Key of the logits, shape (..., A).
        value: Key of the value, shape (..., 1).
        action: Key of the action: one-hot, shape (..., A), or an index, shape (...).
    """

    def __init__(self, logits: str = "logits", value: str = "state_value", action: str = "token") -> None:
        super().__init__(_regret_and_value, in_keys=[logits, value, action], out_keys=["regret", "value"])


class TorchRLSignals(TorchSignals):
    """Regret and value of plain actions, from a TorchRL actor-critic; one forward pass an action.

    Args:
        actor_critic: Reads observations and writes logits and value, as an ``ActorValueOperator`` does.
        logits: Key of the logits, shape (B, A).
        value: Key of the value, shape (B, 1).
        observation: Key of observations that are no dicts; those of dicts are the environment's own.
        device: Where the observations go.
    """

    def __init__(
        self,
        actor_critic: TensorDictModuleBase,
        logits: str = "logits",
        value: str = "state_value",
        observation: str = "observation",
        device: str | torch.device = "cpu",
    ) -> None:
        def function(observations: Any) -> tuple[Tensor, Tensor]:
            named = observations if isinstance(observations, dict) else {observation: observations}
            out = actor_critic(TensorDict(named, batch_size=len(next(iter(named.values())))))
            return out[logits], out[value]

        super().__init__(function, device)


def _regret_and_value(logits: Tensor, value: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    index = action.argmax(-1) if action.shape == logits.shape else action
    flat = step_regret(logits.detach().reshape(-1, logits.shape[-1]), index.reshape(-1).long())
    return flat.reshape(*logits.shape[:-1], 1).float(), value.detach().float()
