"""The critic's warm-up (arXiv 2605.29860).

- :class:`CriticWarmup`: keeps stopping off until the critic is good enough to decide about stops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["CriticWarmup"]


@dataclass(frozen=True, slots=True)
class CriticWarmup:
    """Whether the critic is good enough for its value to decide about stops.

    The paper: done when the critic's loss is below ``loss_threshold`` for ``patience`` consecutive updates, or changes
    by less than ``change_threshold`` between neighbouring updates; in any case after ``max_fraction`` of the planned
    steps. With 0/1 rewards a critic that knows nothing already meets that test (its squared error starts at
    0.13 to 0.22), so ``min_explained_variance`` asks the better question instead.

    Attributes:
        loss_threshold: 0.5 in the paper.
        patience: 3 in the paper.
        change_threshold: 0.1 in the paper.
        max_fraction: 0.1 in the paper.
        total_steps: Planned number of updates, None where unknown: then nothing is forced.
        min_explained_variance: If set, replaces both loss tests: done when the critic explains at least this share of
            the returns' variance for ``patience`` consecutive updates.
        done: Whether stopping is on. Never goes back.
        streak: Consecutive updates that met the test so far.
        last_loss: Critic loss of the last update, NaN before the first.
    """

    loss_threshold: float = 0.5
    patience: int = 3
    change_threshold: float = 0.1
    max_fraction: float = 0.1
    total_steps: int | None = None
    min_explained_variance: float | None = None
    done: bool = False
    streak: int = 0
    last_loss: float = math.nan

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"expected patience >= 1, got {self.patience}")
        if not 0.0 <= self.max_fraction <= 1.0:
            raise ValueError(f"expected max_fraction in [0, 1], got {self.max_fraction}")
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f"expected total_steps >= 1 or None, got {self.total_steps}")
        if self.min_explained_variance is not None and not self.min_explained_variance <= 1.0:
            raise ValueError(f"expected min_explained_variance <= 1, got {self.min_explained_variance}")

    def updated(self, critic_loss: float, step: int, explained_variance: float | None = None) -> CriticWarmup:
        """The warm-up after an update.

        Args:
            critic_loss: Mean squared error of the critic in this update.
            step: Number of updates done, this one included (1, 2, ...).
            explained_variance: Share of the returns' variance explained; needed if ``min_explained_variance`` is set.

        Raises:
            ValueError: If the explained variance is needed and missing.
        """
        if self.done:
            return self
        if self.min_explained_variance is not None:
            if explained_variance is None:
                raise ValueError("expected explained_variance because min_explained_variance is set, got None")
            good = explained_variance >= self.min_explained_variance
            settled = False
        else:
            good = critic_loss < self.loss_threshold
            # The first comparison with NaN is False: one update has no neighbour.
            settled = abs(critic_loss - self.last_loss) < self.change_threshold
        streak = self.streak + 1 if good else 0
        forced = self.total_steps is not None and step >= self.max_fraction * self.total_steps
        done = streak >= self.patience or settled or forced
        return replace(self, done=done, streak=streak, last_loss=float(critic_loss))
