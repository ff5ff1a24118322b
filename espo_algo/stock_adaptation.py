"""Early stopping that adapts under RLlib's own algorithms.

- :class:`KeepEpisodes`: keeps the records of an environment's episodes until the driver takes them.
- :class:`EarlyStoppingCarrier`: keeps the state in the env runners' states, and so in checkpoints.
- :class:`AdaptStock`: after each iteration takes all runners' episodes and sends the new state.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from functools import partial
from typing import Any

import gymnasium as gym
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2

from espo_env.early_stopping import EarlyStoppingState
from espo_env.types import Trajectory
from espo_env.wrappers import RegretTermination

__all__ = ["AdaptStock", "EarlyStoppingCarrier", "KeepEpisodes"]


class KeepEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the records of episodes that have ended, the newest ones, until they are taken.

    Args:
        env: With the failure detector.
        most: How many are kept.
    """

    def __init__(self, env: RegretTermination, most: int = 10_000) -> None:
        super().__init__(env)
        self._episodes: deque[Trajectory] = deque(maxlen=most)
        env.listen(self._episodes.append)

    def take_episodes(self) -> list[Trajectory]:
        """What has ended since the last call."""
        taken = list(self._episodes)
        self._episodes.clear()
        return taken


class EarlyStoppingCarrier(ConnectorV2):
    """Carries the state of early stopping with an env runner, and sets it on the runner's environments.

    It leaves batches alone. As the first env-to-module piece (behind the others RLlib would merge another piece's state
    into it) its state goes into checkpoints, to every runner when one is restored, and to a runner that was restarted.

    Args:
        state: What to start from.
        env: The runner's vector environment, None on a driver that has none.
    """

    def __init__(self, state: EarlyStoppingState, env: Any) -> None:
        super().__init__()
        self._env = env
        self.adopt(state, env)

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Gives the batch back as it is."""
        return batch

    def adopt(self, state: EarlyStoppingState, env: Any) -> None:
        """Takes a new state, and sets it on an environment (None for none)."""
        self.state = state
        if env is not None:
            detector = state.detector_state
            env.unwrapped.call("configure", detector.statistics, detector.beta, detector.enabled)

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The state, under ``"early_stopping"``; RLlib's signature."""
        return {"early_stopping": self.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` has given."""
        self.adopt(state["early_stopping"], self._env)

    def merge_states(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """The newest of the runners' states: the driver has made them all."""
        return max(states, key=lambda state: state["early_stopping"].num_updates)


class AdaptStock(RLlibCallback):
    """Moves statistics, tolerance and warm-up after each training iteration, over all runners' episodes at once.

    Results have them under ``early_stopping``: ``beta``, ``regret_mean``, ``regret_var``, ``enabled``.
    """

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
        """Updates the state; RLlib calls this on the driver."""
        runners = algorithm.env_runner_group
        episodes = [episode for taken in runners.foreach_env_runner(_take_episodes) for episode in taken]
        state = _carrier(algorithm.env_runner).state
        if episodes:
            trained = result.get("learners", {}).get("default_policy", {})
            settings = algorithm.config.env_config["detector_settings"]
            critic_loss, explained = trained.get("vf_loss", math.inf), trained.get("vf_explained_var", math.nan)
            state = state.updated(episodes, settings, float(critic_loss), float(explained))
        for group in (runners, algorithm.eval_env_runner_group):
            if group is not None:
                group.foreach_env_runner(partial(_adopt, state=state))
        result["early_stopping"] = {
            "beta": state.tolerance.beta,
            "regret_mean": state.statistics.mean,
            "regret_var": state.statistics.var,
            "enabled": float(state.detector_state.enabled),
        }


def _carrier(runner: Any) -> EarlyStoppingCarrier:
    (carrier,) = runner._env_to_module[EarlyStoppingCarrier]
    return carrier


def _take_episodes(runner: Any) -> list[Trajectory]:
    if runner.env is None:
        return []
    return [episode for taken in runner.env.unwrapped.call("take_episodes") for episode in taken]


def _adopt(runner: Any, state: EarlyStoppingState) -> None:
    _carrier(runner).adopt(state, runner.env)
