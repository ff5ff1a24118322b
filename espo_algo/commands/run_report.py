"""Reports of runs' folders: tables, curves, the page of responses; of runs that have not ended, too.

- :func:`write_report`: all of them.
- :func:`report_data`, :func:`report_sources`: what the page shows, and the files that this comes from.
- :data:`RESPONSES`: the folder of a run's responses, as training keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espo_algo.commands.run_log import LOG, RunLog
from espo_algo.evaluation.report import format_table, plot_curves
from espo_algo.evaluation.response_recorder import read_snapshots
from espo_algo.evaluation.responses_page import PageRun, page_data, write_page

__all__ = ["RESPONSES", "report_data", "report_sources", "write_report"]

RESPONSES = "responses"

_COLUMNS = ("iteration", "tokens", "accuracy", "response_length", "stop_rate", "beta", "entropy")


def write_report(runs: Sequence[Path], output: Path, rows: int = 12) -> str:
    """Draws the runs' curves, and writes a page of their responses.

    Args:
        runs: Output folders of :func:`~espo_algo.commands.run_folder.train`.
        output: Folder of the files.
        rows: Rows of each run's table, at most.

    Returns:
        A table for each run, and the files.

    Raises:
        FileNotFoundError: If a folder has no run.
        ValueError: If a run has no iteration yet.
    """
    histories = {str(run): RunLog(run).records() for run in runs}
    output.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, records in histories.items():
        if not records:
            raise ValueError(f"{name}: expected an iteration in the log, got none")
        stride = -(-len(records) // rows)
        shown = records[::-1][::stride][::-1]  # the last one in any case
        cells = [[f"{r[c]:.0f}" if c in _COLUMNS[:2] else f"{r[c]:.3g}" for c in _COLUMNS] for r in shown]
        parts.append(f"{name}\n{format_table(_COLUMNS, cells)}\n")
    parts.append(f"curves: {plot_curves(histories, output / 'curves.png')}")
    parts.append(f"responses: {write_page(_page_runs(runs), output / 'responses.html', _title(runs))}")
    return "\n".join(parts)


def report_data(runs: Sequence[Path]) -> dict[str, Any]:
    """What the page shows of runs, which may have only just begun.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a file in it is none of a run's.
    """
    for run in runs:
        if not run.is_dir():
            raise FileNotFoundError(f"expected the folder of a run, got {str(run)!r}")
    return page_data(_page_runs(runs), _title(runs))


def report_sources(runs: Sequence[Path]) -> list[Path]:
    """The files that :func:`report_data` reads."""
    return [path for run in runs for path in (run / LOG, *sorted((run / RESPONSES).glob("*.json")))]


def _page_runs(runs: Sequence[Path]) -> list[PageRun]:
    logs = {run: RunLog(run) for run in runs}
    return [
        PageRun(str(run), log.records() if log.path.is_file() else (), read_snapshots(run / RESPONSES))
        for run, log in logs.items()
    ]


def _title(runs: Sequence[Path]) -> str:
    return f"Responses of {', '.join(run.name for run in runs[:3])}{', …' if len(runs) > 3 else ''}"
