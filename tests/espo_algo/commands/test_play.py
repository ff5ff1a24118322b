"""Playing on a terminal, with a task out of a hostile file."""

from __future__ import annotations

import numpy as np

from espo_algo.commands.play import play
from espo_env.grading import Grade
from espo_env.tasks import Problem, Split, Task
from espo_env.token_env import TokenGenerationEnv
from espo_env.tokenizer import Tokenizer

TITLE = "\x1b]0;owned\x07"


class HostileTask(Task):
    """Sets the window's title in its prompt and in its answer."""

    max_prompt_tokens = len(TITLE)

    def __init__(self) -> None:
        super().__init__(Tokenizer.from_symbols("\x1b\x07]0;owned"))

    def num_problems(self, split: Split) -> int:
        return 1

    def problem(self, index: int, split: Split = "train") -> Problem:
        return Problem(TITLE, TITLE)

    def grade(self, problem: Problem, response: str) -> Grade:
        return Grade(response == problem.answer, response, "exact")


def test_escape_sequences_of_prompt_response_and_answer_are_shown_not_obeyed() -> None:
    lines, shown = iter([TITLE, ""]), []
    env = TokenGenerationEnv(HostileTask(), max_new_tokens=20, render_mode="ansi")
    trajectory = play(env, lambda: next(lines), shown.append, beta=1.0)
    assert trajectory.correct
    np.testing.assert_array_equal(trajectory.response_tokens[:-1], trajectory.prompt_tokens)
    text = "\n".join(shown)
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert text.count(r"\x1b]0;owned\x07") >= 3
