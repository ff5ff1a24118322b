"""How the regret wrappers read token, regret and value out of an action.

- :func:`signals_space`: the action space of tokens with their signals.
- :func:`read_action`: an action in any of its forms as :class:`~espo_env.types.PolicySignals`.
- :func:`check_signals`, :func:`check_success`: refuse regrets, values and success rates that cannot be.
- :class:`StopDraws`: the ``random`` rule's draws, one generator a slot.
- :data:`SignalsFunction`: computes the signals of an integer action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from espo_env.types import PolicySignals

__all__ = ["SignalsFunction", "StopDraws", "check_signals", "check_success", "read_action", "signals_space"]

SignalsFunction = Callable[[Any, Any], PolicySignals | tuple[Any, Any]]
"""Maps the observation before the action, and the action, to :class:`PolicySignals` or to ``(regret, value)``."""

_KEYS = {"token", "regret", "value"}
_LARGE = 1e6
"""Bounds of the action space, so that libraries can draw from it; signals beyond are taken."""


def signals_space(tokens: spaces.Discrete) -> spaces.Dict:
    """``{"token", "regret", "value"}`` for a space of tokens."""
    return spaces.Dict(
        {
            "token": tokens,
            "regret": spaces.Box(0.0, _LARGE, (), np.float32),
            "value": spaces.Box(-_LARGE, _LARGE, (), np.float32),
        }
    )


def read_action(
    action: Any, signals: SignalsFunction | None, observation: Any, shape: tuple[int, ...]
) -> PolicySignals:
    """An action as token, regret and value.

    Args:
        action: ``{"token", "regret", "value"}``, :class:`PolicySignals`, or what the wrapped environment takes. For
            many slots also a sequence of the first, one a slot.
        signals: Gives regret and value for the last of these.
        observation: The observation before the action.
        shape: Shape of regret and value: () for one environment, (N,) for many. Numbers, arrays and sequences are
            taken, and a further axis of length 1, in which libraries keep scalars.

    Returns:
        Regret and value as float32 arrays of that shape.

    Raises:
        ValueError: If keys, the signals or their shapes are not as expected.
    """
    if isinstance(action, Sequence) and action and all(isinstance(each, Mapping) for each in action):
        rows = [_columns(each) for each in action]
        token, regret, value = (list(column) for column in zip(*rows, strict=True))
    elif isinstance(action, Mapping):
        token, regret, value = _columns(action)
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
        array = _without_last(np.asarray(column, np.float32), shape)
        if array.shape != shape:
            raise ValueError(f"expected a {name} of shape {shape}, got {array.shape}")
        columns.append(array)
    return PolicySignals(_without_last(token, shape) if isinstance(token, np.ndarray) else token, *columns)


def _columns(action: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    if set(action) != _KEYS:
        raise ValueError(f"expected an action with keys {sorted(_KEYS)}, got {sorted(map(str, action))}")
    return action["token"], action["regret"], action["value"]


def _without_last(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Of shape ``(*shape, 1)``: without the last axis."""
    return array[..., 0] if array.shape == (*shape, 1) else array


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

    def reseed(self, seed: int | Sequence[int | None], slots: NDArray[np.integer]) -> None:
        """Starts the generators of ``slots`` anew.

        Args:
            seed: Slot ``i`` starts from ``seed + i``, or from its own one, if that is not None.
            slots: Shape (n,).
        """
        for slot in slots:
            own = seed[slot] if isinstance(seed, Sequence) else int(seed) + int(slot)
            if own is not None:
                self._rngs[slot] = _rng(own)

    def draw(self, slots: NDArray[np.integer]) -> NDArray[np.float32]:
        """One variate for each of the slots, shape (n,)."""
        return np.array([self._rngs[slot].exponential() for slot in slots], np.float32)


def _rng(seed: int | None) -> np.random.Generator:
    # The second word keeps the stream apart from the environment's own, which has the same seed.
    return np.random.default_rng(None if seed is None else (seed, 1))
