"""A task and a comparison that several tests use."""

from __future__ import annotations

from typing import Any

import numpy as np

from espo_env.grading import Grade
from espo_env.tasks import Problem, Split, Task
from espo_env.tokenizer import Tokenizer


class LetterTask(Task):
    """Five problems: write the prompt again. ``x`` in a response makes the grader fail."""

    words = ("ab", "b", "cab", "acca", "bb")

    def __init__(self) -> None:
        super().__init__(Tokenizer.from_symbols("abcx"))

    def num_problems(self, split: Split) -> int:
        return len(self.words)

    @property
    def max_prompt_tokens(self) -> int:
        return 4

    def problem(self, index: int, split: Split = "train") -> Problem:
        self.check_index(index, split)
        return Problem(self.words[index], self.words[index], self.words[index], index)

    def grade(self, problem: Problem, response: str) -> Grade:
        if "x" in response:
            raise RuntimeError(f"grader failed on {response}")
        correct = response == problem.answer
        return Grade(correct, response, "equal" if correct else "different")


def same(left: Any, right: Any) -> None:
    """Equal nested infos and observations.

    The dtype of numbers does not matter, nor whether an info that no slot has is there.
    """
    if isinstance(left, dict):
        assert isinstance(right, dict)
        left, right = _there(left), _there(right)
        assert set(left) == set(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, tuple) or (isinstance(left, np.ndarray) and left.dtype == object):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            same(a, b)
    else:
        np.testing.assert_array_equal(left, right)


def _there(info: dict[str, Any]) -> dict[str, Any]:
    nobody = {key for key, value in info.items() if key.startswith("_") and not np.any(value)}
    return {key: value for key, value in info.items() if key not in nobody and f"_{key}" not in nobody}
