"""The failure detector around one environment.

- :class:`RegretTermination`: ends an episode where the smoothed regret exceeds what the value allows.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

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
from espo_env.token_env import TokenGenerationEnv
from espo_env.token_mdp import RENDER_MODES
from espo_env.types import StopReason, Trajectory
from espo_env.wrappers.records import EpisodeListener, SignalHistory, natural_stop_reason
from espo_env.wrappers.signals import (
    SignalsFunction,
    StopDraws,
    check_signals,
    check_success,
    read_action,
    signals_space,
)

__all__ = ["RegretTermination"]

_SLOT = np.zeros(1, np.int64)


class RegretTermination(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Ends the episode where the failure detector fires: ``terminated``, ``fail_reward``, ``StopReason.REGRET``.

    An action says what sampling the token has computed: ``{"token": 17, "regret": 0.7, "value": 0.4}``, or
    :class:`~espo_env.types.PolicySignals`. With a ``signals`` callable it is a plain token, and the callable gives
    ``(regret, value)`` for it; :mod:`espo_env.signals` has some that are ready. ``info`` has ``"regret"``, ``"value"``,
    ``"z"`` and ``"threshold"`` on every step, and ``"stop_reason"`` at a stop. A step on which the episode ends by
    itself is never a stop: its answer is finished.

    Args:
        env: An environment with a ``Discrete`` action space.
        fail_reward: Reward of the stopped transition; -1 in the paper, beside 0 for a wrong answer.
        statistics: Frozen mean and variance that regrets are normalised with.
        beta: Tolerance; 7.0 in the paper.
        smoothing: Weight of the old ``z``; 0.9 in the paper.
        value_floor: Floor of the value gate; 0.2 in the paper.
        clip: Bound of the normalised regret (not published).
        delta: Added to the variance (not published).
        rule: Name of a stop rule, or ``"module:function"``, see :mod:`espo_env.early_stopping.rules`.
        gate: ``"before"`` (the paper) or ``"after"``: whose value the score is compared with.
        signals: Gives regret and value of an integer action. Actions with their signals are still taken.
        enabled: False while the critic warms up: ``z`` is tracked, nothing is stopped.
        seed: Seeds the ``random`` rule; so does the seed of :meth:`reset`.

    Raises:
        ValueError: If an argument is out of its range, the action space is not ``Discrete``, or the environment is
            wrapped in :class:`RegretTermination` already.

    Example:
        >>> import espo_env
        >>> env = RegretTermination(gym.make("espo_env/Arithmetic-v0"), beta=0.5)
        >>> observation, info = env.reset(seed=0)
        >>> _, reward, terminated, _, info = env.step({"token": 3, "regret": 9.0, "value": 0.1})
        >>> reward, terminated, str(info["stop_reason"])
        (-1.0, True, 'regret')
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
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
        gym.utils.RecordConstructorArgs.__init__(
            self,
            fail_reward=fail_reward,
            statistics=statistics,
            beta=beta,
            smoothing=smoothing,
            value_floor=value_floor,
            clip=clip,
            delta=delta,
            rule=rule,
            gate=gate,
            signals=signals,
            enabled=enabled,
            seed=seed,
        )
        gym.Wrapper.__init__(self, env)
        layer: gym.Env[Any, Any] = env
        while isinstance(layer, gym.Wrapper):
            if isinstance(layer, RegretTermination):
                raise ValueError(f"expected an environment without RegretTermination, got {env}")
            layer = layer.env
        if not isinstance(env.action_space, spaces.Discrete):
            raise ValueError(f"expected an environment with a Discrete action space, got {env.action_space}")
        if not np.isfinite(fail_reward):
            raise ValueError(f"expected a finite fail_reward, got {fail_reward}")
        self.fail_reward = float(fail_reward)
        self.signals = signals
        self.detector = FailureDetector(
            1,
            DetectorSettings(rule, smoothing, value_floor, clip, delta, gate),
            DetectorState(statistics or RegretStatistics(), beta, enabled),
        )
        if signals is None:
            self.action_space = signals_space(env.action_space)
        self._draws = StopDraws(1, seed)
        self._observation: Any = None
        self._running = False
        self._stopped = False
        self._last = (0.0, False, False)  # the last step's reward and flags
        self._success = np.ones((), np.float32)
        self._marks = np.full(1, -1)
        self._num_steps = 0
        self._history = SignalHistory(1)
        self._listeners: list[EpisodeListener] = []

    def configure(self, statistics: RegretStatistics, beta: float, enabled: bool) -> None:
        """Takes a new batch's statistics, tolerance and warm-up flag.

        Call it between episodes: a decision may not see the future.
        """
        self.detector.configure(DetectorState(statistics, beta, enabled))

    def listen(self, listener: EpisodeListener) -> None:
        """Calls ``listener`` from now on with the record of each episode at its end, see :meth:`trajectory`."""
        self._listeners.append(listener)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts a new episode with ``z`` at 0.

        Args:
            seed: Of the environment, and of the ``random`` rule.
            options: The environment's. ``"prompt_success"``, how often other responses to the prompt were right, goes
                to the stop rule; 1 where it is missing.

        Raises:
            ValueError: If that is not in [0, 1].
        """
        options = dict(options or {})
        self._success = check_success(options.pop("prompt_success", 1.0), ())
        self._running = False
        self._observation, info = self.env.reset(seed=seed, options=options or None)
        if seed is not None:
            self._draws.reseed(seed, _SLOT)
        self.detector.reset(_SLOT, self._draws.draw(_SLOT), self._success)
        self._running, self._stopped, self._last = True, False, (0.0, False, False)
        self._marks, self._num_steps = np.full(1, -1), 0
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one step, and asks the detector about it.

        Raises:
            ResetNeeded: If there is no running episode.
            ValueError: If regret or value are missing, or cannot be.
        """
        if not self._running:
            raise ResetNeeded("expected reset() before step(): the episode has ended, or none was started")
        signals = read_action(action, self.signals, self._observation, ())
        regret, value = signals.regret.reshape(1), signals.value.reshape(1)
        check_signals(regret, value)
        observation, reward, terminated, truncated, info = self.env.step(signals.token)
        verdict = self.detector.update(regret, value)
        natural = np.array([terminated or truncated])
        step = np.array([self._num_steps])
        (self._stopped,), self._marks = decide(verdict.stop, natural, step, self._marks)
        columns = np.stack([regret, value, verdict.score, verdict.threshold])
        self._history.write(_SLOT, step, np.array([signals.token]), columns)
        self._num_steps += 1
        info = {**info, **dict(zip(("regret", "value", "z", "threshold"), columns[:, 0].tolist(), strict=True))}
        if self._stopped:
            reward, terminated = self.fail_reward, True
            info["stop_reason"] = StopReason.REGRET
        self._observation = observation
        self._running = not (terminated or truncated)
        self._last = float(reward), bool(terminated), bool(truncated)
        if not self._running and self._listeners:
            record = self.trajectory()
            for listener in self._listeners:
                listener(record)
        return observation, float(reward), terminated, truncated, info

    def trajectory(self) -> Trajectory:
        """The episode as a record, with its signals; its stop reason is ABORT while it runs.

        Of an environment that is no :class:`~espo_env.token_env.TokenGenerationEnv` the record has no prompt, its
        response is the actions, its reward that of the last step; an end of the environment's own is ``EOS``, a
        truncation ``LENGTH``.
        """
        mark = int(self._marks[0])
        if isinstance(self.unwrapped, TokenGenerationEnv):
            trajectory = self.unwrapped.trajectory()
            columns = self._history.signals(0, self._num_steps)
            trajectory.regrets, trajectory.values, trajectory.z, trajectory.thresholds = columns
            trajectory.mark = mark
        else:
            reward, terminated, truncated = self._last
            reason = natural_stop_reason(truncated) if terminated or truncated else StopReason.ABORT
            trajectory = self._history.record(0, self._num_steps, reason, mark)
            trajectory.reward, trajectory.truncated = reward, truncated
        if self._stopped:
            trajectory.stop_reason, trajectory.reward = StopReason.REGRET, self.fail_reward
        trajectory.prompt_success = float(self._success)
        return trajectory

    def render(self) -> Any:
        """The wrapped environment's view, with regret, threshold and the place of the stop."""
        unwrapped = self.unwrapped
        if not isinstance(unwrapped, TokenGenerationEnv) or self.render_mode not in RENDER_MODES:
            return self.env.render()
        return render(self.render_mode, self.trajectory(), unwrapped.task.tokenizer, running=self._running)
