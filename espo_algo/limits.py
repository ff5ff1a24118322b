"""How long the algorithm waits for its actors.

- :class:`WaitLimit`: a limit that learns from what the same wait has taken before.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WaitLimit"]


@dataclass(slots=True)
class WaitLimit:
    """The limit of one kind of wait: ``factor`` times the slowest so far, within ``[floor, most]``.

    Before anything was measured it is ``most``: a first call may load, compile or download.

    Attributes:
        most: Upper limit in seconds.
        factor: How much slower than ever before something may be.
        floor: Seconds that are waited in any case (but for ``most``).
        slowest: Seconds of the slowest so far; None before the first.
    """

    most: float
    factor: float
    floor: float
    slowest: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds to wait."""
        if self.slowest is None:
            return self.most
        return min(self.most, max(self.floor, self.factor * self.slowest))

    def took(self, seconds: float) -> None:
        """Takes in how long a wait took whose answers all came."""
        self.slowest = max(self.slowest or 0.0, seconds)
