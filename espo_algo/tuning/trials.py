"""Trials of a search, in their folders, as a table.

- :class:`Trial`: what it drew, and its numbers, iteration by iteration.
- :func:`read_trials`: those of a search's folder.
- :func:`best_first`: in order of what was searched for.
- :func:`format_trials`: a table.
- :func:`short_names`: settings as tables name them.
- :func:`trial_folders`: the trials' folders, which are runs of their own.
- :data:`TRIALS`: the folder of the trials in a search's. :data:`VALUES`: what a trial drew, in its own.
- :data:`SEARCH`: what a search was started with, in its folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espo_algo.commands.run_log import LOG, RunLog
from espo_algo.evaluation.report import format_table
from espo_algo.tuning.metrics import readable, with_evaluations

__all__ = [
    "SEARCH",
    "TRIALS",
    "VALUES",
    "Trial",
    "best_first",
    "format_trials",
    "read_trials",
    "short_names",
    "trial_folders",
]

TRIALS = "trials"
VALUES = "values.json"
SEARCH = "search.yaml"
_BESIDE = ("iteration", "tokens", "accuracy", "stop_rate", "wrong_stops")


@dataclass(frozen=True)
class Trial:
    """A trial.

    Attributes:
        name: Its name.
        values: Name of a setting -> what it drew.
        records: Its numbers (:func:`~espo_algo.tuning.metrics.readable`), iteration by iteration; one or more.
    """

    name: str
    values: Mapping[str, Any]
    records: Sequence[Mapping[str, float]]

    def last(self, metric: str) -> float:
        """The newest number of a metric; NaN where it was never measured."""
        return self.records[-1][metric]


def trial_folders(folder: str | Path) -> list[Path]:
    """Folders of the trials in a search's that have done an iteration, by their names; none where no search is."""
    runs = sorted((Path(folder) / TRIALS).glob("*"))
    return [run for run in runs if (run / LOG).is_file() and RunLog(run).iterations()]


def read_trials(folder: str | Path) -> list[Trial]:
    """The trials of :func:`trial_folders`."""
    return [
        Trial(
            run.name,
            json.loads((run / VALUES).read_text("utf-8")),
            [*map(readable, with_evaluations(RunLog(run).results()))],
        )
        for run in trial_folders(folder)
    ]


def best_first(trials: Sequence[Trial], metric: str, mode: str) -> list[Trial]:
    """Trials in order of what was searched for; those without a number last.

    Args:
        trials: The trials.
        metric: One of :data:`~espo_algo.tuning.metrics.NAMES`.
        mode: ``"max"`` or ``"min"``.
    """
    sign = -1 if mode == "max" else 1

    def key(trial: Trial) -> float:
        number = trial.last(metric)
        return math.inf if math.isnan(number) else sign * number

    return sorted(trials, key=key)


def format_trials(trials: Sequence[Trial], metric: str, mode: str) -> str:
    """A text table, the best trial first: what each drew, and where it stands."""
    names = [*dict.fromkeys(name for trial in trials for name in trial.values)]
    columns = [metric, *(name for name in _BESIDE if name != metric)]
    rows = [
        [
            trial.name,
            *(shown(trial.values.get(name, "-")) for name in names),
            *(_number(trial.last(column), 0 if column in ("iteration", "tokens") else 3) for column in columns),
        ]
        for trial in best_first(trials, metric, mode)
    ]
    return format_table(["trial", *short_names(names), *columns], rows)


def short_names(names: Sequence[str]) -> list[str]:
    """``lr`` for ``training.lr``, unless another setting has the same last word."""
    last = [name.rpartition(".")[2] for name in names]
    return [short if last.count(short) == 1 else name for name, short in zip(names, last, strict=True)]


def shown(value: Any) -> str:
    """A setting's value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _number(number: float, digits: int) -> str:
    return "-" if math.isnan(number) else f"{number:.{digits}f}"
