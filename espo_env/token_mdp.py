"""The rules of the token MDP, which the environment and the vector environment share.

- :class:`TokenMDP`: spaces, prompts, and what the end of a response is worth.
- :data:`Horizon`: what reaching the horizon is.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from espo_env.grading import Grade
from espo_env.grading.judge import check_grade
from espo_env.tasks.base import Problem, Split, Task
from espo_env.types import StopReason

__all__ = ["RENDER_MODES", "Horizon", "TokenMDP", "check_options"]

Horizon = Literal["terminal", "truncation"]
"""``"terminal"``: the horizon ends a finite-horizon task, nothing lies behind it. ``"truncation"``: it is a time limit
of the caller, and a learner bootstraps behind it."""

RENDER_MODES = ("ansi", "html")


@dataclass(frozen=True, slots=True)
class TokenMDP:
    """One problem after the other, answered token by token.

    The state is the prompt and the tokens written so far, the action is a token. Every reward is 0 but the last one:
    1 for a response that ended by itself and that the task's grader calls right.

    Attributes:
        task: Poses and grades the problems.
        max_new_tokens: Horizon ``T_max`` of a response, >= 1, in tokens.
        split: Which of the task's problems.
        horizon: What reaching ``max_new_tokens`` is.

    Raises:
        ValueError: If an attribute is out of its range, or the split has no problem.
    """

    task: Task
    max_new_tokens: int
    split: Split = "train"
    horizon: Horizon = "terminal"

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise ValueError(f"expected a Task, got {self.task!r}")
        if self.max_new_tokens < 1:
            raise ValueError(f"expected max_new_tokens >= 1, got {self.max_new_tokens}")
        for name, value, choices in (("split", self.split, Split), ("horizon", self.horizon, Horizon)):
            if value not in get_args(choices):
                raise ValueError(f"expected {name} out of {list(get_args(choices))}, got {value!r}")
        if self.task.num_problems(self.split) < 1:
            raise ValueError(f"expected a task with problems in split {self.split!r}, got none")

    @property
    def max_length(self) -> int:
        """Longest prompt plus longest response, in tokens."""
        return self.task.max_prompt_tokens + self.max_new_tokens

    @property
    def vocab_size(self) -> int:
        """Number of actions."""
        return self.task.tokenizer.vocab_size

    @property
    def eos_token_id(self) -> int:
        """The action that ends a response."""
        return self.task.tokenizer.eos_token_id

    def observation_space(self) -> spaces.Dict:
        """``{"tokens": int32 (max_length,), "length": int32 (1,)}``; tokens behind ``length`` are 0."""
        return spaces.Dict(
            {
                "tokens": spaces.Box(0, self.vocab_size - 1, (self.max_length,), np.int32),
                "length": spaces.Box(0, self.max_length, (1,), np.int32),
            }
        )

    def action_space(self) -> spaces.Discrete:
        """One token id."""
        return spaces.Discrete(self.vocab_size)

    def draw_index(self, rng: np.random.Generator) -> int:
        """Index of a random problem of the split."""
        return int(rng.integers(self.task.num_problems(self.split)))

    def pose(self, index: int) -> tuple[Problem, NDArray[np.int32]]:
        """A problem and its prompt's tokens, shape (P,).

        Raises:
            IndexError: If the split has no such problem.
            ValueError: If the prompt is empty or longer than the task said.
        """
        problem = self.task.problem(index, self.split)
        prompt = self.task.encode_prompt(problem)
        if not 1 <= len(prompt) <= self.task.max_prompt_tokens:
            raise ValueError(
                f"problem {index} of {self.split!r}: expected a prompt of 1 to {self.task.max_prompt_tokens} tokens "
                f"(max_prompt_tokens), got {len(prompt)}"
            )
        return problem, prompt

    def natural_end(self, token: int, length: int) -> StopReason | None:
        """Why a response is over after ``token`` as its ``length``-th token; None where it goes on."""
        if token == self.eos_token_id:
            return StopReason.EOS
        return StopReason.LENGTH if length >= self.max_new_tokens else None

    def flags(self, reason: StopReason) -> tuple[bool, bool]:
        """``(terminated, truncated)`` for a stop reason.

        A response that its caller gave up, or that failed, was cut from outside: truncated.
        """
        truncated = reason in (StopReason.ABORT, StopReason.ERROR) or (
            reason is StopReason.LENGTH and self.horizon == "truncation"
        )
        return not truncated, truncated

    def check_response(self, response: NDArray[Any], reason: StopReason, written: int = 0) -> None:
        """Refuses a response that could not have come about token by token.

        Args:
            response: Tokens from here to the end, shape (T,), end-of-sequence token included.
            reason: Why it ended.
            written: Tokens of the response that were written before.

        Raises:
            ValueError: If it has other things than tokens, goes on after its end, or does not fit its stop reason.
        """
        if response.ndim != 1 or not np.issubdtype(response.dtype, np.integer):
            raise ValueError(f"expected a response of shape (T,) of integers, got {response.dtype} {response.shape}")
        if len(response) and not 0 <= response.min() <= response.max() < self.vocab_size:
            raise ValueError(f"expected token ids in [0, {self.vocab_size}), got {response.min()} to {response.max()}")
        # Where it ends by itself, and why: the first of the end token and the horizon.
        room = self.max_new_tokens - written
        ends = np.flatnonzero(response == self.eos_token_id)
        length = min(int(ends[0]) + 1 if len(ends) else room, room)
        natural = self.natural_end(response[length - 1], written + length) if length <= len(response) else None
        given_up = reason in (StopReason.ABORT, StopReason.ERROR)
        if natural is not None and (length < len(response) or not (given_up or natural is reason)):
            raise ValueError(
                f"expected a response that ends by itself after {length} tokens with {natural.value!r}, "
                f"got {reason.value!r} after {len(response)}"
            )
        if natural is None and not given_up and (reason is not StopReason.REGRET or len(response) == 0):
            raise ValueError(
                f"expected a response that ends with token {self.eos_token_id} or after {room} tokens, "
                f"got {reason.value!r} after {len(response)}"
            )

    def grade(self, problem: Problem, response: NDArray[np.int32]) -> Grade:
        """The verdict on a response that ended by itself. Exceptions of the task's grader pass through.

        Args:
            problem: What was asked.
            response: Shape (T,), end-of-sequence token included.

        Raises:
            InvalidGrade: If the task gives back something that is no verdict.
        """
        return check_grade(self.task.grade(problem, self.task.tokenizer.decode(response)))

    def submit(self, problem: Problem, response: NDArray[np.int32]) -> Future[Grade]:
        """Starts grading; what the task's grader raises is in the future, and its verdict is not checked yet."""
        try:
            return self.task.submit(problem, self.task.tokenizer.decode(response))
        except Exception as error:
            failed: Future[Grade] = Future()
            failed.set_exception(error)
            return failed


def check_options(options: dict[str, Any] | None, known: tuple[str, ...]) -> dict[str, Any]:
    """The options of a reset.

    Raises:
        ValueError: If there is an unknown one.
    """
    options = options or {}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"expected reset options out of {list(known)}, got {unknown}")
    return options
