"""Step regret and its running statistics (algorithm steps 1 and 2; arXiv 2605.29860).

- :func:`step_regret`: how much worse the sampled token is than the best one, in nats.
- :class:`RegretStatistics`: the mean and variance that regrets are normalised with, frozen within a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["RegretStatistics", "step_regret"]


def step_regret(logits: Any, actions: Any, temperature: float = 1.0) -> Any:
    """Regret of each action against the best one: ``max_a log pi(a|s) - log pi(action|s)``.

    The softmax's normaliser cancels, so this is the gap of two logits, divided by the temperature.

    Args:
        logits: Shape (B, V), numpy array or torch tensor. Not changed, not copied.
        actions: Shape (B,), integer token ids, same kind and device as ``logits``.
        temperature: Sampling temperature, > 0.

    Returns:
        Shape (B,), same kind and dtype as ``logits``, >= 0, in nats.

    Raises:
        ValueError: If the shapes do not match or the temperature is not positive.
    """
    if logits.ndim != 2 or actions.ndim != 1 or logits.shape[0] != actions.shape[0]:
        raise ValueError(
            f"expected logits of shape (B, V) and actions of shape (B,), "
            f"got {tuple(logits.shape)} and {tuple(actions.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"expected a temperature > 0, got {temperature}")
    if isinstance(logits, np.ndarray):
        best = logits.max(axis=-1)
        taken = np.take_along_axis(logits, actions[:, None], axis=-1)[:, 0]
    else:
        best = logits.amax(dim=-1)
        taken = logits.gather(-1, actions[:, None])[:, 0]
    gap = best - taken
    return gap if temperature == 1.0 else gap / temperature


@dataclass(frozen=True, slots=True)
class RegretStatistics:
    """Running mean and variance of the step regret.

    Frozen while a batch is collected, because a decision may not see the future; :meth:`updated` gives the
    statistics for the next batch.

    Attributes:
        mean: Running mean, nats.
        var: Running (population) variance, nats squared.
        momentum: Weight of the old value in an update; 0.99 in the paper.
    """

    mean: float = 0.0
    var: float = 1.0
    momentum: float = 0.99

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum <= 1.0:
            raise ValueError(f"expected a momentum in [0, 1], got {self.momentum}")
        if not self.var >= 0.0:
            raise ValueError(f"expected a variance >= 0, got {self.var}")
        if not np.isfinite(self.mean):
            raise ValueError(f"expected a finite mean, got {self.mean}")

    def updated(self, regrets: Any) -> RegretStatistics:
        """Statistics after one training batch.

        Args:
            regrets: All step regrets of the batch, any shape, numpy or torch.

        Returns:
            ``momentum * old + (1 - momentum) * batch``, for mean and variance; unchanged for an empty batch.

        Raises:
            ValueError: If a regret is negative or not finite.
        """
        moments = _moments(regrets)
        if moments is None:
            return self
        keep = self.momentum
        mean = keep * self.mean + (1.0 - keep) * moments[0]
        return replace(self, mean=mean, var=keep * self.var + (1.0 - keep) * moments[1])

    def started(self, regrets: Any) -> RegretStatistics:
        """Statistics of this batch alone, to start from.

        From 0 and 1 the scale is off for about ``1 / (1 - momentum)`` batches.
        """
        moments = _moments(regrets)
        return self if moments is None else replace(self, mean=moments[0], var=moments[1])


def _moments(regrets: Any) -> tuple[float, float] | None:
    values = np.asarray(regrets if isinstance(regrets, np.ndarray | list | tuple) else regrets.cpu(), dtype=np.float64)
    if values.size == 0:
        return None
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(
            f"expected finite step regrets >= 0, got values from {values.min()} to {values.max()} "
            f"with {np.count_nonzero(~np.isfinite(values))} not finite"
        )
    return float(values.mean()), float(values.var())
