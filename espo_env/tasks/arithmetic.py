"""Chains of additions and subtractions whose working is written out.

- :class:`ArithmeticTask`: ``17+25-8=`` is answered by ``17+25=42;42-8=34;#### 34``.
- :func:`chain_working`: the working of a chain.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal

from espo_env.grading import Grade, grade
from espo_env.tasks.base import Problem, Split, Task
from espo_env.tasks.splits import NUM_GENERATED, draw_problem
from espo_env.tokenizer import Tokenizer

__all__ = ["ArithmeticTask", "chain_working"]

_SYMBOLS = "0123456789+-=;# "


class ArithmeticTask(Task):
    """Arithmetic chains, such as ``17+25-8=``.

    Only the final answer behind ``####`` is graded, not the working before it. The splits share no problem: the text
    of a problem decides which one it belongs to.

    Args:
        min_terms: Fewest numbers in a chain, >= 2.
        max_terms: Most numbers in a chain.
        max_digits: Most digits of a number, >= 1; each number has 1 to ``max_digits``.
        seed: Another seed is another sequence of problems.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> ArithmeticTask(max_terms=3).problem(3).prompt
        '67+99-16='
    """

    def __init__(self, min_terms: int = 2, max_terms: int = 4, max_digits: int = 2, seed: int = 0) -> None:
        if not 2 <= min_terms <= max_terms:
            raise ValueError(f"expected 2 <= min_terms <= max_terms, got {min_terms} and {max_terms}")
        if max_digits < 1:
            raise ValueError(f"expected max_digits >= 1, got {max_digits}")
        if seed < 0:
            raise ValueError(f"expected seed >= 0, got {seed}")
        super().__init__(Tokenizer.from_symbols(_SYMBOLS))
        self.min_terms = min_terms
        self.max_terms = max_terms
        self.max_digits = max_digits
        self.seed = seed

    def num_problems(self, split: Split) -> int:
        """Very many: they are generated."""
        return NUM_GENERATED

    @property
    def max_prompt_tokens(self) -> int:
        """The longest numbers with a sign behind each."""
        return self.max_terms * (self.max_digits + 1)

    def problem(self, index: int, split: Split = "train") -> Problem:
        """Problem ``index`` of the split."""
        self.check_index(index, split)
        return draw_problem(lambda rng: self._draw(rng, index), self.seed, index, split)

    def grade(self, problem: Problem, response: str) -> Grade:
        """Whether the number behind ``####`` is the answer."""
        return grade(response, problem.answer, kind="numeric")

    def _draw(self, rng: random.Random, index: int) -> Problem:
        terms = rng.randint(self.min_terms, self.max_terms)
        digits = [rng.randint(1, self.max_digits) for _ in range(terms)]
        # A number of d digits is drawn from 10**(d-1) .. 10**d - 1, and 0 counts as one digit.
        numbers = [rng.randrange(10 ** (d - 1) if d > 1 else 0, 10**d) for d in digits]
        signs = [rng.choice("+-") for _ in range(terms - 1)]
        prompt = "".join(f"{number}{sign}" for number, sign in zip(numbers, [*signs, "="], strict=True))
        answer, solution = chain_working(numbers, signs)
        return Problem(prompt, answer, solution, index)


def chain_working(numbers: Sequence[int | Decimal], signs: Sequence[str]) -> tuple[str, str]:
    """The answer of ``numbers[0] signs[0] numbers[1] ...``, and its working from left to right.

    Args:
        numbers: At least one.
        signs: ``"+"`` or ``"-"`` between each two.

    Example:
        >>> chain_working([17, 25, 8], ["+", "-"])
        ('34', '17+25=42;42-8=34;#### 34')
    """
    total = numbers[0]
    lines = []
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = total + number if sign == "+" else total - number
        lines.append(f"{total}{sign}{number}={result};")
        total = result
    return str(total), f"{''.join(lines)}#### {total}"
