"""A wrapper that keeps the records of finished episodes.

- :class:`RecordTrajectory`: collects a :class:`~espo_env.types.Trajectory` of each.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym

from espo_env.types import Trajectory

__all__ = ["RecordTrajectory"]


class RecordTrajectory(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Collects a :class:`~espo_env.types.Trajectory` of every finished episode, with its signals where there are any.

    Put it outside :class:`~espo_env.wrappers.RegretTermination` to have regrets, values, ``z`` and thresholds.

    Args:
        env: A :class:`~espo_env.token_env.TokenGenerationEnv`, wrapped or not.
        max_trajectories: How many are kept, the newest ones; >= 1.

    Attributes:
        trajectories: The records, oldest first.

    Raises:
        ValueError: If the environment has no trajectories to give, or ``max_trajectories`` is out of its range.
    """

    def __init__(self, env: gym.Env[Any, Any], max_trajectories: int = 100) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, max_trajectories=max_trajectories)
        gym.Wrapper.__init__(self, env)
        if max_trajectories < 1:
            raise ValueError(f"expected max_trajectories >= 1, got {max_trajectories}")
        if not env.has_wrapper_attr("trajectory"):
            raise ValueError(f"expected a TokenGenerationEnv, wrapped or not, got {env}")
        self.trajectories: deque[Trajectory] = deque(maxlen=max_trajectories)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes one step; keeps the episode's record if it was the last one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            trajectory: Trajectory = self.env.get_wrapper_attr("trajectory")()
            trajectory.reward = float(reward)
            self.trajectories.append(trajectory)
        return observation, reward, terminated, truncated, info
