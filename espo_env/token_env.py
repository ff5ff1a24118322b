"""The token MDP as a Gymnasium environment.

- :class:`TokenGenerationEnv`: one problem an episode, one token a step.
"""

from __future__ import annotations

import operator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from espo_env.rendering import render
from espo_env.tasks.base import Problem, Split, Task
from espo_env.token_mdp import RENDER_MODES, Horizon, TokenMDP, check_options
from espo_env.token_vector_env import TokenGenerationVectorEnv
from espo_env.types import StopReason, Trajectory

__all__ = ["TokenGenerationEnv"]


class TokenGenerationEnv(gym.Env[dict[str, NDArray[np.int32]], int]):
    """Writes the answer to a problem, one token a step.

    Observation: ``{"tokens": int32 (max_length,), "length": int32 (1,)}``, the prompt and what was written so far;
    tokens behind ``length`` are 0. Action: a token id. Reward: 0 on every step but the last; 1 there if the response
    ended with the end-of-sequence token and is right.

    An episode ends with the end-of-sequence token (``terminated``, graded) or with ``max_new_tokens`` tokens (reward 0;
    ``terminated`` or ``truncated`` as ``horizon`` says). ``info["problem"]`` is always there; at the end also
    ``info["stop_reason"]``, and for a graded response ``info["correct"]`` and ``info["grade"]``.

    ``reset(options={"index": i})`` poses problem ``i`` of the split; otherwise ``np_random`` draws one.

    Args:
        task: Poses and grades the problems.
        max_new_tokens: Horizon of a response, in tokens.
        split: ``"train"`` or ``"eval"``.
        horizon: ``"terminal"`` or ``"truncation"``: what reaching ``max_new_tokens`` is.
        render_mode: ``"ansi"``, ``"html"`` or None.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from espo_env.tasks import ArithmeticTask
        >>> env = TokenGenerationEnv(ArithmeticTask(), max_new_tokens=48)
        >>> observation, info = env.reset(seed=0)
        >>> for token in env.task.encode_solution(info["problem"]):
        ...     observation, reward, terminated, truncated, info = env.step(token)
        >>> reward, terminated, str(info["stop_reason"])
        (1.0, True, 'eos')
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012 (Gymnasium's form)

    def __init__(
        self,
        task: Task,
        *,
        max_new_tokens: int,
        split: Split = "train",
        horizon: Horizon = "terminal",
        render_mode: str | None = None,
    ) -> None:
        self.mdp = TokenMDP(task, max_new_tokens, split, horizon)
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"expected render_mode out of {RENDER_MODES} or None, got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = self.mdp.observation_space()
        self.action_space = self.mdp.action_space()
        self._tokens = np.zeros(self.mdp.max_length, np.int32)
        self._length = 0
        self._prompt_length = 0
        self._problem: Problem | None = None
        self._running = False
        # The end of the last episode, for render().
        self._end: dict[str, Any] = {}

    @property
    def task(self) -> Task:
        """Poses and grades the problems."""
        return self.mdp.task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.int32]], dict[str, Any]]:
        """Poses a problem.

        Args:
            seed: Seeds ``np_random``.
            options: ``{"index": i}`` poses problem ``i`` of the split.

        Raises:
            IndexError: If the split has no such problem.
            ValueError: If the prompt is longer than the task's ``max_prompt_tokens``.
        """
        super().reset(seed=seed)
        options = check_options(options, ("index",))
        self._running = False
        index = int(options["index"]) if "index" in options else self.mdp.draw_index(self.np_random)
        self._problem, prompt = self.mdp.pose(index)
        self._tokens[:] = 0
        self._tokens[: len(prompt)] = prompt
        self._length = self._prompt_length = len(prompt)
        self._end = {}
        self._running = True
        return self._observation(), {"problem": self._problem}

    def step(self, action: int) -> tuple[dict[str, NDArray[np.int32]], float, bool, bool, dict[str, Any]]:
        """Writes one token.

        Raises:
            ResetNeeded: If there is no running episode.
            ValueError: If the action is not a token of the vocabulary.
            Exception: Whatever the task's grader raises; the episode is over then.
        """
        if not self._running:
            state = "the episode has ended" if self._problem is not None else "no episode was started"
            raise ResetNeeded(f"expected reset() before step(): {state}")
        token = _token(action, self.mdp.vocab_size)
        self._tokens[self._length] = token
        self._length += 1
        info: dict[str, Any] = {"problem": self._problem}
        reason = self.mdp.natural_end(token, self._length - self._prompt_length)
        if reason is None:
            return self._observation(), 0.0, False, False, info
        self._running = False
        info["stop_reason"] = reason
        reward = 0.0
        if reason is StopReason.EOS:
            assert self._problem is not None
            grade = self.mdp.grade(self._problem, self._response())
            info |= {"correct": grade.correct, "grade": grade}
            reward = float(grade.correct)
        self._end = {"stop_reason": reason, "reward": reward, "correct": info.get("correct")}
        return self._observation(), reward, *self.mdp.flags(reason), info

    def render(self) -> str | None:  # type: ignore[override]
        """The episode so far: text, or an HTML page, as ``render_mode`` says."""
        if self.render_mode is None:
            return None
        if self._problem is None:
            raise ResetNeeded("expected reset() before render(): no episode was started")
        return render(self.render_mode, self.trajectory(), self.task.tokenizer, running=self._running)

    def trajectory(self) -> Trajectory:
        """The episode as a record; its stop reason is ABORT while it runs."""
        return Trajectory(
            prompt_tokens=self._tokens[: self._prompt_length].copy(),
            response_tokens=self._response(),
            problem=self._problem,
            **{"stop_reason": StopReason.ABORT, **self._end},
        )

    def vectorize(
        self,
        num_envs: int,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ) -> TokenGenerationVectorEnv:
        """The vector environment of the same task and options; see there for the arguments."""
        return TokenGenerationVectorEnv(
            self.task,
            num_envs,
            max_new_tokens=self.mdp.max_new_tokens,
            split=self.mdp.split,
            horizon=self.mdp.horizon,
            autoreset_mode=autoreset_mode,
            render_mode=self.render_mode,
            copy=copy,
        )

    def _response(self) -> NDArray[np.int32]:
        return self._tokens[self._prompt_length : self._length].copy()

    def _observation(self) -> dict[str, NDArray[np.int32]]:
        return {"tokens": self._tokens.copy(), "length": np.array([self._length], np.int32)}


def _token(action: Any, vocab_size: int) -> int:
    try:
        token = operator.index(action)
    except TypeError:
        raise ValueError(f"expected an integer token id, got {action!r}") from None
    if not 0 <= token < vocab_size:
        raise ValueError(f"expected a token id in [0, {vocab_size}), got {token}")
    return token
