"""Reports of runs: a record for each iteration, a table, curves.

- :func:`iteration_record`: the numbers of one iteration that curves are drawn from.
- :func:`format_table`: an aligned text table.
- :func:`plot_curves`: curves of several runs as a PNG (needs matplotlib: extra ``plots``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)

from espo_algo.batches import BATCH_AHEAD_TIMER
from espo_env.escapes import visible

__all__ = ["format_table", "iteration_record", "plot_curves"]

_PANELS = (
    ("tokens", "accuracy", "accuracy in training (sampled)", "cumulative rollout tokens"),
    ("iteration", "tokens", "cumulative rollout tokens", "iteration"),
    ("iteration", "stop_rate", "share of responses stopped or marked", "iteration"),
    ("iteration", "response_length", "mean response length, tokens", "iteration"),
)
_SMOOTHING = 0.8


def iteration_record(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of one iteration, as plain floats.

    Args:
        result: What ``ESPO.train()`` gave back.

    Returns:
        ``iteration``, ``tokens`` (rollout tokens so far), ``accuracy``, ``response_length``, ``stop_rate``,
        ``false_positive_rate``, ``beta``, ``warmup_done``, ``entropy``, ``vf_explained_var``, ``sampling_s``,
        ``update_s``; ``sampling_s`` is what the iteration waited for responses.
    """
    rollouts, learner = result[ENV_RUNNER_RESULTS], result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
    numbers = {
        "iteration": result["training_iteration"],
        "tokens": rollouts[NUM_ENV_STEPS_SAMPLED_LIFETIME],
        "accuracy": rollouts["accuracy"],
        "response_length": rollouts["response_length"]["mean"],
        "stop_rate": rollouts["early_stopping"]["stop_rate"],
        "false_positive_rate": rollouts["early_stopping"]["false_positive_rate"],
        "beta": result["beta"],
        "warmup_done": result["warmup_done"],
        "entropy": learner["entropy"],
        "vf_explained_var": learner["vf_explained_var"],
        "sampling_s": result[TIMERS][ENV_RUNNER_SAMPLING_TIMER] + result[TIMERS].get(BATCH_AHEAD_TIMER, 0.0),
        "update_s": result[TIMERS][LEARNER_UPDATE_TIMER],
    }
    return {name: float(number) for name, number in numbers.items()}


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An aligned text table: the first column to the left, the others to the right.

    Escape sequences in a cell (levels of a data set, names of files) are written out.

    Raises:
        ValueError: If a row has not as many cells as the header.

    Example:
        >>> print(format_table(["method", "tokens"], [["PPO", "72.6k"], ["early-stopping PPO", "55.2k"]]))
        method              tokens
        ------------------  ------
        PPO                  72.6k
        early-stopping PPO   55.2k
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"expected rows of {len(header)} cells, got {row}")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib's, in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("expected matplotlib to be installed: pip install 'espo[plots]'") from error

    # Not pyplot: nothing is shown, and the caller's backend is left alone.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label_axes(axes: Any, title: str, xlabel: str) -> None:
    """Title, name of the x axis and a grid, as all plots have them."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.grid(alpha=0.3)


def plot_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path) -> Path:
    """Draws accuracy against tokens, and tokens, stop rate and response length against iterations.

    Args:
        histories: Name of a run -> its records (:func:`iteration_record`).
        path: The PNG to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(11, 7)
    for axes, (x, y, title, xlabel) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for number, (name, records) in enumerate(histories.items()):
            steps, values = [r[x] for r in records], [r[y] for r in records]
            smooth = y != "tokens"  # a batch is small, so its numbers jump
            if smooth:
                axes.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=1)
            axes.plot(steps, _smoothed(values) if smooth else values, color=f"C{number}", label=name)
        label_axes(axes, title, xlabel)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return Path(path)


def _smoothed(values: Sequence[float]) -> list[float]:
    return list(itertools.accumulate(values, lambda old, new: _SMOOTHING * old + (1 - _SMOOTHING) * new))
