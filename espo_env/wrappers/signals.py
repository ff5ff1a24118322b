"""How the regret wrappers read token, regret and value out of an action.

- :func:`read_action`: an action in any of its forms as :class:`~espo_env.types.PolicySignals`.
- :func:`check_signals`, :func:`check_success`: refuse regrets, values and success rates that cannot be.
- :class:`StopDraws`: the ``random`` rule's draws, one generator a slot.
- :data:`SignalsFunction`: computes the signals of an integer action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espo_env.types import PolicySignals

__all__ = ["SignalsFunction", "StopDraws", "check_signals", "check_success", "read_action"]

SignalsFunction = Callable[[Any, Any], PolicySignals | tuple[Any, Any]]
"""Maps the observation before the action, and the action, to :class:`PolicySignals` or to ``(regret, value)``."""

_KEYS = {"token", "regret", "value"}


def read_action(
    action: Any, signals: SignalsFunction | None, observation: Any, shape: tuple[int, ...]
) -> PolicySignals:
    """An action as token, regret and value.

    Args:
        action: ``{"token", "regret", "value"}``, :class:`PolicySignals`, or what the wrapped environment takes.
        signals: Gives regret and value for the last of these.
        observation: The observation before the action.
        shape: Shape of regret and value.

    Returns:
        Regret and value as float32 arrays of that shape.

    Raises:
        ValueError: If keys, the signals or their shapes are not as expected.
    """
    if isinstance(action, Mapping):
        if set(action) != _KEYS:
            raise ValueError(f"expected an action with keys {sorted(_KEYS)}, got {sorted(map(str, action))}")
        token, regret, value = action["token"], action["regret"], action["value"]
    elif isinstance(action, PolicySignals):
        token, regret, value = action.token, action.regret, action.value
    elif signals is None:
        raise ValueError(
            f"expected an action with keys {sorted(_KEYS)}, or a `signals` callable that gives regret and value, "
            f"got {action!r} and signals=None"
        )
    else:
        token, given = action, signals(observation, action)
        regret, value = (given.regret, given.value) if isinstance(given, PolicySignals) else given
    columns = []
    for name, column in (("regret", regret), ("value", value)):
        if column is None:
            raise ValueError(f"expected a {name} of shape {shape}, got None")
        array = np.asarray(column, np.float32)
        if array.shape != shape:
            raise ValueError(f"expected a {name} of shape {shape}, got {array.shape}")
        columns.append(array)
    return PolicySignals(token, *columns)


def check_signals(regrets: NDArray[np.float32], values: NDArray[np.float32]) -> None:
    """Refuses regrets that are negative or not finite, and values that are not finite.

    Raises:
        ValueError: With the offending numbers.
    """
    # NaN fails every comparison, so "not inside" finds it too.
    bad = ~((regrets >= 0) & (regrets < np.inf))
    if bad.any():
        raise ValueError(f"expected finite regrets >= 0, got {regrets[bad].tolist()} in rows {_rows(bad)}")
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(f"expected finite values, got {values[bad].tolist()} in rows {_rows(bad)}")


def check_success(given: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Success rates of prompts as a float32 array.

    Raises:
        ValueError: If the shape is another one, or one is not in [0, 1].
    """
    rates = np.asarray(given, np.float32)
    if rates.shape != shape or not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(f"expected prompt_success of shape {shape} in [0, 1], got {given!r}")
    return rates


def _rows(bad: NDArray[np.bool_]) -> list[int]:
    return np.flatnonzero(bad).tolist()


class StopDraws:
    """Exp(1) variates for the ``random`` rule: reproducible for each slot, whatever the other slots do.

    Args:
        num_slots: Number of slots.
        seed: Slot ``i`` starts from ``seed + i``; None for entropy of the system.
    """

    def __init__(self, num_slots: int, seed: int | None) -> None:
        self._rngs = [_rng(None if seed is None else seed + slot) for slot in range(num_slots)]

    def reseed(self, seeds: Sequence[int | None], slots: NDArray[np.integer]) -> None:
        """Starts the generators of ``slots`` anew, where ``seeds`` (one for every slot) has one."""
        for slot in slots:
            if seeds[slot] is not None:
                self._rngs[slot] = _rng(seeds[slot])

    def draw(self, slots: NDArray[np.integer]) -> NDArray[np.float32]:
        """One variate for each of the slots, shape (n,)."""
        return np.array([self._rngs[slot].exponential() for slot in slots], np.float32)


def _rng(seed: int | None) -> np.random.Generator:
    # The second word keeps the stream apart from the environment's own, which has the same seed.
    return np.random.default_rng(None if seed is None else (seed, 1))
