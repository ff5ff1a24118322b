"""``espo report``: table, curves and a page of responses of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from espo_algo.commands.terminal import messages

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Output folders of espo train or tune; several are drawn together.")
    ],
    output: Annotated[Path | None, typer.Option(help="Folder of the files; default: the first run's.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each run's table.")] = 12,
) -> None:
    """Prints a table; writes curves and a page of responses."""
    from espo_algo.commands.run_folder import write_report
    from espo_algo.tuning.summary import summarize_folder
    from espo_algo.tuning.trials import trial_folders

    with messages():
        target = runs[0] if output is None else output
        trials = {folder: trial_folders(folder) for folder in runs}
        for folder in runs:
            if trials[folder]:
                typer.echo(f"{folder}\n{summarize_folder(folder, target)}\n")
        every = [run for folder in runs for run in trials[folder] or [folder]]
        typer.echo(write_report(every, target, rows))
