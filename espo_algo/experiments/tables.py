"""Results of a comparison as files: numbers (JSON), tables (Markdown), plots (PNG and SVG).

- :func:`write_results`: all of them, from the runs' files.
- :func:`markdown`: the tables.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from espo_algo.atomic import write_text
from espo_algo.experiments.arms import ARMS, FAMILIES
from espo_algo.experiments.plan import read_run
from espo_algo.experiments.plots import plot_family
from espo_algo.experiments.statistics import Interval
from espo_algo.experiments.summary import KINDS, Summary, summarise

__all__ = ["markdown", "write_results"]

_KIND_NAMES = {"sampled": "sampled", "cool": "T = 0.6", "greedy": "greedy"}
_ALLOWED_LOSS, _ALLOWED_WRONG_STOPS, _LEAST_TIME_RATIO = -0.005, 0.03, 0.8


def write_results(runs_folder: Path, output: Path) -> list[Path]:
    """Writes ``results.json``, ``results.md`` and a plot for each family, from all runs in the folder.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is not installed; the other files are written then.
    """
    runs = [read_run(path) for path in sorted(runs_folder.glob("*.json"))]
    summaries = summarise(runs)
    numbers, tables = output / "results.json", output / "results.md"
    content = {"machine": _machine(), "summary": [_plain(asdict(s)) for s in summaries], "runs": runs}
    write_text(numbers, json.dumps(content, indent=1) + "\n")
    write_text(tables, markdown(summaries, runs))
    files = [numbers, tables]
    for family in dict.fromkeys(summary.family for summary in summaries if summary.arm != "start"):
        files += plot_family(family, [run for run in runs if run["plan"]["family"] == family], output)
    return files


def markdown(summaries: Sequence[Summary], runs: Sequence[dict[str, Any]]) -> str:
    """The tables: methods by family as in the paper, paired differences, stops and time, targets."""
    parts = ["# Results", "", *_about(runs), ""]
    for family in dict.fromkeys(summary.family for summary in summaries):
        own = [summary for summary in summaries if summary.family == family]
        trained = [summary for summary in own if summary.arm != "start"]
        stopping = [summary for summary in own if summary.stops]
        note = FAMILIES[family].note
        parts += [f"## {family}", "", *([f"({note})", ""] if note else []), *_methods(own), ""]
        if any(summary.at_updates for summary in trained):
            parts += ["Accuracy less the baseline's of the same seed, in points:", "", *_differences(trained), ""]
        if stopping:
            parts += ["Stops, and what they save:", "", *_stops(stopping), ""]
        if targets := [line for summary in stopping if summary.arm == "espo" for line in _targets(summary)]:
            parts += ["Targets:", "", *_table(["", "target", "reached", ""], targets), ""]
    return "\n".join(parts).rstrip() + "\n"


def _about(runs: Sequence[dict[str, Any]]) -> list[str]:
    schedules = [run["plan"]["schedule"] for run in runs]

    def several(name: str) -> str:
        return ", ".join(str(number) for number in sorted({s[name] for s in schedules if s["iterations"]}))

    machine = _machine()
    samples = several("samples")
    own = ", each with a start of its own," if any(run["plan"].get("start_seed") is not None for run in runs) else ""
    return [
        f"{several('problems')} evaluation problems, {samples} response(s) to each at T = 1 and T = 0.6; means over "
        f"seeds{own} with Student's 95 % intervals; {several('iterations')} iterations. {machine['cpus']} cores, "
        + ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        + ".",
        "",
        "Tokens are all rollout tokens until the last planned update, in thousands; length is that of training "
        "responses. Equal tokens: the last iteration within the tokens that the baseline of the same seed had used at "
        "its end.",
    ]


def _methods(summaries: Sequence[Summary]) -> list[str]:
    header = ["method", "seeds", *(_KIND_NAMES[kind] for kind in KINDS), "tokens (k)", "length"]
    return _table(
        header,
        [
            [
                s.method,
                str(len(s.seeds)),
                *(_mean(s.measured[kind], 100) for kind in KINDS),
                *(_mean(s.measured[name], scale) if name in s.measured else "-" for name, scale in _SIZES),
            ]
            for s in summaries
        ],
    )


_SIZES = (("tokens", 1e-3), ("length", 1.0))


def _differences(summaries: Sequence[Summary]) -> list[str]:
    header = ["method", "baseline", "tokens saved, %"]
    header += [f"{_KIND_NAMES[kind]}, equal {what}" for what in ("updates", "tokens") for kind in KINDS]
    header += [f"tokens to baseline's {kind} accuracy, %" for kind in ("sampled", "greedy")]
    return _table(
        header,
        [
            [
                s.method,
                ARMS[ARMS[s.arm].baseline].label,
                _range(s.stops.get("saved"), 100),
                *(_range(found[kind], 100) for found in (s.at_updates, s.at_tokens) for kind in KINDS),
                *(_range(s.tokens_needed.get(kind), 100, sign="") for kind in ("sampled", "greedy")),
            ]
            for s in summaries
            if s.at_updates
        ],
    )


def _stops(summaries: Sequence[Summary]) -> list[str]:
    columns = {
        "stop_rate": "stop rate, %",
        "wrong_stops_course": "wrong stops in training, %",
        "wrong_stops": "wrong stops at the end, %",
        "saved": "tokens saved, %",
        "sampling_saved": "sampling seconds saved, %",
        "update_saved": "update seconds saved, %",
    }
    return _table(
        ["method", *columns.values(), "time saved / tokens saved"],
        [
            [
                s.method,
                *(_mean(s.stops[c], 100) if c in s.stops else "-" for c in columns),
                _mean(s.stops["time_ratio"]),
            ]
            for s in summaries
        ],
    )


def _targets(summary: Summary) -> list[list[str]]:
    stops, least = summary.stops, FAMILIES[summary.family].target_saving
    wrong = stops.get("wrong_stops_course", Interval(0.0, math.nan, math.nan))
    lines = [
        ("tokens saved, %", f"at least {100 * least:.0f}", _range(stops["saved"], 100), stops["saved"].mean >= least)
    ]
    for kind in ("sampled", "greedy"):
        got = summary.at_updates[kind]
        wanted = f"interval above {100 * _ALLOWED_LOSS:+.1f}"
        lines.append((f"{kind}, equal updates", wanted, _range(got, 100), got.low >= _ALLOWED_LOSS))
    for kind in ("sampled", "greedy"):
        got = summary.at_tokens[kind]
        lines.append((f"{kind}, equal tokens", "interval above 0", _range(got, 100), got.low > 0))
    ratio = stops["time_ratio"]
    lines += [
        ("wrong stops in training, %", "at most 3", _mean(wrong, 100), wrong.mean <= _ALLOWED_WRONG_STOPS),
        ("time saved / tokens saved", "at least 0.8", _mean(ratio), ratio.mean >= _LEAST_TIME_RATIO),
    ]
    return [[what, target, got, "reached" if met else "missed"] for what, target, got, met in lines]


def _mean(got: Interval, scale: float = 1.0) -> str:
    """Mean ± half of the interval."""
    digits = 1 if scale != 1 else 2
    half = (got.high - got.low) / 2 * scale
    return f"{got.mean * scale:z.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def _range(got: Interval | None, scale: float, sign: str = "+") -> str:
    """Mean and interval."""
    if got is None:
        return "-"
    mean, low, high = (f"{number * scale:{sign}z.1f}" for number in got)
    return mean if math.isnan(got.low) else f"{mean} [{low}, {high}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def _machine() -> dict[str, Any]:
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "ray", "transformers")},
    }


def _plain(value: Any) -> Any:
    """None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
