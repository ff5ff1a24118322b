"""The record that flows from an engine to the learner.

- :class:`TokenEpisode`: one response as columns, with what RLlib asks of an episode.
- :class:`TraceSummary`: what metrics read of its columns.

RLlib's ``SingleAgentEpisode`` costs several microseconds a token to build; this is a handful of numpy arrays.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from espo_env.grading import Grade
from espo_env.types import TRACE_COLUMNS, StopReason, Trajectory

__all__ = ["POSITIONS", "TokenEpisode", "TraceSummary"]

POSITIONS = (0, 25, 50, 75)
"""Where a summary has values: behind this many percent of a response's tokens."""

_NOTHING = np.zeros(0, np.float32)
"""One array for all columns that are left behind, so that it is pickled once."""


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """What metrics read of a response's columns, so that the columns themselves need not travel.

    Attributes:
        regret: Sum of the step regrets, nats; of a column that nobody measured 0.
        z: Sum of ``z``.
        threshold: Sum of the thresholds.
        measured: Number of tokens that these sums are over.
        values: ``V(s_t)`` at each of :data:`POSITIONS`; empty where nobody measured values.
    """

    regret: float
    z: float
    threshold: float
    measured: int
    values: tuple[float, ...]


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
    """``weights_seq_no`` of the weights that wrote it; where it was carried on, of those that finished it."""
    grade: Grade | None = None
    """The whole verdict behind ``correct``."""
    error: str = ""
    """Name of the exception that lost it; set with ``StopReason.ERROR`` alone."""
    message: str = ""
    """What that exception says."""
    runner: int = 0
    """Index of the runner that wrote it; 0 for the algorithm's own process."""
    summary: TraceSummary | None = None
    """What there was in its columns; set where some were left behind, see :meth:`without_traces`."""

    @property
    def is_trainable(self) -> bool:
        """Whether it was finished or stopped; what was lost or given up is counted, never trained on."""
        return self.stop_reason not in (StopReason.ABORT, StopReason.ERROR) and len(self) > 0

    @property
    def first_version(self) -> int:
        """Version of the weights that wrote its first token."""
        return self.segments[0].version if self.segments else self.weights_version

    def env_steps(self) -> int:
        """Number of tokens written (RLlib's environment steps)."""
        return len(self)

    def agent_steps(self) -> int:
        """The same number: there is one agent."""
        return len(self)

    def get_return(self) -> float:
        """Undiscounted sum of rewards: every reward but the last is 0."""
        return self.reward

    def summarised(self) -> TraceSummary:
        """What metrics read of its columns, whether they are still there or were left behind."""
        if self.summary is not None:
            return self.summary
        regret, z, threshold = (float(c.sum(dtype=np.float64)) for c in (self.regrets, self.z, self.thresholds))
        steps = [percent * len(self) // 100 for percent in POSITIONS] if len(self.values) else []
        return TraceSummary(regret, z, threshold, len(self.z), tuple(self.values[steps].tolist()))

    def stopped_at_mark(self) -> TokenEpisode:
        """A copy of a marked response as if it had been stopped there: without what came later, reward or grade."""
        end = self.mark + 1
        columns: dict[str, Any] = {name: getattr(self, name)[:end] for name in TRACE_COLUMNS}
        return replace(
            self,
            response_tokens=self.response_tokens[:end],
            stop_reason=StopReason.REGRET,
            reward=0.0,
            correct=None,
            grade=None,
            **columns,
        )

    def without_traces(self, keep: Collection[str] = ()) -> TokenEpisode:
        """A copy that has left its columns behind, but for the named ones of ``TRACE_COLUMNS``."""
        left: dict[str, Any] = {name: _NOTHING for name in TRACE_COLUMNS if name not in keep}
        return replace(self, summary=self.summarised(), **left)

    def to_learn(self) -> TokenEpisode:
        """A copy that has nothing but what a learner reads."""
        return TokenEpisode(
            self.prompt_tokens,
            self.response_tokens,
            self.stop_reason,
            self.reward,
            logprobs=self.logprobs,
            regrets=_NOTHING,
            values=_NOTHING,
            z=_NOTHING,
            thresholds=_NOTHING,
            mark=self.mark,
            truncated=self.truncated,
            group=self.group,
        )
