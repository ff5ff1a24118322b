"""The record that flows from an engine to the learner.

- :class:`TokenEpisode`: one response as columns, with what RLlib asks of an episode.

RLlib's ``SingleAgentEpisode`` costs several microseconds a token to build; this is a handful of numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from espo_env.grading import Grade
from espo_env.types import StopReason, Trajectory

__all__ = ["TokenEpisode"]


@dataclass(slots=True, eq=False)
class TokenEpisode(Trajectory):
    """A :class:`~espo_env.types.Trajectory` with its origin (request, seed, prompt, weights) and its whole grade."""

    request_id: int = -1
    """The request that it answers."""
    seed: int = 0
    """The request's sampling seed: the same weights and seed give the same tokens."""
    group: int = 0
    """Number of the prompt in the run; responses to the same prompt share it."""
    weights_version: int = 0
    """``weights_seq_no`` of the weights that wrote it."""
    grade: Grade | None = None
    """The whole verdict behind ``correct``."""
    error: str = ""
    """Name of the exception that lost it; set with ``StopReason.ERROR`` alone."""
    message: str = ""
    """What that exception says."""
    runner: int = 0
    """Index of the runner that wrote it; 0 for the algorithm's own process."""

    @property
    def is_trainable(self) -> bool:
        """Whether it was finished or stopped; what was lost or given up is counted, never trained on."""
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
