"""What adapts between batches: the tolerance and the critic's warm-up (arXiv 2605.29860).

- :class:`ToleranceController`: drives ``beta`` so that the measured stop rate meets a target.
- :class:`CriticWarmup`: keeps stopping off until the critic is worth listening to.
- :func:`critical_betas`, :func:`calibrate_beta`: set ``beta`` from rollouts instead of from another scale's constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from espo_env.early_stopping.detector import FailureDetector

__all__ = ["CriticWarmup", "ToleranceController", "calibrate_beta", "critical_betas"]


@dataclass(frozen=True, slots=True)
class ToleranceController:
    """Raises the tolerance when too many responses are stopped, lowers it when too few are.

    Attributes:
        beta: The tolerance now; 7.0 in the paper.
        rate: Gain ``eta``; 0.1 in the paper.
        target: Stop rate aimed at, in [0, 1]; 0.25 in the paper. It must stay below the failure rate:
            false positives are at least ``1 - failure_rate / stop_rate``.
        bounds: Lowest and highest ``beta`` (not published).
        update: ``"additive"`` is the paper's ``beta + rate * (measured - target)``. ``"multiplicative"`` is
            ``beta * exp(rate * (measured - target) / target)``, which does not depend on the scale of ``beta``: from
            7 to a threshold of 0.5 the first takes hundreds of batches, the second about ten.
    """

    beta: float = 7.0
    rate: float = 0.1
    target: float = 0.25
    bounds: tuple[float, float] = (0.05, 50.0)
    update: Literal["additive", "multiplicative"] = "additive"

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not 0.0 <= self.target <= 1.0:
            raise ValueError(f"expected a target stop rate in [0, 1], got {self.target}")
        if not low <= high:
            raise ValueError(f"expected bounds with low <= high, got {self.bounds}")
        if not low <= self.beta <= high:
            raise ValueError(f"expected beta within bounds {self.bounds}, got {self.beta}")
        if not self.rate >= 0.0:
            raise ValueError(f"expected a rate >= 0, got {self.rate}")
        if self.update not in ("additive", "multiplicative"):
            raise ValueError(f"expected update 'additive' or 'multiplicative', got {self.update!r}")
        if self.update == "multiplicative" and not (low > 0 and self.target > 0):
            raise ValueError(
                f"expected a positive target and positive bounds for the multiplicative update, "
                f"got target {self.target} and bounds {self.bounds}"
            )

    def updated(self, measured_stop_rate: float) -> ToleranceController:
        """The controller after a batch.

        Args:
            measured_stop_rate: Share of the batch's responses that the detector stopped or marked, in [0, 1].

        Raises:
            ValueError: If the rate is outside [0, 1].
        """
        if not 0.0 <= measured_stop_rate <= 1.0:
            raise ValueError(f"expected a measured stop rate in [0, 1], got {measured_stop_rate}")
        error = measured_stop_rate - self.target
        if self.update == "additive":
            beta = self.beta + self.rate * error
        else:
            beta = self.beta * math.exp(self.rate * error / self.target)
        return replace(self, beta=min(max(beta, self.bounds[0]), self.bounds[1]))


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


def critical_betas(
    detector: FailureDetector, regrets: Sequence[Any], values: Sequence[Any], keep_last: Iterable[bool]
) -> NDArray[np.float64]:
    """For each recorded response, the highest ``beta`` at which the detector's rule would have stopped it.

    Args:
        detector: Its rule, statistics and constants are used; its slots and ``beta`` are left alone.
        regrets: Arrays of shape (T_i,), one a response.
        values: Arrays of shape (T_i,), one a response.
        keep_last: Per response, whether a stop may fall on its last step (not if it is the end-of-sequence token).

    Returns:
        Shape (n,): ``max_t score / gate``; ``-inf`` for a response that cannot be stopped.
    """
    lengths = np.array([len(g) - (not last) for g, last in zip(regrets, keep_last, strict=True)], dtype=np.int64)
    out = np.full(len(lengths), -np.inf)
    if len(lengths) == 0:
        return out
    replay = FailureDetector(
        len(lengths),
        detector.statistics,
        beta=1.0,
        smoothing=detector.smoothing,
        value_floor=detector.value_floor,
        clip=detector.clip,
        delta=detector.delta,
        rule=detector.rule,
        seed=0,
    )
    columns = np.zeros((2, len(lengths), max(lengths.max(), 0)), np.float32)
    for i, length in enumerate(lengths):
        columns[:, i, :length] = np.asarray(regrets[i])[:length], np.asarray(values[i])[:length]
    for t in range(columns.shape[2]):
        alive = np.flatnonzero(lengths > t)
        verdict = replay.update(columns[0, alive, t], columns[1, alive, t], alive)
        # With beta 1 the threshold is the gate.
        out[alive] = np.maximum(out[alive], verdict.z.astype(np.float64) / verdict.threshold)
    return out


def calibrate_beta(critical: NDArray[np.float64], target: float, bounds: tuple[float, float]) -> float:
    """The ``beta`` that would have stopped a share ``target`` of the recorded responses.

    This is ``beta="auto"``: the paper's 7.0 belongs to its models; at another scale it may never fire.

    Args:
        critical: From :func:`critical_betas`, shape (n,), n >= 1.
        target: Stop rate aimed at, in [0, 1].
        bounds: Lowest and highest ``beta``.

    Raises:
        ValueError: If there is nothing to calibrate on.
    """
    if len(critical) == 0:
        raise ValueError("expected at least one recorded response to calibrate beta on, got 0")
    ordered = np.sort(critical)[::-1]
    stopped = min(round(target * len(ordered)), len(ordered))
    # Half-way between the last one to stop and the first one to let go.
    if stopped == 0:
        beta = np.nextafter(ordered[0], np.inf)
    elif stopped == len(ordered) or not np.isfinite(ordered[stopped]):
        beta = np.nextafter(ordered[stopped - 1], -np.inf)
    else:
        beta = (ordered[stopped - 1] + ordered[stopped]) / 2
    return float(np.clip(beta, *bounds))
