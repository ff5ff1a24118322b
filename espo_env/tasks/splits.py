"""Disjoint splits for generated problems.

- :func:`draw_problem`: the problem of an index, out of the split it belongs to.
- :func:`split_of`: which split a problem belongs to.
- :data:`NUM_GENERATED`: how many indices a generated split has.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from espo_env.tasks.base import Problem, Split

__all__ = ["NUM_GENERATED", "draw_problem", "split_of"]

NUM_GENERATED = 2**31
"""Indices of a generated split. Small spaces repeat their problems long before."""

_EVAL_SHARE = 4
_MAX_DRAWS = 1000


def split_of(text: str) -> Split:
    """The split that a problem with this text belongs to: a quarter of all problems is for measuring.

    The text decides, so that the splits are disjoint however small the space of problems is.
    """
    return "eval" if zlib.crc32(text.encode()) % _EVAL_SHARE == 0 else "train"


def draw_problem(draw: Callable[[random.Random], Problem], seed: int, index: int, split: Split) -> Problem:
    """Draws problems from a generator seeded with ``(seed, split, index)`` until one belongs to the split.

    Args:
        draw: Draws one problem.
        seed: The task's seed, >= 0.
        index: Index in the split.
        split: Where the problem must belong, by the text of its prompt.

    Raises:
        ValueError: If none is found: the space is too small to have problems for this split.
    """
    # The standard library's generator: numpy's costs ten times as much where single numbers are drawn.
    rng = random.Random(f"{seed} {split} {index}")
    for _ in range(_MAX_DRAWS):
        problem = draw(rng)
        if split_of(problem.prompt) == split:
            return problem
    raise ValueError(f"expected a space of problems large enough for split {split!r}, got none in {_MAX_DRAWS} draws")
