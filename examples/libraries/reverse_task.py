"""A token task so small that a policy learns it from nothing in seconds: write a word backwards.

- :class:`ReverseTask`: named as ``"reverse_task:ReverseTask"`` by the examples beside it.
"""

from __future__ import annotations

import itertools

from espo_env.grading import Grade
from espo_env.tasks import Problem, Task
from espo_env.tokenizer import Tokenizer

LETTERS = "abc"


class ReverseTask(Task):
    """Write the word backwards, and end there. For words of two letters 1 in 64 random responses is right.

    Args:
        length: Letters of a word.
    """

    def __init__(self, length: int = 2) -> None:
        super().__init__(Tokenizer.from_symbols(LETTERS))
        self.words = ["".join(letters) for letters in itertools.product(LETTERS, repeat=length)]

    @property
    def max_prompt_tokens(self):
        return len(self.words[0])

    def num_problems(self, split):
        return len(self.words)

    def problem(self, index, split="train"):
        self.check_index(index, split)
        word = self.words[index]
        return Problem(prompt=word, answer=word[::-1], solution=word[::-1], index=index)

    def grade(self, problem, response):
        return Grade(response == problem.answer, response, "exact")
