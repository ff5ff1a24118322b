"""The tolerance ``beta``: how it is driven to a stop rate, and how it is set from rollouts (arXiv 2605.29860).

- :class:`ToleranceController`: drives ``beta`` so that the measured stop rate meets a target.
- :func:`replay`, :func:`critical_betas`: at which ``beta`` recorded responses would have been stopped.
- :func:`calibrate_beta`: sets ``beta`` from rollouts instead of from another scale's constant.

Another way to set it, from a budget of wrong stops, is in ``budget.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from espo_env.early_stopping.detector import DetectorSettings, DetectorState, FailureDetector
from espo_env.early_stopping.regret import RegretStatistics

__all__ = ["ToleranceController", "calibrate_beta", "critical_betas", "replay"]


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
    may_stop: ClassVar[bool] = True
    """It needs no evidence, see :class:`~espo_env.early_stopping.budget.FalsePositiveController`."""

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


def replay(
    settings: DetectorSettings,
    statistics: RegretStatistics,
    regrets: Sequence[Any],
    values: Sequence[Any],
    keep_last: Iterable[bool],
    prompt_success: Any = 1.0,
) -> NDArray[np.float64]:
    """For each step of recorded responses, the highest ``beta`` at which the detector's rule would have fired there.

    Args:
        settings: Rule and constants.
        statistics: What regrets are normalised with.
        regrets: Arrays of shape (T_i,), one a response.
        values: Arrays of shape (T_i,), one a response.
        keep_last: Per response, whether a stop may fall on its last step (not if it is the end-of-sequence token).
        prompt_success: How often other responses to each prompt were right, shape (n,), or one number for all.

    Returns:
        Shape (n, max T_i): ``score / gate``; ``-inf`` where nothing could have fired.
    """
    lengths = np.array([len(g) - (not last) for g, last in zip(regrets, keep_last, strict=True)], dtype=np.int64)
    if len(lengths) == 0:
        return np.zeros((0, 0))
    detector = FailureDetector(len(lengths), settings, DetectorState(statistics, beta=1.0), seed=0)
    detector.reset(prompt_success=prompt_success)
    columns = np.zeros((2, len(lengths), max(lengths.max(), 0)), np.float32)
    for i, length in enumerate(lengths):
        columns[:, i, :length] = np.asarray(regrets[i])[:length], np.asarray(values[i])[:length]
    out = np.full(columns.shape[1:], -np.inf)
    for t in range(columns.shape[2]):
        alive = np.flatnonzero(lengths > t)
        verdict = detector.update(columns[0, alive, t], columns[1, alive, t], alive)
        # With beta 1 the threshold is the gate.
        out[alive, t] = verdict.score.astype(np.float64) / verdict.threshold
    return out


def critical_betas(
    settings: DetectorSettings,
    statistics: RegretStatistics,
    regrets: Sequence[Any],
    values: Sequence[Any],
    keep_last: Iterable[bool],
    prompt_success: Any = 1.0,
) -> NDArray[np.float64]:
    """For each recorded response, the highest ``beta`` at which the detector's rule would have stopped it.

    Args:
        settings: Rule and constants, and further as :func:`replay`.
        statistics: What regrets are normalised with.
        regrets: Arrays of shape (T_i,), one a response.
        values: Arrays of shape (T_i,), one a response.
        keep_last: Per response, whether a stop may fall on its last step.
        prompt_success: Shape (n,), or one number for all.

    Returns:
        Shape (n,): ``max_t score / gate``; ``-inf`` for a response that cannot be stopped.
    """
    scores = replay(settings, statistics, regrets, values, keep_last, prompt_success)
    return np.fmax.reduce(scores, axis=1, initial=-np.inf)


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
