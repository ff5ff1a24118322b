"""The order in which problems are posed.

- :class:`ProblemOrder`: a shuffled pass over the problems after the other, by position.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ProblemOrder"]

_LARGEST_SHUFFLE = 1 << 22


class ProblemOrder:
    """Maps the n-th problem posed to its index in the split.

    Depends on the seed and the position alone, so a run goes on at the exact problem from nothing but a counter. Each
    pass poses every problem once, in an order of its own; where there are more than four million (generated problems),
    each position draws one independently.

    Args:
        num_problems: Size of the split, >= 1.
        seed: Seed of the shuffles; None is 0.

    Raises:
        ValueError: If there are no problems.

    Example:
        >>> order = ProblemOrder(3, seed=0)
        >>> sorted(order[i] for i in range(3)), sorted(order[i] for i in range(3, 6))
        ([0, 1, 2], [0, 1, 2])
    """

    def __init__(self, num_problems: int, seed: int | None = None) -> None:
        if num_problems < 1:
            raise ValueError(f"expected at least one problem, got {num_problems}")
        self.num_problems = num_problems
        self.seed = seed or 0
        self._pass: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, position: int) -> int:
        if self.num_problems > _LARGEST_SHUFFLE:
            return int(np.random.default_rng((self.seed, position)).integers(self.num_problems))
        number, offset = divmod(position, self.num_problems)
        if self._pass[0] != number:
            self._pass = (number, np.random.default_rng((self.seed, number)).permutation(self.num_problems))
        return int(self._pass[1][offset])
