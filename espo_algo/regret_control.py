"""What early stopping learns from a batch.

- :class:`RegretControl`: statistics, tolerance and warm-up, updated once a training batch (algorithm steps 2 and 4).

The buffers of the RLModule own it (``rl_module.py``); this is the maths between two batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.engine import RegretState
from espo_env.early_stopping import (
    CriticWarmup,
    FailureDetector,
    RegretStatistics,
    ToleranceController,
    calibrate_beta,
    critical_betas,
)
from espo_env.types import StopReason

__all__ = ["RegretControl", "StatisticsStart"]

StatisticsStart = Literal["first_batch", "zero_one"]


@dataclass(frozen=True, slots=True)
class RegretControl:
    """The state of early stopping between two batches.

    Attributes:
        statistics: Mean and variance of the step regret.
        controller: The tolerance ``beta`` and its controller.
        warmup: Whether stopping is on.
        start: ``"first_batch"``: statistics start from the first batch; ``"zero_one"``: from what they are.
        calibrate: Set ``beta`` from the rollouts of the batch that ends the warm-up (``beta="auto"``).
        num_updates: Batches seen.
    """

    statistics: RegretStatistics = field(default_factory=RegretStatistics)
    controller: ToleranceController = field(default_factory=ToleranceController)
    warmup: CriticWarmup = field(default_factory=CriticWarmup)
    start: StatisticsStart = "first_batch"
    calibrate: bool = False
    num_updates: int = 0

    @property
    def engine_state(self) -> RegretState:
        """What the engines run the next batch with."""
        return RegretState(self.statistics, self.controller.beta, enabled=self.warmup.done)

    def updated(
        self,
        episodes: Sequence[TokenEpisode],
        detector: FailureDetector,
        critic_loss: float,
        explained_variance: float,
    ) -> RegretControl:
        """The state after a training batch.

        Args:
            episodes: The batch, with its traces of regret and value.
            detector: Gives the rule and constants that ``beta="auto"`` is calibrated for.
            critic_loss: The critic's mean squared error in this batch's update.
            explained_variance: Share of the returns' variance that the critic explained before the update.

        Returns:
            Statistics take in every batch; the controller answers only to batches that were collected with stopping
            on; ``beta`` is calibrated on the batch that ends the warm-up, with the statistics that follow from it.
        """
        regrets = np.concatenate([e.regrets for e in episodes])
        first = self.num_updates == 0 and self.start == "first_batch"
        statistics = self.statistics.started(regrets) if first else self.statistics.updated(regrets)
        step = self.num_updates + 1
        # A batch whose returns do not vary explains nothing.
        explained = -math.inf if math.isnan(explained_variance) else explained_variance
        warmup = self.warmup.updated(critic_loss, step, explained)
        controller = self.controller
        if detector.rule == "never":
            pass  # there is no tolerance to set
        elif self.warmup.done:
            controller = controller.updated(sum(e.mark >= 0 for e in episodes) / len(episodes))
        elif warmup.done and self.calibrate:
            detector.configure(statistics, controller.beta, enabled=True)
            critical = critical_betas(
                detector,
                [e.regrets for e in episodes],
                [e.values for e in episodes],
                keep_last=[e.stop_reason is StopReason.REGRET for e in episodes],
            )
            controller = replace(controller, beta=calibrate_beta(critical, controller.target, controller.bounds))
        return replace(self, statistics=statistics, controller=controller, warmup=warmup, num_updates=step)
