"""The state of early stopping, and how a training batch changes it.

- :class:`EarlyStoppingState`: statistics, tolerance and warm-up, updated once a training batch.

It needs no RLlib: any training loop that has a batch's regrets, values and marks can adapt as ESPO does. In ESPO the
buffers of the RLModule hold it (``espo_algo/learning/rl_module.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from espo_env.early_stopping.budget import AuditedResponse, FalsePositiveController
from espo_env.early_stopping.detector import DetectorSettings, DetectorState
from espo_env.early_stopping.regret import RegretStatistics
from espo_env.early_stopping.tolerance import ToleranceController, calibrate_beta, critical_betas
from espo_env.early_stopping.warmup import CriticWarmup
from espo_env.types import StopReason, Trajectory

__all__ = ["Controller", "EarlyStoppingState", "StatisticsStart"]

Controller = Literal["stop_rate", "false_positive_rate"]
"""What the tolerance is set by: a target stop rate, or a budget of wrong stops."""

StatisticsStart = Literal["first_batch", "zero_one"]
"""Where mean and variance start: from the first batch's moments, or from 0 and 1."""


@dataclass(frozen=True, slots=True)
class EarlyStoppingState:
    """The state of early stopping between two batches.

    Attributes:
        statistics: Mean and variance of the step regret.
        tolerance: ``beta``, and how it is driven to a target stop rate or kept within a budget of wrong stops.
        warmup: Whether the critic is good enough, so that stopping is on.
        start: ``"first_batch"``: statistics start from the first batch; ``"zero_one"``: from what they are.
        calibrate: Set ``beta`` from the rollouts of the batch that ends the warm-up (``beta="auto"``).
        num_updates: Batches seen.
    """

    statistics: RegretStatistics = field(default_factory=RegretStatistics)
    tolerance: ToleranceController | FalsePositiveController = field(default_factory=ToleranceController)
    warmup: CriticWarmup = field(default_factory=CriticWarmup)
    start: StatisticsStart = "first_batch"
    calibrate: bool = False
    num_updates: int = 0

    @property
    def detector_state(self) -> DetectorState:
        """What the detector runs with while the next batch is collected."""
        return DetectorState(self.statistics, self.tolerance.beta, enabled=self.warmup.done and self.tolerance.may_stop)

    def columns_read(self, settings: DetectorSettings) -> tuple[str, ...]:
        """Names of the columns that :meth:`updated` reads of a batch that is collected with this state or a later one.

        Args:
            settings: The rule and constants that the batch is collected with.
        """
        rated = isinstance(self.tolerance, FalsePositiveController) or (self.calibrate and not self.warmup.done)
        return ("regrets", "values") if rated and settings.rule != "never" else ("regrets",)

    def updated(
        self,
        trajectories: Sequence[Trajectory],
        settings: DetectorSettings,
        critic_loss: float,
        explained_variance: float,
        collected_with: DetectorState | None = None,
        stop_rates: Sequence[float] | None = None,
    ) -> EarlyStoppingState:
        """The state after a training batch.

        Args:
            trajectories: The batch, n >= 1; their ``regrets``, ``values``, ``mark`` and ``stop_reason`` are read, for a
                budget of wrong stops ``shadow`` and ``correct``, too.
            settings: The rule and constants that the batch was collected with.
            critic_loss: The critic's mean squared error in this batch's update.
            explained_variance: Share of the returns' variance that the critic explained before the update.
            collected_with: What the detector ran with; None for this state's own, another where a batch is collected
                while one is learnt from. A response's own ``segments`` come first.
            stop_rates: What the controller of the stop rate answers to, one after the other, where the batch is no
                fair sample of the responses; None for the share of the batch that was stopped or marked.

        Returns:
            Statistics take in every batch; the controller answers only to batches that were collected with stopping
            on; ``beta`` is calibrated on the batch that ends the warm-up, with the statistics that follow from it. A
            budget of wrong stops is worked out from that batch on, with every response that ran to its end.
        """
        regrets = np.concatenate([e.regrets for e in trajectories])
        first = self.num_updates == 0 and self.start == "first_batch"
        statistics = self.statistics.started(regrets) if first else self.statistics.updated(regrets)
        step = self.num_updates + 1
        # A batch whose returns do not vary explains nothing.
        explained = -math.inf if math.isnan(explained_variance) else explained_variance
        warmup = self.warmup.updated(critic_loss, step, explained)
        tolerance, collected_with = self.tolerance, collected_with or self.detector_state
        if settings.rule == "never":
            pass  # there is no tolerance to set
        elif isinstance(tolerance, FalsePositiveController):
            if warmup.done:
                tolerance = tolerance.updated(_audited(trajectories, settings, statistics, collected_with))
        elif collected_with.enabled:
            measured = sum(e.mark >= 0 for e in trajectories) / len(trajectories)
            for rate in [measured] if stop_rates is None else stop_rates:
                tolerance = tolerance.updated(rate)
        elif warmup.done and not self.warmup.done and self.calibrate:
            critical = critical_betas(
                settings,
                statistics,
                [e.regrets for e in trajectories],
                [e.values for e in trajectories],
                keep_last=[e.stop_reason is StopReason.REGRET for e in trajectories],
                prompt_success=np.array([e.prompt_success for e in trajectories], np.float32),
            )
            tolerance = replace(tolerance, beta=calibrate_beta(critical, tolerance.target, tolerance.bounds))
        return replace(self, statistics=statistics, tolerance=tolerance, warmup=warmup, num_updates=step)


def _audited(
    trajectories: Sequence[Trajectory], settings: DetectorSettings, statistics: RegretStatistics, state: DetectorState
) -> list[AuditedResponse]:
    """The responses of a batch that tell what stopping would have done: let run from the start, or at their mark.

    An unmarked response that might have been stopped tells nothing: it ran to its end because it was not. So does one
    that began when stopping was off, and ended when it was on. ``state`` is what the batch was collected with.
    """

    def let_run(e: Trajectory) -> bool:
        on = any(segment.stopping for segment in e.segments) if e.segments else state.enabled
        return e.shadow or not on

    chosen = [
        (e, -math.inf if let_run(e) else state.beta)
        for e in trajectories
        if e.stop_reason is not StopReason.REGRET and (let_run(e) or e.mark >= 0)
    ]
    critical = critical_betas(
        settings,
        statistics,
        [e.regrets for e, _ in chosen],
        [e.values for e, _ in chosen],
        keep_last=[False] * len(chosen),
        prompt_success=np.array([e.prompt_success for e, _ in chosen], np.float32),
    )
    return [
        AuditedResponse(float(beta), known_from, e.correct is True)
        for beta, (e, known_from) in zip(critical, chosen, strict=True)
    ]
