"""Two small tasks on which the first wrong token is known exactly.

- :class:`WalkTask`: follow a table from a start to a goal.
- :class:`CycleTask`: the same on two cycles, where a slip often never arrives. Built in early stopping's favour.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
from numpy.typing import NDArray

from espo_env.grading import Grade
from espo_env.tasks.base import Problem, Split, Task
from espo_env.tasks.splits import NUM_GENERATED, draw_problem
from espo_env.tokenizer import Tokenizer

__all__ = ["CycleTask", "WalkTask"]

_PLACES = "0123456789ab"
_SIZE = len(_PLACES)


class WalkTask(Task):
    """Follow a table from a start to a goal.

    The prompt is a table of twelve increments, a goal and a start: ``3a1502b47916>7:2``. The response writes, for each
    step from place ``x``, the increment ``table[x]`` and the next place ``(x + table[x]) mod 12``, until the next place
    is the goal; then the end-of-sequence token. Places and increments are single characters, ``a`` is 10, ``b`` is 11.

    There is one right response, and all of it has to be right: so the first wrong token is known, which makes an oracle
    for the tokens that stopping can save at best. The splits share no problem: the text of a problem decides which one
    it belongs to.

    Args:
        min_steps: Fewest steps from start to goal, >= 1.
        max_steps: Most steps, at most 9 (longer walks are rare among random tables).
        seed: Another seed is another sequence of problems.

    Raises:
        ValueError: If an argument is out of its range.
    """

    _longest = 9

    def __init__(self, min_steps: int = 3, max_steps: int = 9, seed: int = 0) -> None:
        if not 1 <= min_steps <= max_steps <= self._longest:
            raise ValueError(
                f"expected 1 <= min_steps <= max_steps <= {self._longest}, got {min_steps} and {max_steps}"
            )
        if seed < 0:
            raise ValueError(f"expected seed >= 0, got {seed}")
        super().__init__(Tokenizer.from_symbols(_PLACES + ">:"))
        self.min_steps = min_steps
        self.max_steps = max_steps
        self.seed = seed

    def num_problems(self, split: Split) -> int:
        """Very many: they are generated."""
        return NUM_GENERATED

    @property
    def max_prompt_tokens(self) -> int:
        """Every prompt has this length: table, goal, start and two signs."""
        return _SIZE + 4

    def problem(self, index: int, split: Split = "train") -> Problem:
        """Problem ``index`` of the split. Its answer is the whole path."""
        self.check_index(index, split)
        return draw_problem(lambda rng: self._draw(rng, index), self.seed, index, split)

    def grade(self, problem: Problem, response: str) -> Grade:
        """Whether the whole path is right."""
        correct = response == problem.answer
        return Grade(correct, response, "equal" if correct else "different")

    def slipped_demonstration(
        self, problem: Problem, rng: np.random.Generator, slip_rate: float = 0.06, max_new_tokens: int = 40
    ) -> NDArray[np.int32]:
        """A demonstration that now and then writes a wrong next place, and walks on faithfully from there.

        A model trained on right demonstrations alone never learns what comes after a slip.

        Args:
            problem: What is asked.
            rng: Draws the slips.
            slip_rate: Probability of a slip in each step, in [0, 1].
            max_new_tokens: Where a walk that never arrives is cut.

        Returns:
            Tokens, shape (T,) with T <= ``max_new_tokens``; the last one is the end-of-sequence token if the walk
            arrived.
        """
        table = [_PLACES.index(c) for c in problem.prompt[:_SIZE]]
        goal, place = _PLACES.index(problem.prompt[_SIZE + 1]), _PLACES.index(problem.prompt[_SIZE + 3])
        text = ""
        while place != goal and len(text) < max_new_tokens:
            increment = table[place]
            place = (place + increment) % _SIZE
            if rng.random() < slip_rate:
                place = (place + int(rng.integers(1, _SIZE))) % _SIZE
            text += _PLACES[increment] + _PLACES[place]
        tokens = self.tokenizer.encode(text)
        if place == goal:
            tokens.append(self.tokenizer.eos_token_id)
        return np.asarray(tokens[:max_new_tokens], np.int32)

    def _draw(self, rng: random.Random, index: int) -> Problem:
        while True:
            table = self._draw_table(rng)
            places = [rng.randrange(_SIZE)]
            while len(places) <= self.max_steps:
                place = (places[-1] + table[places[-1]]) % _SIZE
                if place in places:
                    break
                places.append(place)
            if len(places) > self.min_steps:
                break
        steps = rng.randrange(self.min_steps, len(places))
        path = "".join(_PLACES[table[x]] + _PLACES[y] for x, y in itertools.pairwise(places[: steps + 1]))
        prompt = f"{''.join(_PLACES[i] for i in table)}>{_PLACES[places[steps]]}:{_PLACES[places[0]]}"
        return Problem(prompt, path, path, index)

    def _draw_table(self, rng: random.Random) -> list[int]:
        return [rng.randrange(1, _SIZE) for _ in range(_SIZE)]


class CycleTask(WalkTask):
    """A walk whose table is a permutation of two cycles of six places.

    A slip often lands on the cycle that the goal is not on, and then never arrives: failed responses are long. This is
    built in favour of stopping early; say so wherever its numbers are shown. To ramble after a slip has to be learnt:
    fine-tune on :meth:`slipped_demonstration`.

    Args:
        min_steps: Fewest steps from start to goal, >= 1.
        max_steps: Most steps, at most 5.
        seed: Another seed is another sequence of problems.
    """

    _longest = _SIZE // 2 - 1

    def __init__(self, min_steps: int = 3, max_steps: int = 5, seed: int = 0) -> None:
        super().__init__(min_steps, max_steps, seed)

    def _draw_table(self, rng: random.Random) -> list[int]:
        places = rng.sample(range(_SIZE), _SIZE)
        table = [0] * _SIZE
        for cycle in (places[: _SIZE // 2], places[_SIZE // 2 :]):
            for here, there in itertools.pairwise([*cycle, cycle[0]]):
                table[here] = (there - here) % _SIZE
        return table
