"""What came out of a search: a table and a plot by one call.

- :func:`summarize`: of a ``ResultGrid``. :func:`summarize_folder`: of the folder of ``espo tune``.
- :func:`read_results`: the trials of a ``ResultGrid``.
- :func:`plot_trials`: the course of every trial, and what each setting did (needs matplotlib: extra ``plots``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espo_algo.commands.config_file import parse_file
from espo_algo.commands.run_settings import flat
from espo_algo.evaluation.report import label_axes, new_figure
from espo_algo.tuning.metrics import EVALUATION, read_row
from espo_algo.tuning.trials import SEARCH, Trial, format_trials, read_trials, short_names

if TYPE_CHECKING:
    from ray.tune import ResultGrid

__all__ = ["PLOT", "plot_trials", "read_results", "summarize", "summarize_folder"]

PLOT = "trials.png"
_COLUMNS = 4
_WIDE = 10
"""Largest over smallest value from which on an axis is logarithmic."""


def summarize(results: ResultGrid, output: str | Path, metric: str = "eval_accuracy", mode: str = "max") -> str:
    """Plots the trials of an experiment into ``output/trials.png``, and gives a table, the best trial first.

    Args:
        results: What ``Tuner.fit`` gave back, of ``"ESPO"`` or of :func:`~espo_algo.tuning.trial.run_trial`.
        output: Folder of the plot.
        metric: One of :data:`~espo_algo.tuning.metrics.NAMES`.
        mode: ``"max"`` or ``"min"``.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    return _summarize(read_results(results), Path(output), metric, mode)


def summarize_folder(folder: str | Path, output: str | Path) -> str:
    """The same of a search's folder, with the metric that was searched for."""
    options = parse_file(Path(folder) / SEARCH)["tune"]
    return _summarize(read_trials(folder), Path(output), options["metric"], options["mode"])


def read_results(results: ResultGrid) -> list[Trial]:
    """The trials that have done an iteration; their values are the settings that not all of them have in common."""
    done = [result for result in results if result.metrics_dataframe is not None]
    configs = [flat(result.config or {}) for result in done]
    names = dict.fromkeys(name for config in configs for name in config)
    varied = [name for name in names if len({repr(config.get(name)) for config in configs}) > 1]
    return [
        Trial(
            Path(result.path).name,
            {name: config[name] for name in varied if name in config},
            _with_evaluations([read_row(row) for row in result.metrics_dataframe.to_dict("records")]),
        )
        for result, config in zip(done, configs, strict=True)
    ]


def plot_trials(trials: Sequence[Trial], metric: str, path: str | Path) -> Path:
    """Draws a metric over rollout tokens, a line a trial, and over each setting, a point a trial.

    Args:
        trials: The trials.
        metric: One of :data:`~espo_algo.tuning.metrics.NAMES`.
        path: The PNG to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    names = [*dict.fromkeys(name for trial in trials for name in trial.values)]
    columns = min(_COLUMNS, 1 + len(names))
    rows = math.ceil((1 + len(names)) / columns)
    figure = new_figure(3.5 * columns, 3.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for trial in trials:
        tokens, numbers = zip(*((record["tokens"], record[metric]) for record in trial.records), strict=True)
        panels[0].plot(tokens, numbers, marker=".", linewidth=1, label=trial.name)
    label_axes(panels[0], metric, "cumulative rollout tokens")
    for axes, name, short in zip(panels[1:], names, short_names(names), strict=False):
        drawn = [(trial.values[name], trial.last(metric)) for trial in trials if name in trial.values]
        values = [value for value, _ in drawn]
        numeric = all(isinstance(value, int | float) for value in values)
        axes.plot(values if numeric else [str(v) for v in values], [number for _, number in drawn], "o")
        if numeric and min(values) > 0 and max(values) > _WIDE * min(values):
            axes.set_xscale("log")
        label_axes(axes, f"{metric}, newest", short)
    for axes in panels[1 + len(names) :]:
        axes.axis("off")
    figure.savefig(path, dpi=120)
    return Path(path)


def _summarize(trials: Sequence[Trial], output: Path, metric: str, mode: str) -> str:
    output.mkdir(parents=True, exist_ok=True)
    table = format_trials(trials, metric, mode)
    return f"{table}\ntrials: {plot_trials(trials, metric, output / PLOT)}"


def _with_evaluations(records: list[dict[str, float]]) -> list[dict[str, float]]:
    newest: dict[str, float] = {}
    for record in records:
        newest |= {name: record[name] for name in EVALUATION if not math.isnan(record[name])}
        record |= newest
    return records
