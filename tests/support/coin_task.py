"""A task that an untrained model gets right about every other time, so that there is something to learn at once."""

from espo_env.grading import Grade
from espo_env.tasks.base import Problem, Task
from espo_env.tokenizer import Tokenizer


class CoinTask(Task):
    """Right is a response whose first symbol is in the first half of the alphabet.

    Args:
        broken_prompts: Problem indices whose posing raises.
        broken_grades: Problem indices whose grading raises.
        further_symbols: Symbols beside the alphabet's, so that an untrained model seldom ends.
    """

    def __init__(self, broken_prompts=(), broken_grades=(), further_symbols=0) -> None:
        further = map(chr, range(0x4E00, 0x4E00 + further_symbols))
        super().__init__(Tokenizer.from_symbols("".join(["abcdefghij", *further])))
        self.broken_prompts, self.broken_grades = set(broken_prompts), set(broken_grades)

    def num_problems(self, split):
        return 1000

    @property
    def max_prompt_tokens(self):
        return 8

    def problem(self, index, split="train"):
        self.check_index(index, split)
        if index in self.broken_prompts:
            raise KeyError(f"problem {index} is broken")
        digits = f"{index:03d}".translate(str.maketrans("0123456789", "abcdefghij"))
        return Problem(prompt=digits[: 1 + index % 3], answer="a", solution="a", index=index)

    def grade(self, problem, response):
        if problem.index in self.broken_grades:
            raise RuntimeError(f"grading problem {problem.index} is broken")
        return Grade(response[:1] in tuple("abcde"), response[:1], "first symbol")
