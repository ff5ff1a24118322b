"""The failure detector around a vector environment.

- :class:`VectorRegretTermination`: :class:`RegretTermination` for N slots in bulk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from espo_env.early_stopping import (
    DEFAULT_CLIP,
    DEFAULT_DELTA,
    DetectorSettings,
    DetectorState,
    FailureDetector,
    Gate,
    RegretStatistics,
    decide,
)
from espo_env.rendering import render
from espo_env.token_vector_env import Completed, TokenGenerationVectorEnv
from espo_env.types import StopReason, Trajectory
from espo_env.wrappers.endable_vector_env import EndableVectorEnv
from espo_env.wrappers.records import EpisodeListener, SignalHistory, natural_stop_reason
from espo_env.wrappers.signals import (
    SignalsFunction,
    StopDraws,
    check_signals,
    check_success,
    read_action,
    signals_space,
)
from espo_env.wrappers.vector_infos import pop_info

__all__ = ["VectorRegretTermination"]

_COLUMNS = ("regret", "value", "z", "threshold")


class VectorRegretTermination(VectorWrapper):
    """Each slot behaves as if it was wrapped in :class:`~espo_env.wrappers.RegretTermination` by itself.

    Actions are ``{"token": (N,), "regret": (N,), "value": (N,)}``, :class:`~espo_env.types.PolicySignals` of such
    arrays or a sequence of N single actions; with a ``signals`` callable also plain tokens of shape (N,). A stopped
    slot is reset as the environment's ``autoreset_mode`` says; a partial reset clears these slots' ``z`` and no
    other's.

    Args:
        env: Any Gymnasium vector environment with a ``Discrete`` action space that can reset single slots, see
            :class:`EndableVectorEnv`. Of a token environment the vector environment itself; put other wrappers outside.
        fail_reward: Reward of the stopped transition; -1 in the paper, beside 0 for a wrong answer.
        statistics: Frozen mean and variance that regrets are normalised with.
        beta: Tolerance; 7.0 in the paper.
        smoothing: Weight of the old ``z``; 0.9 in the paper.
        value_floor: Floor of the value gate; 0.2 in the paper.
        clip: Bound of the normalised regret (not published).
        delta: Added to the variance (not published).
        rule: Name of a stop rule, or ``"module:function"``, see :mod:`espo_env.early_stopping.rules`.
        gate: ``"before"`` (the paper) or ``"after"``: whose value the score is compared with.
        signals: Gives regrets and values, each of shape (N,), of integer actions.
        enabled: False while the critic warms up: ``z`` is tracked, nothing is stopped.
        seed: Seeds the ``random`` rule; so does the seed of :meth:`reset`.

    Raises:
        ValueError: If an argument is out of its range, the action space is not ``Discrete``, or the environment cannot
            be made to reset a slot.
    """

    env: TokenGenerationVectorEnv | EndableVectorEnv

    def __init__(
        self,
        env: VectorEnv,
        fail_reward: float = -1.0,
        statistics: RegretStatistics | None = None,
        beta: float = 7.0,
        smoothing: float = 0.9,
        value_floor: float = 0.2,
        clip: float = DEFAULT_CLIP,
        delta: float = DEFAULT_DELTA,
        rule: str = "regret_value",
        gate: Gate = "before",
        signals: SignalsFunction | None = None,
        enabled: bool = True,
        seed: int | None = None,
    ) -> None:
        if isinstance(env.unwrapped, TokenGenerationVectorEnv) and env is not env.unwrapped:
            raise ValueError(f"expected a TokenGenerationVectorEnv (put other wrappers outside), got {env}")
        if not isinstance(env.single_action_space, spaces.Discrete):
            raise ValueError(
                f"expected a vector environment with a Discrete action space, got {env.single_action_space}"
            )
        super().__init__(env if isinstance(env, TokenGenerationVectorEnv) else EndableVectorEnv(env))
        if not np.isfinite(fail_reward):
            raise ValueError(f"expected a finite fail_reward, got {fail_reward}")
        self.fail_reward = float(fail_reward)
        self.signals = signals
        self.detector = FailureDetector(
            env.num_envs,
            DetectorSettings(rule, smoothing, value_floor, clip, delta, gate),
            DetectorState(statistics or RegretStatistics(), beta, enabled),
        )
        if signals is None:
            self.single_action_space = signals_space(env.single_action_space)
            self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._draws = StopDraws(env.num_envs, seed)
        self._observations: Any = None
        self._history = SignalHistory(env.num_envs)
        self._listeners: list[EpisodeListener] = []
        self._steps = np.zeros(env.num_envs, np.int64)
        self._marks = np.full(env.num_envs, -1)
        self._success = np.ones(env.num_envs, np.float32)

    def configure(self, statistics: RegretStatistics, beta: float, enabled: bool) -> None:
        """Takes a new batch's statistics, tolerance and warm-up flag.

        Call it between episodes: a decision may not see the future.
        """
        self.detector.configure(DetectorState(statistics, beta, enabled))

    def listen(self, listener: EpisodeListener) -> None:
        """Calls ``listener`` from now on with the record of each episode that was stepped to its end.

        The record has no prompt and no problem: its response is the actions of the episode.
        """
        self._listeners.append(listener)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts new episodes with ``z`` at 0, in all slots or in those of ``options["reset_mask"]``.

        Args:
            seed: Of the environments, and of the ``random`` rule.
            options: The environment's. ``"prompt_success"``, shape (N,), goes to the stop rule: how often other
                responses to each slot's prompt were right; 1 where it is missing, and in slots that are reset by
                themselves.

        Raises:
            ValueError: If that is not in [0, 1].
        """
        options = dict(options or {})
        success = check_success(options.pop("prompt_success", np.ones(self.num_envs)), (self.num_envs,))
        slots = np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, np.bool_)))
        self._observations, infos = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._draws.reseed(seed, slots)
        self._clear(slots, success[slots])
        return self._observations, infos

    def step(  # type: ignore[override]
        self, actions: Any
    ) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Takes one step in every slot, and asks the detector about it.

        Raises:
            ResetNeeded: If a slot has no running episode and is not reset by itself.
            ValueError: If regrets or values are missing, or cannot be.
        """
        signals = read_action(actions, self.signals, self._observations, (self.num_envs,))
        running = self.env.running
        slots = np.flatnonzero(running)
        regrets, values = signals.regret[slots], signals.value[slots]
        check_signals(regrets, values)
        actions = np.asarray(signals.token)
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        if len(slots) < self.num_envs:  # the others were reset by this step
            self._clear(np.flatnonzero(~running))
        verdict = self.detector.update(regrets, values, slots)
        columns = np.zeros((len(_COLUMNS), self.num_envs), np.float32)
        columns[:, slots] = regrets, values, verdict.score, verdict.threshold
        self._history.write(slots, self._steps[slots], actions[slots], columns[:, slots])

        over = terminations | truncations
        fired, self._marks[slots] = decide(verdict.stop, over[slots], self._steps[slots], self._marks[slots])
        self._steps[slots] += 1
        stopped = slots[fired]
        rewards[stopped] = self.fail_reward
        terminations[stopped] = True
        if self._listeners:
            self._tell(slots[over[slots] | fired], stopped, rewards, truncations, infos)
        if self.env.autoreset_mode is AutoresetMode.SAME_STEP:
            ended = np.flatnonzero(over | terminations)
            if len(ended):
                observations, infos = self._same_step(observations, infos, columns, ended, stopped)
            columns[:, ended] = 0.0
            running[ended] = False
        else:
            self.env.end_episodes(stopped, StopReason.REGRET, self.fail_reward)
            for slot in stopped:
                infos = self._add_info(infos, {"stop_reason": StopReason.REGRET}, slot)
        for name, column in zip(_COLUMNS, columns, strict=True):
            infos[name], infos[f"_{name}"] = column, running.copy()
        self._observations = observations
        return observations, rewards, terminations, truncations, infos

    def complete(
        self,
        slots: ArrayLike,
        responses: Sequence[Sequence[int] | NDArray[np.integer]],
        stop_reasons: Sequence[StopReason],
        grade: bool = True,
    ) -> Completed:
        """Plays whole responses into slots, see :meth:`TokenGenerationVectorEnv.complete`.

        The caller's engine has asked the detector already; here a stopped response gets its ``fail_reward``.

        Raises:
            TypeError: If it is not a token environment.
        """
        if not isinstance(self.env, TokenGenerationVectorEnv):
            raise TypeError(f"expected a TokenGenerationVectorEnv to play whole responses in, got {self.env}")
        out = self.env.complete(slots, responses, stop_reasons, self.fail_reward, grade)
        if self.env.autoreset_mode is AutoresetMode.SAME_STEP:
            self._clear(np.asarray(slots, np.int64))
        return out

    def trajectory(self, slot: int) -> Trajectory:
        """The slot's episode as a record; with its signals if all of its steps were taken one by one.

        Where it is not a token environment the record has no prompt, its response is the actions, and its stop reason
        is ABORT.
        """
        length, mark = int(self._steps[slot]), int(self._marks[slot])
        if not isinstance(self.env, TokenGenerationVectorEnv):
            return self._history.record(slot, length, StopReason.ABORT, mark)
        trajectory = self.env.trajectory(slot)
        if length == len(trajectory):
            columns = self._history.signals(slot, length)
            trajectory.regrets, trajectory.values, trajectory.z, trajectory.thresholds = columns
            trajectory.mark = mark
        elif trajectory.stop_reason is StopReason.REGRET:  # played as a whole: the caller's engine has stopped it
            trajectory.mark = len(trajectory) - 1
        return trajectory

    def render(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Each slot's episode with regret, threshold and the place of the stop; another environment's own view."""
        if not isinstance(self.env, TokenGenerationVectorEnv):
            return self.env.render()
        mode = self.env.render_mode
        if mode is None:
            return None
        tokenizer = self.env.task.tokenizer
        running = self.env.running
        return tuple(
            render(mode, self.trajectory(slot), tokenizer, running=bool(running[slot])) for slot in range(self.num_envs)
        )

    def _clear(self, slots: NDArray[np.integer], prompt_success: Any = 1.0) -> None:
        self.detector.reset(slots, self._draws.draw(slots), prompt_success)
        self._steps[slots] = 0
        self._marks[slots] = -1
        self._success[slots] = prompt_success

    def _tell(
        self,
        ended: NDArray[np.integer],
        stopped: NDArray[np.integer],
        rewards: NDArray[Any],
        truncations: NDArray[np.bool_],
        infos: dict[str, Any],
    ) -> None:
        """Gives the listeners the records of these slots, whose episodes this step has ended."""
        final, masked = infos.get("final_info", infos), np.zeros(self.num_envs, np.bool_)
        for slot in ended:
            told = {
                name: final[name][slot] for name in ("stop_reason", "correct") if final.get(f"_{name}", masked)[slot]
            }
            truncated = bool(truncations[slot])
            reason = StopReason.REGRET if slot in stopped else told.get("stop_reason", natural_stop_reason(truncated))
            record = self._history.record(slot, int(self._steps[slot]), reason, int(self._marks[slot]))
            record.reward, record.truncated, record.correct = float(rewards[slot]), truncated, told.get("correct")
            record.prompt_success = float(self._success[slot])
            for listener in self._listeners:
                listener(record)

    def _same_step(
        self,
        observations: Any,
        infos: dict[str, Any],
        columns: NDArray[np.float32],
        ended: NDArray[np.integer],
        stopped: NDArray[np.integer],
    ) -> tuple[Any, dict[str, Any]]:
        """Moves the signals of ended slots to ``final_info``, and resets those that the detector ended."""
        if len(stopped):
            for slot in stopped:
                final_info = {**pop_info(infos, slot), "stop_reason": StopReason.REGRET}
                final = {"final_obs": self.env.observation(slot), "final_info": final_info}
                infos = self._add_info(infos, final, slot)
            self.env.end_episodes(stopped, StopReason.REGRET, self.fail_reward)
            mask = np.isin(np.arange(self.num_envs), stopped)
            observations, posed = self.env.reset(options={"reset_mask": mask})
            for slot in stopped:
                infos = self._add_info(infos, pop_info(posed, slot), slot)
        for slot in ended:
            final = {"final_info": dict(zip(_COLUMNS, columns[:, slot].tolist(), strict=True))}
            infos = self._add_info(infos, final, slot)
        self._clear(ended)
        return observations, infos
