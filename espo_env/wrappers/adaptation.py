"""Early stopping that adapts, in any training loop.

- :class:`Adaptation`: moves statistics, tolerance and warm-up of regret wrappers from batch to batch.
"""

from __future__ import annotations

import math
from typing import Any

from espo_env.early_stopping import EarlyStoppingState
from espo_env.types import Trajectory
from espo_env.wrappers.regret_termination import RegretTermination
from espo_env.wrappers.vector_regret_termination import VectorRegretTermination

__all__ = ["Adaptation"]


class Adaptation:
    """Adapts the wrappers of a training loop to the episodes that end in them, with the numbers ESPO would give.

    In the loop it is one line, after each update: ``adaptation.update(critic_loss, explained_variance)``.

    Args:
        *envs: Environments with a :class:`RegretTermination`, or vector environments with a
            :class:`VectorRegretTermination`, under any other wrappers; all with the same rule and constants. Their
            statistics, tolerance and warm-up flag are set from ``state`` at once.
        state: What to start from; the paper's where None.

    Attributes:
        state: The newest one.
        stop_rate: Share of the episodes of the last update that were stopped; NaN before the first.

    Raises:
        ValueError: If there is no environment, one has no such wrapper, or their rules or constants differ.

    Example:
        >>> import gymnasium as gym
        >>> env = RegretTermination(gym.make("FrozenLake-v1", max_episode_steps=2))
        >>> adaptation = Adaptation(env)
        >>> _ = env.reset(seed=0)
        >>> for regret in (0.5, 1.5):
        ...     _ = env.step({"token": 0, "regret": regret, "value": 0.1})
        >>> adaptation.update(critic_loss=0.2, explained_variance=0.1).statistics
        RegretStatistics(mean=1.0, var=0.25, momentum=0.99)
        >>> env.detector.state.enabled  # the critic's warm-up goes on
        False
    """

    def __init__(self, *envs: Any, state: EarlyStoppingState | None = None) -> None:
        if not envs:
            raise ValueError("expected an environment, got none")
        self.state = state or EarlyStoppingState()
        self.stop_rate = math.nan
        self._wrappers = [_find(env) for env in envs]
        self._settings = self._wrappers[0].detector.settings
        self._episodes: list[Trajectory] = []
        for wrapper in self._wrappers:
            if wrapper.detector.settings != self._settings:
                raise ValueError(f"expected one set of constants, got {self._settings} and {wrapper.detector.settings}")
            wrapper.listen(self._episodes.append)
        self._configure()

    @property
    def num_episodes(self) -> int:
        """Episodes that have ended since the last update."""
        return len(self._episodes)

    def update(self, critic_loss: float = math.inf, explained_variance: float = math.nan) -> EarlyStoppingState:
        """Takes in the episodes that have ended since the last update. Call it after a batch's update.

        Args:
            critic_loss: The critic's mean squared error in this batch's update; infinite where there is none, and then
                only the state's ``warmup`` says when stopping begins.
            explained_variance: Share of the returns' variance that the critic explained before the update.

        Returns:
            The new state; the old one where no episode has ended.
        """
        if self._episodes:
            self.state = self.state.updated(self._episodes, self._settings, critic_loss, explained_variance)
            self.stop_rate = sum(e.mark >= 0 for e in self._episodes) / len(self._episodes)
            self._episodes.clear()
            self._configure()
        return self.state

    def _configure(self) -> None:
        state = self.state.detector_state
        for wrapper in self._wrappers:
            wrapper.configure(state.statistics, state.beta, state.enabled)


def _find(env: Any) -> RegretTermination | VectorRegretTermination:
    layer = env
    while not isinstance(layer, RegretTermination | VectorRegretTermination):
        if layer is layer.unwrapped:
            raise ValueError(f"expected an environment with RegretTermination or VectorRegretTermination, got {env}")
        layer = layer.env
    return layer
