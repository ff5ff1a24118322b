"""Records of episodes that the regret wrappers keep, of any environment with discrete actions.

- :class:`SignalHistory`: actions and signals of the running episodes.
- :func:`natural_stop_reason`: why an episode ended that was not stopped.
- :data:`EpisodeListener`: what is told of each episode that ends.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from espo_env.types import StopReason, Trajectory

__all__ = ["EpisodeListener", "SignalHistory", "natural_stop_reason"]

EpisodeListener = Callable[[Trajectory], None]
"""Is called with the record of an episode at its end."""


class SignalHistory:
    """Actions, regrets, values, ``z`` and thresholds of the running episodes, which may be of any length.

    Args:
        num_slots: Number of slots.
    """

    def __init__(self, num_slots: int) -> None:
        # (column, slot, step); the last axis grows.
        self._signals = np.zeros((4, num_slots, 64), np.float32)
        self._actions = np.zeros((num_slots, 64), np.int32)

    def write(
        self,
        slots: NDArray[np.integer],
        steps: NDArray[np.integer],
        actions: NDArray[np.integer],
        signals: NDArray[np.float32],
    ) -> None:
        """Keeps one step of some slots.

        Args:
            slots: Shape (n,).
            steps: Index of the step within each slot's episode, shape (n,).
            actions: Shape (n,).
            signals: Regret, value, ``z`` and threshold, shape (4, n).
        """
        if steps.max(initial=0) >= self._actions.shape[1]:
            self._signals = np.concatenate([self._signals, np.zeros_like(self._signals)], axis=-1)
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=-1)
        self._signals[:, slots, steps] = signals
        self._actions[slots, steps] = actions

    def signals(self, slot: int, length: int) -> NDArray[np.float32]:
        """Regrets, values, ``z`` and thresholds of the slot's first steps, shape (4, length)."""
        return self._signals[:, slot, :length].copy()

    def record(self, slot: int, length: int, stop_reason: StopReason, mark: int) -> Trajectory:
        """The slot's first steps as a record without a prompt, whose response is the actions."""
        regrets, values, z, thresholds = self.signals(slot, length)
        return Trajectory(
            prompt_tokens=np.zeros(0, np.int32),
            response_tokens=self._actions[slot, :length].copy(),
            stop_reason=stop_reason,
            regrets=regrets,
            values=values,
            z=z,
            thresholds=thresholds,
            mark=mark,
        )


def natural_stop_reason(truncated: bool) -> StopReason:
    """``LENGTH`` for an episode that was cut off, ``EOS`` for one that has come to its own end."""
    return StopReason.LENGTH if truncated else StopReason.EOS
