"""Tune's loggers with readable names: ``stop_rate`` instead of ``env_runners/early_stopping/stop_rate``.

- :class:`ReadableNames`: what makes one of a logger.
- :class:`TensorBoardLogger`, :class:`WandbLogger`, :class:`MLflowLogger`: the loggers (the last two need the extra
  ``loggers``). They take the arguments of Ray's own.

They are for ``Tuner("ESPO")``; what ``espo tune`` reports has these names already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.logger import LoggerCallback, TBXLoggerCallback

from espo_algo.tuning.metrics import readable

__all__ = ["MLflowLogger", "ReadableNames", "TensorBoardLogger", "WandbLogger"]

_TUNES = ("training_iteration", "time_total_s", "timesteps_total", "trial_id", "done")


class ReadableNames(LoggerCallback):
    """Left of a logger among a class's bases: it logs our metrics, and of the settings those that were drawn."""

    def log_trial_start(self, trial: Any) -> None:
        """Logs the settings that were drawn; a configuration has hundreds, more than MLflow takes."""
        with _only_drawn(trial):
            super().log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Logs :func:`~espo_algo.tuning.metrics.readable` metrics, those that were measured."""
        measured = {name: number for name, number in readable(result).items() if not math.isnan(number)}
        super().log_trial_result(iteration, trial, {n: result[n] for n in _TUNES if n in result} | measured)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Ends as the logger does, with the settings that were drawn."""
        with _only_drawn(trial):
            super().log_trial_end(trial, failed)


class TensorBoardLogger(ReadableNames, TBXLoggerCallback):
    """TensorBoard's files in each trial's folder, in the place of those that Tune writes by itself."""


class WandbLogger(ReadableNames, WandbLoggerCallback):
    """Weights & Biases; offline with ``mode="offline"`` and the environment variable ``WANDB_MODE=offline``."""


class MLflowLogger(ReadableNames, MLflowLoggerCallback):
    """MLflow; without a server with ``tracking_uri="sqlite:////absolute/path.db"``."""


@contextmanager
def _only_drawn(trial: Any) -> Iterator[None]:
    config = trial.config
    trial.config = dict(trial.evaluated_params)
    try:
        yield
    finally:
        trial.config = config
