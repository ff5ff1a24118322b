"""Stop rates of a run whose batches are no fair sample of its responses.

- :class:`StopRates`: of consecutive plans, a batch's worth each, as soon as the fate of all of them is known.

Where a batch is made of the responses that are over first, those that were stopped come early and those that run on
come late. By the plans each response counts once, beside those that were begun with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from espo_algo.episodes import TokenEpisode

__all__ = ["StopRates"]


class StopRates:
    """Takes in the fate of each plan of a run, in any order.

    Args:
        first: The number of the first plan that counts.
    """

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self._fates: dict[int, bool | None] = {}

    def known(self, size: int, episodes: dict[int, TokenEpisode], lost: Iterable[int]) -> list[float]:
        """The rates that are known by now and were not before, in the plans' order.

        Args:
            size: Consecutive plans of a rate; the same in every call.
            episodes: Responses by the number of their plan. One counts if it can be learnt from, and stopping was on
                from its first token to its last: what began before the warm-up was over might have been stopped then.
            lost: Numbers of plans that have no response.
        """
        self._fates |= dict.fromkeys(lost)
        for number, episode in episodes.items():
            counts = episode.is_trainable and all(segment.stopping for segment in episode.segments)
            self._fates[number] = episode.mark >= 0 if counts else None
        rates = []
        while all(number in self._fates for number in range(self._first, self._first + size)):
            fates = [self._fates.pop(number) for number in range(self._first, self._first + size)]
            self._first += size
            if counted := [fate for fate in fates if fate is not None]:
                rates.append(sum(counted) / len(counted))
        return rates

    def get_state(self) -> dict[str, Any]:
        """The first plan whose fate does not count yet, and the fates known."""
        return {"first": self._first, "fates": dict(self._fates)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` gave."""
        self._first, self._fates = state["first"], dict(state["fates"])
