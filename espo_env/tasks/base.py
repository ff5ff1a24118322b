"""The base class of tasks, which pose problems and grade responses.

- :class:`Problem`: one prompt with its reference answer and reference solution.
- :class:`Task`: the base class; a new task is a page of code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from espo_env.grading import Grade
from espo_env.grading.background import default_background
from espo_env.tokenizer import Tokenizer

__all__ = ["Problem", "Split", "Task"]

_QUICK = 0.01
"""Seconds that a grade is waited for at once: nearly all are there by then, and whoever asked can go on with them."""

Split = Literal["train", "eval"]
"""Problems to learn from and problems to measure on; the two never share one."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        prompt: What the policy is shown.
        answer: The reference answer, as the grader takes it.
        solution: A reference response that the grader calls right (without the end-of-sequence token); what a
            supervised fine-tuning learns from. Empty where there is none.
        index: Its index in its split.
        metadata: Whatever the task wants to keep.
    """

    prompt: str
    answer: str
    solution: str = ""
    index: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Task(ABC):
    """A source of problems with a grader and a tokenizer. Subclasses are cheap to build and picklable.

    Args:
        tokenizer: Turns prompts into tokens and responses into text; its end-of-sequence token ends a response.

    Attributes:
        grade_timeout_s: How long a grade may take in training and evaluation, in seconds; then its response is lost.
    """

    grade_timeout_s: float = 60.0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @abstractmethod
    def num_problems(self, split: Split) -> int:
        """How many problems the split has (very many, where they are generated)."""

    @abstractmethod
    def problem(self, index: int, split: Split = "train") -> Problem:
        """Problem ``index`` of the split; the same one every time.

        Raises:
            IndexError: If the index is not in ``range(num_problems(split))``.
        """

    @abstractmethod
    def grade(self, problem: Problem, response: str) -> Grade:
        """The verdict on a response that ended by itself. Never raises because of what the response says."""

    def submit(self, problem: Problem, response: str) -> Future[Grade]:
        """Starts grading; whoever decodes meanwhile need not wait.

        Here one response after the other is graded in a thread, for graders that are quick. One that hangs loses its
        own response after ``grade_timeout_s``. A task whose grader takes its time overrides this one as well.
        """
        verdict = default_background().submit(lambda: self.grade(problem, response), self.grade_timeout_s)
        wait([verdict], _QUICK)
        return verdict

    @property
    @abstractmethod
    def max_prompt_tokens(self) -> int:
        """Upper bound of a prompt's length in tokens."""

    def encode_prompt(self, problem: Problem) -> NDArray[np.int32]:
        """The prompt's tokens, shape (P,)."""
        return np.asarray(self.tokenizer.encode(problem.prompt), np.int32)

    def encode_solution(self, problem: Problem) -> NDArray[np.int32]:
        """The reference response's tokens, end-of-sequence token included, shape (T,)."""
        return self._encode(problem.solution)

    def right_responses(self, problem: Problem) -> Sequence[str]:
        """Responses that say the same in other words or another order, the reference solution first."""
        return [problem.solution]

    def first_error(self, problem: Problem, response: ArrayLike) -> int:
        """Index of the first token with which it is no beginning of a right response, -1 where it is one to the end.

        What an oracle would stop at. Where :meth:`right_responses` are all that there are, it is exact; elsewhere it is
        meant for responses that are graded wrong, because a right one may be worked out in a way that is not listed.

        Args:
            problem: What was asked, with its reference solution.
            response: The response's tokens, shape (T,), end-of-sequence token included if it was written.

        Raises:
            ValueError: If the problem has no reference solution.
        """
        if not problem.solution:
            raise ValueError(f"expected a problem with a reference solution, got none for {problem.prompt!r}")
        written = np.asarray(response)
        differences = [_first_difference(written, self._encode(text)) for text in self.right_responses(problem)]
        return -1 if -1 in differences else max(differences)

    def check_index(self, index: int, split: Split) -> None:
        """Raises an IndexError that names the range, if the index is outside it."""
        if not 0 <= index < self.num_problems(split):
            raise IndexError(f"expected an index in [0, {self.num_problems(split)}) of split {split!r}, got {index}")

    def validate(self, num: int = 100, split: Split = "train") -> None:
        """Grades the task's own reference solutions, and checks their prompts' lengths.

        Raises:
            ValueError: If one is not graded as right, or a prompt is longer than ``max_prompt_tokens``.
        """
        for index in range(min(num, self.num_problems(split))):
            problem = self.problem(index, split)
            length = len(self.encode_prompt(problem))
            if length > self.max_prompt_tokens:
                raise ValueError(
                    f"problem {index} of {split!r}: expected a prompt of at most {self.max_prompt_tokens} tokens, "
                    f"got {length}"
                )
            if problem.solution:
                # Through the tokens, as a policy's response comes.
                text = self.tokenizer.decode(self.encode_solution(problem))
                grade = self.grade(problem, text)
                if not grade.correct:
                    raise ValueError(
                        f"problem {index} of {split!r}: expected its own solution {text!r} to be graded right "
                        f"for the answer {problem.answer!r}, got {grade}"
                    )

    def _encode(self, response: str) -> NDArray[np.int32]:
        return np.asarray([*self.tokenizer.encode(response), self.tokenizer.eos_token_id], np.int32)


def _first_difference(written: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """Index of the first token of ``written`` that ``right`` does not have there, -1 where there is none."""
    shared = min(len(written), len(right))
    wrong = np.flatnonzero(written[:shared] != right[:shared])
    if len(wrong):
        return int(wrong[0])
    return shared if len(written) > shared else -1
