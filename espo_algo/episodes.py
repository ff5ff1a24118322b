"""The record that flows from an engine to the learner.

- :class:`TokenEpisode`: one response as columns, with what RLlib asks of an episode.

RLlib's ``SingleAgentEpisode`` costs several microseconds a token to build; this is a handful of numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from espo_env.grading import Grade
from espo_env.types import StopReason, Trajectory

if TYPE_CHECKING:
    import gymnasium as gym
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

__all__ = ["TokenEpisode"]


@dataclass(slots=True, eq=False)
class TokenEpisode(Trajectory):
    """A :class:`~espo_env.types.Trajectory` that knows where it came from."""

    request_id: int = -1
    """The request that it answers."""
    seed: int = 0
    """The request's sampling seed: the same weights and seed give the same tokens."""
    weights_version: int = 0
    """``weights_seq_no`` of the weights that wrote it."""
    grade: Grade | None = None
    """The whole verdict behind ``correct``."""
    error: str = ""
    """Name of the exception that lost it; set with ``StopReason.ERROR`` alone."""

    @property
    def is_trainable(self) -> bool:
        """Whether it came to an end of its own; what was lost or given up is counted, never trained on."""
        return self.stop_reason not in (StopReason.ABORT, StopReason.ERROR) and len(self) > 0

    def env_steps(self) -> int:
        """Number of tokens written (RLlib's environment steps)."""
        return len(self)

    def agent_steps(self) -> int:
        """The same number: there is one agent."""
        return len(self)

    def get_return(self) -> float:
        """Undiscounted sum of rewards: every reward but the last is 0."""
        return self.reward

    def to_single_agent_episode(self, observation_space: gym.Space, action_space: gym.Space) -> SingleAgentEpisode:
        """The same episode in RLlib's form, for callbacks and offline data.

        Args:
            observation_space: The environment's, ``{"tokens": (max_length,), "length": ()}``.
            action_space: The environment's, ``Discrete(V)``.
        """
        from ray.rllib.core.columns import Columns
        from ray.rllib.env.single_agent_episode import SingleAgentEpisode

        width = observation_space["tokens"].shape[0]  # type: ignore[index]
        written = np.concatenate([self.prompt_tokens, self.response_tokens])
        observations = []
        for length in range(len(self.prompt_tokens), len(written) + 1):
            tokens = np.zeros(width, np.int32)
            tokens[:length] = written[:length]
            observations.append({"tokens": tokens, "length": np.asarray(length, np.int32)})
        rewards = [0.0] * len(self)
        rewards[-1] = float(self.reward)
        extra = {Columns.ACTION_LOGP: self.logprobs, "regret": self.regrets, Columns.VF_PREDS: self.values}
        return SingleAgentEpisode(
            id_=str(self.request_id),
            observations=observations,
            observation_space=observation_space,
            actions=list(self.response_tokens),
            action_space=action_space,
            rewards=rewards,
            terminated=self.terminated,
            truncated=not self.terminated,
            extra_model_outputs={name: list(column) for name, column in extra.items() if len(column)},
            infos=[{} for _ in range(len(self))] + [{"stop_reason": self.stop_reason}],
            len_lookback_buffer=0,
        )
