"""A response that is not finished, as it travels from the engine that began it to the one that goes on with it.

- :class:`PartialResponse`: what was written of it, with what the failure detector needs to go on.
- :data:`Answer`: what comes of a plan.

Beside it a response depends on its request and the detector's state alone: its uniforms and the ``random`` rule's
variate follow from the seed. So one that is cut and carried on by the same weights is the uncut one; where the weights
have changed, each token keeps the log-probability with which it was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from espo_algo.episodes import TokenEpisode
from espo_env.types import TRACE_COLUMNS, Segment

__all__ = ["Answer", "PartialResponse", "extended"]


@dataclass(frozen=True, slots=True, eq=False)
class PartialResponse:
    """What was written of a response that is not finished; of one that nobody has begun, nothing.

    Attributes:
        response_tokens: Shape (t,).
        trace: What was measured at them, a row for each of ``TRACE_COLUMNS``, shape (len(TRACE_COLUMNS), t).
        mark: Step at which the detector fired first, -1 if it has not.
        z: The detector's smoothed regret behind the last token; its score under other rules is another number.
        segments: What wrote which tokens, the oldest first.
    """

    response_tokens: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    trace: NDArray[np.float32] = field(default_factory=lambda: np.zeros((len(TRACE_COLUMNS), 0), np.float32))
    mark: int = -1
    z: float = 0.0
    segments: tuple[Segment, ...] = ()

    def __len__(self) -> int:
        return len(self.response_tokens)

    @property
    def first_version(self) -> int:
        """Version of the weights that wrote its first token; it has one."""
        return self.segments[0].version


Answer: TypeAlias = TokenEpisode | PartialResponse
"""A response that is over, or one that is to be carried on."""


def extended(before: PartialResponse | None, tokens: int, version: int, stopping: bool) -> tuple[Segment, ...]:
    """The segments of a response that has got as many tokens by now.

    Args:
        before: What there was of it when it was submitted.
        tokens: All that it has.
        version: Of the weights that wrote the new ones.
        stopping: Whether the detector was to fire at these.
    """
    known = before or PartialResponse()
    new = tokens - len(known)
    return (*known.segments, Segment(new, version, stopping)) if new else known.segments
