"""An engine, a stop rule, an advantage estimator and a task of one's own, by their places in this module."""

from __future__ import annotations

import numpy as np
from coin_task import CoinTask

from espo_algo.learning.advantages import generalized_advantages
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.engines import EngineKind


class CountingEngine(TorchEngine):
    """Counts the batches that it was told to rest after."""

    rests = 0

    def rest(self) -> None:
        self.rests += 1
        super().rest()


ENGINE = EngineKind("own_parts:CountingEngine")
GPU_ENGINE = EngineKind("own_parts:CountingEngine", needs_gpu=True)
NOT_AN_ENGINE = CountingEngine


def third_token(x):
    """A stop rule: fires at the third token."""
    return x.steps + 1, x.values * 0 + 2.5


def ones(x):
    """An advantage estimator: every token is as good as any other."""
    _, targets = generalized_advantages(x)
    return [np.ones(len(v), np.float32) for v in x.values], targets


def not_finite(x):
    """An advantage estimator that is broken."""
    advantages, targets = ones(x)
    return [a * np.nan for a in advantages], targets


class CountedTask(CoinTask):
    """Counts how often it was built in this process."""

    built = 0

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        CountedTask.built += 1
