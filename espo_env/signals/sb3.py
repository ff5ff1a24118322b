"""Signals of plain actions from Stable-Baselines3.

- :class:`SB3Signals`: from PPO or A2C, from the forward pass that has drawn the action.
- :class:`SB3QSignals`: from DQN.
- :class:`AdaptInSB3`: a callback that adapts statistics and tolerance between rollouts.

A model is made for an environment, and the signals are the model's. So they are made first, and attached at last::

    signals = SB3Signals()
    env = gym.make("espo_env/Arithmetic-v0", signals=signals, early_stopping={"beta": 1.5})
    model = PPO("MultiInputPolicy", env)
    signals.attach(model)

Environments and model have to live in one process (``DummyVecEnv``, which is Stable-Baselines3's default).
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from espo_env.signals.torch_function import regret_and_value
from espo_env.wrappers.adaptation import Adaptation

__all__ = ["AdaptInSB3", "SB3QSignals", "SB3Signals"]


class SB3Signals:
    """Regret and value of an action, from a PPO or A2C.

    While a rollout is collected, both are those of the forward pass that has drawn the action: nothing is computed
    twice, and whatever lies between environment and policy (``VecNormalize``, stacked frames) is in them. Elsewhere, as
    under ``evaluate_policy``, a forward pass is made on the environment's own observation (normalised by the model's
    ``VecNormalize``).
    """

    def __init__(self) -> None:
        self._model: OnPolicyAlgorithm | None = None
        self._logits: Tensor | None = None
        # Actions, logits and values of the last forward pass whose actions were not all asked about.
        self._pass: tuple[Tensor, Tensor, Tensor] | None = None
        self._row = 0

    def attach(self, model: OnPolicyAlgorithm) -> None:
        """Takes the model whose actions these are the signals of.

        Raises:
            TypeError: If it is not PPO, A2C or a relative of theirs.
        """
        if not isinstance(model, OnPolicyAlgorithm):
            raise TypeError(f"expected a PPO or A2C of Stable-Baselines3, got {type(model).__name__}")
        self._model = model
        model.policy.action_net.register_forward_hook(self._saw_logits)
        model.policy.register_forward_hook(self._saw_actions)

    def __call__(self, observation: Any, action: Any) -> tuple[float, float]:
        """Regret and value of one action.

        Raises:
            RuntimeError: If no model was attached in this process.
        """
        if self._model is None:
            raise RuntimeError("expected attach(model) in the process of the environment before its first step")
        chosen = torch.as_tensor(np.asarray(action))
        if self._pass is not None:
            # DummyVecEnv steps its environments in the order of the rows.
            actions, logits, values = (column[self._row : self._row + 1] for column in self._pass)
            self._row += 1
            if self._row == len(self._pass[0]):
                self._pass = None
            if int(actions[0]) == int(chosen):
                return regret_and_value(logits, values, chosen.to(logits.device))
            self._pass = None  # not the actions that are played
        policy, normalised = self._model.policy, self._model.get_vec_normalize_env()
        if normalised is not None:
            observation = normalised.normalize_obs(observation)
        with torch.no_grad():
            tensors, _ = policy.obs_to_tensor(observation)
            logits, values = policy.get_distribution(tensors).distribution.logits, policy.predict_values(tensors)
        return regret_and_value(logits, values, chosen.to(logits.device))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def _saw_logits(self, module: Any, inputs: Any, logits: Tensor) -> None:
        self._logits = logits

    def _saw_actions(self, module: Any, inputs: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        assert self._logits is not None
        actions, values, _ = outputs
        self._pass, self._row = (actions, self._logits, values), 0


class SB3QSignals:
    """Regret ``max Q - Q(action)`` and value ``max Q``, from a DQN; its exploring actions have regret, too."""

    def __init__(self) -> None:
        self._model: DQN | None = None

    def attach(self, model: DQN) -> None:
        """Takes the model whose actions these are the signals of.

        Raises:
            TypeError: If it is not a DQN.
        """
        if not isinstance(model, DQN):
            raise TypeError(f"expected a DQN of Stable-Baselines3, got {type(model).__name__}")
        self._model = model

    def __call__(self, observation: Any, action: Any) -> tuple[float, float]:
        """Regret and value of one action.

        Raises:
            RuntimeError: If no model was attached in this process.
        """
        if self._model is None:
            raise RuntimeError("expected attach(model) in the process of the environment before its first step")
        with torch.no_grad():
            q_values = self._model.q_net(self._model.policy.obs_to_tensor(observation)[0])
        return regret_and_value(
            q_values, q_values.amax(-1), torch.as_tensor(np.asarray(action), device=q_values.device)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class AdaptInSB3(BaseCallback):
    """Adapts statistics, tolerance and warm-up between rollouts, with the model's own critic loss.

    Args:
        adaptation: Of the model's environments, ``Adaptation(*model.env.envs)``.
        min_episodes: Episodes that an update waits for, >= 1; off-policy algorithms collect a few steps at a time.
    """

    def __init__(self, adaptation: Adaptation, min_episodes: int = 1) -> None:
        super().__init__()
        self.adaptation = adaptation
        self.min_episodes = min_episodes

    def _on_rollout_start(self) -> None:
        if self.adaptation.num_episodes >= self.min_episodes:
            trained = self.logger.name_to_value
            self.adaptation.update(
                trained.get("train/value_loss", math.inf), trained.get("train/explained_variance", math.nan)
            )

    def _on_step(self) -> bool:
        return True
