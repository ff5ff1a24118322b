"""What an update measures.

- :func:`measure_before`: the critic and the sampler, under the weights before the update.
- :class:`UpdateSums`: sums over tokens and optimiser steps, kept on the device until the update is over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espo_algo.learning.across import AcrossLearners

__all__ = ["UpdateSums", "measure_before"]

Floats = Sequence[NDArray[np.float32]]


def measure_before(
    across: AcrossLearners, values: Floats, targets: Floats, weights: Floats, logprobs: Floats, sampled: Floats
) -> tuple[dict[str, float], float]:
    """How well the critic explained the returns, and how far the sampler was from the learner.

    Args:
        across: Sums over all learners.
        values: For each response ``V(s_t)`` of its tokens; all arrays have shape (T_i,).
        targets: Value targets.
        weights: What a token counts for in the explained variance: 0 where the outcome is not known.
        logprobs: Of the tokens, under the learner's weights, nats.
        sampled: The same as the engine reported them.

    Returns:
        ``vf_explained_var`` (NaN where the returns do not vary: there is nothing to explain) and ``mismatch_kl`` over
        all learners, and this learner's highest ratio of the probabilities.
    """
    target, weight = np.concatenate(targets), np.concatenate(weights)
    _, variance = across.moments(target, weight)
    _, unexplained = across.moments(target - np.concatenate(values), weight)
    gap = np.concatenate(logprobs) - np.concatenate(sampled)
    mismatch, _ = across.moments(np.expm1(gap) - gap)
    explained = 1 - unexplained / variance if variance > 0 else float("nan")
    return {"vf_explained_var": explained, "mismatch_kl": mismatch}, float(np.exp(gap.max()))


class UpdateSums:
    """Sums over an update's tokens and steps.

    Args:
        device: Where they are added up; nothing is fetched from it before :meth:`means`.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._tokens: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=device))
        self._count = self._steps = self._skipped = 0
        self._norms = 0.0

    def add_tokens(self, columns: dict[str, Tensor]) -> None:
        """Adds columns of shape (N,), one number for each token of a micro-batch."""
        for name, column in columns.items():
            self._tokens[name] += column.detach().sum(dtype=torch.float64)
        self._count += len(next(iter(columns.values())))

    def add_step(self, norm: float, finite: bool) -> None:
        """Adds an optimiser step: its gradient's norm, or that it was left out because that was not finite."""
        self._norms += norm if finite else 0.0
        self._steps += finite
        self._skipped += not finite

    def means(self, across: AcrossLearners) -> dict[str, float]:
        """Means over the tokens of all learners, ``grad_norm`` over the steps made, and the number of those skipped."""
        names = sorted(self._tokens)
        count, *sums = across.sums(self._count, *(float(self._tokens[name]) for name in names))
        means = {name: total / count for name, total in zip(names, sums, strict=True)}
        # Every learner has made the same steps with the same gradients.
        return means | {"grad_norm": self._norms / max(self._steps, 1), "skipped_steps": float(self._skipped)}
