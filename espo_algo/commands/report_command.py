"""``espo report``: table, curves and a page of responses of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from espo_algo.commands.terminal import messages

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Output folders of espo train or tune; several are shown together.")
    ],
    output: Annotated[Path | None, typer.Option(help="Folder of the files; default: the first run's.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each run's table.")] = 12,
    serve: Annotated[
        bool, typer.Option("--serve", help="Write nothing; serve the page on this machine, following runs that go on.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0: any free one.")] = 8000,
) -> None:
    """Prints a table; writes curves and a page of responses."""
    from espo_algo.commands.run_report import report_data, report_sources, write_report
    from espo_algo.tuning.summary import summarize_folder
    from espo_algo.tuning.trials import trial_folders

    def every() -> list[Path]:
        return [run for folder in runs for run in trial_folders(folder) or [folder]]

    with messages():
        if serve:
            from espo_algo.commands.report_server import ReportServer

            report_data(every())  # a wrong folder is told here, not in the browser
            with ReportServer(lambda: report_data(every()), lambda: report_sources(every()), port) as server:
                typer.echo(f"{server.url} (Ctrl-C ends it)")
                try:
                    server.serve_forever()
                except KeyboardInterrupt:
                    return
        target = runs[0] if output is None else output
        for folder in runs:
            if trial_folders(folder):
                typer.echo(f"{folder}\n{summarize_folder(folder, target)}\n")
        typer.echo(write_report(every(), target, rows))
