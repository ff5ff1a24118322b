"""Vector environments whose episodes are ended from outside.

- :class:`EndableVectorEnv`: gives any Gymnasium vector environment ``end_episodes`` for single slots.

:class:`~espo_env.token_vector_env.TokenGenerationVectorEnv` has the same methods by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray

from espo_env.types import StopReason
from espo_env.wrappers.vector_infos import pop_info

__all__ = ["EndableVectorEnv"]


class EndableVectorEnv(VectorWrapper):
    """A vector environment in which the episode of a single slot can be ended from outside.

    A slot that was ended is reset like one that has ended by itself, as ``autoreset_mode`` says. Gymnasium's vector
    environments can reset single slots (``options={"reset_mask": ...}``), but not be told that one has ended. So in
    mode ``NEXT_STEP`` the wrapped slot takes one more step, which nobody sees, before it is reset: a slot that draws
    random numbers in a step draws others afterwards than one in a ``SyncVectorEnv`` of wrapped environments.

    Args:
        env: Synchronous, asynchronous, or with an entry point of its own.

    Attributes:
        autoreset_mode: The environment's.

    Raises:
        ValueError: If the environment does not say how it resets, or cannot be made to reset a slot.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.autoreset_mode = _autoreset_mode(env)
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        if next_step and isinstance(env.unwrapped, AsyncVectorEnv) and not env.unwrapped.shared_memory:
            raise ValueError(
                "expected an AsyncVectorEnv with shared_memory=True or with autoreset_mode SAME_STEP or DISABLED "
                "(in NEXT_STEP Gymnasium resets a slot twice without shared memory), got shared_memory=False"
            )
        if env is not env.unwrapped and isinstance(env.unwrapped, CartPoleVectorEnv):
            raise ValueError(f"expected a CartPoleVectorEnv (put other wrappers outside), got {env}")
        self._observations: Any = None
        self._running = np.zeros(env.num_envs, np.bool_)
        self._outside = np.zeros(env.num_envs, np.bool_)
        """Ended from outside, and not reset yet."""
        self._takes_mask = False

    @property
    def running(self) -> NDArray[np.bool_]:
        """Shape (N,): whether the slot's episode was started and has not ended."""
        return self._running.copy()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts new episodes, in all slots or in those of ``options["reset_mask"]``.

        Raises:
            RuntimeError: If the environment has reset other slots, too.
        """
        options = dict(options or {})
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, np.bool_)))
        # Looked at once: an environment that does not know `reset_mask` would reset everything, and say nothing.
        others = [] if self._takes_mask else np.flatnonzero(~mask)[:1].tolist()
        before = [self.observation(slot) for slot in others]
        self._observations, infos = self.env.reset(seed=seed, options=options or None)  # type: ignore[arg-type]
        for slot, observation in zip(others, before, strict=True):
            if not data_equivalence(observation, self.observation(slot), exact=True):
                raise RuntimeError(
                    f"expected a vector environment that resets the slots of options['reset_mask'] and no other, "
                    f"got another observation in slot {slot} from {self.env}"
                )
            self._takes_mask = True
        self._running[mask] = True
        self._outside[mask] = False
        return self._observations, infos

    def step(  # type: ignore[override]
        self, actions: Any
    ) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Takes one step in every slot.

        Raises:
            ResetNeeded: If a slot has no running episode and is not reset by itself.
        """
        ended = np.flatnonzero(~self._running)
        if len(ended) and (self._observations is None or self.autoreset_mode is not AutoresetMode.NEXT_STEP):
            raise ResetNeeded(f"expected reset() before step(): no running episode in slots {ended.tolist()}")
        outside = np.flatnonzero(self._outside)
        if len(outside):
            actions = np.array(actions)
            actions[outside] = self.single_action_space.start  # type: ignore[attr-defined]
        self._observations, *columns, infos = self.env.step(actions)
        rewards, terminations, truncations = (np.array(column) for column in columns)
        if len(outside):
            for slot in outside:
                pop_info(infos, slot)
            rewards[outside], terminations[outside], truncations[outside] = 0, False, False
            _, posed = self.reset(options={"reset_mask": self._outside.copy()})
            for slot in outside:
                infos = self._add_info(infos, pop_info(posed, slot), slot)
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        self._running = np.full(self.num_envs, same_step) | ~(terminations | truncations)
        return self._observations, rewards, terminations, truncations, infos

    def end_episodes(self, slots: NDArray[np.integer], reason: StopReason, reward: float = 0.0) -> None:
        """Ends the episodes of these slots where they are.

        They are then reset as ``autoreset_mode`` says, but for ``SAME_STEP``: there the caller resets them by a
        ``reset_mask``, because it has to look at their last observation first.

        Args:
            slots: Slots with running episodes, shape (n,).
            reason: Not used; the token environment's signature.
            reward: Not used; the token environment's signature.
        """
        self._running[slots] = False
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            return
        if isinstance(self.env, CartPoleVectorEnv):
            self.env.prev_done[slots] = True  # what it resets in its next step
        else:
            self._outside[slots] = True

    def observation(self, slot: int) -> Any:
        """A copy of the observation of one slot."""
        rows = iterate(self.observation_space, self._observations)
        return copy.deepcopy(next(islice(rows, slot, None)))


def _autoreset_mode(env: VectorEnv) -> AutoresetMode:
    # Gymnasium's vector environments share one `metadata` with all environments of their class; this is their own.
    mode = getattr(env.unwrapped, "autoreset_mode", env.metadata.get("autoreset_mode"))
    if not isinstance(mode, AutoresetMode):
        raise ValueError(f"expected a vector environment with metadata['autoreset_mode'], got {mode!r} from {env}")
    return mode
