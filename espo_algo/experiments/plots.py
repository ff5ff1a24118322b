"""Plots of a comparison (needs matplotlib: extra ``plots``).

- :func:`plot_family`: the course of all methods on one family, as PNG and SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espo_algo.evaluation.report import label_axes, new_figure
from espo_algo.experiments.arms import ARMS

__all__ = ["plot_family"]

# x, y, title; the first five are measured in the course of training, on evaluation problems.
_PANELS = (
    ("tokens", "sampled", "sampled accuracy"),
    ("tokens", "greedy", "greedy accuracy"),
    ("iteration", "saved", "share of tokens saved"),
    ("iteration", "stop_rate", "share of responses stopped"),
    ("iteration", "wrong_stops", "share of marked responses that were right"),
    ("iteration", "entropy", "entropy, nats a token (without stops)"),
    ("iteration", "response_length", "length of a training response, tokens"),
)
_AXES = {"tokens": "cumulative rollout tokens", "iteration": "iteration"}


def plot_family(family: str, runs: Sequence[Mapping[str, Any]], output: Path) -> list[Path]:
    """Draws accuracy against tokens, and saving, stop rate, wrong stops, entropy and length against iterations.

    Thick lines are means over seeds, thin ones the seeds.

    Args:
        family: Its name.
        runs: Its runs' files.
        output: Folder of the two files.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(16, 8)
    figure.suptitle(family)
    *panels, legend = figure.subplots(2, 4).flat
    for axes, (x, y, title) in zip(panels, _PANELS, strict=True):
        for number, (_, lines) in enumerate(_methods(runs, x, y)):
            for steps, values in lines:
                axes.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=0.8)
            axes.plot(*_mean(lines), color=f"C{number}", linewidth=2)
        label_axes(axes, title, _AXES[x])
    for number, (name, _) in enumerate(_methods(runs, "tokens", "sampled")):
        legend.plot([], [], color=f"C{number}", linewidth=2, label=name)
    legend.legend(loc="center", fontsize=9)
    legend.axis("off")
    files = [output / f"{family}.png", output / f"{family}.svg"]
    for file in files:
        figure.savefig(file, dpi=120)
    return files


Line = tuple[np.ndarray, np.ndarray]


def _methods(runs: Sequence[Mapping[str, Any]], x: str, y: str) -> Iterator[tuple[str, list[Line]]]:
    """Name and one line a seed, of each method."""
    trained = [run for run in runs if run["plan"]["arm"] in ARMS]
    for arm, label in dict.fromkeys((run["plan"]["arm"], run["plan"]["label"]) for run in trained):
        own = [run for run in trained if (run["plan"]["arm"], run["plan"]["label"]) == (arm, label)]
        name = ARMS[arm].label.strip()
        yield f"{name} ({label})" if label else name, [_line(run, runs, x, y) for run in own]


def _line(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], x: str, y: str) -> Line:
    if y in ("stop_rate", "response_length"):
        records = run["history"]
    elif y == "saved":
        return _saved(run, runs)
    else:
        start = _start(run, runs) if y in ("sampled", "greedy", "entropy") else []
        records = [*start, *run["course"]]
    numbers = [(record[x], record[y]) for record in records if record[y] is not None]
    steps, values = np.array(numbers, float).reshape(-1, 2).T
    return steps, values


def _start(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The measurement of the start that a run had; none where it was not measured."""
    seed = run["plan"].get("start_seed")
    starts = [other for other in runs if other["plan"]["arm"] == "start"]
    return [other["at_updates"] for other in starts if other["plan"].get("start_seed") == seed][:1]


def _saved(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Line:
    """Against the baseline of the same seed, while both go on."""
    plan = run["plan"]
    wanted = {**plan, "arm": ARMS[plan["arm"]].baseline}
    keys = ("family", "arm", "label", "seed")
    for other in runs:
        if all(other["plan"][key] == wanted[key] for key in keys):
            tokens, against = (np.array([r["tokens"] for r in r["history"]]) for r in (run, other))
            length = min(len(tokens), len(against))
            return np.arange(1, length + 1), 1 - tokens[:length] / against[:length]
    return np.zeros(0), np.zeros(0)


def _mean(lines: Sequence[Line]) -> Line:
    """Mean over seeds, measurement by measurement, as far as all of them go."""
    length = min(len(steps) for steps, _ in lines)
    steps, values = (np.mean([line[i][:length] for line in lines], axis=0) for i in (0, 1))
    return steps, values
