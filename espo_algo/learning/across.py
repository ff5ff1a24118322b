"""Numbers that all learners share.

- :class:`AcrossLearners`: sums, moments and largest numbers over the learners of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["AcrossLearners"]


@dataclass(frozen=True, slots=True)
class AcrossLearners:
    """Sums over all learners; each of them makes the same calls in the same order.

    Attributes:
        num_learners: How many there are; with one, nothing is communicated.
        device: Where a remote learner's collectives work.
    """

    num_learners: int
    device: torch.device | str

    def sums(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number over all learners."""
        if self.num_learners <= 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tuple(tensor.tolist())

    def largest(self, number: int) -> int:
        """The largest of the learners' numbers."""
        if self.num_learners <= 1:
            return number
        tensor = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return int(tensor)

    def moments(self, flat: NDArray[np.floating], weights: NDArray[np.floating] | None = None) -> tuple[float, float]:
        """Mean and variance over all tokens of all learners, in two passes in float64; NaN where nothing has weight.

        Args:
            flat: One number for each token of this learner.
            weights: What each of them counts for, of the same shape; None for 1.
        """
        flat = flat.astype(np.float64)
        weights = np.ones_like(flat) if weights is None else weights.astype(np.float64)
        count, total = self.sums(weights.sum(), (weights * flat).sum())
        if count == 0:
            return math.nan, math.nan
        (squares,) = self.sums((weights * np.square(flat - total / count)).sum())
        return total / count, squares / count
