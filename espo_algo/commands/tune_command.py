"""``espo tune``: searches for settings, from a configuration file with ranges in the place of values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from espo_algo.commands.interruption import Interruption
from espo_algo.commands.terminal import ConfigFile, check_output, messages, ray_started

__all__ = ["tune"]


def tune(
    config: ConfigFile,
    samples: Annotated[int | None, typer.Option(min=1, help="Trials, instead of tune.samples.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once (default: as many as fit).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in the output folder.")] = False,
    output: Annotated[Path | None, typer.Option(help="Output folder, instead of run.output.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and print what would run: ranges, trials, actors.")
    ] = False,
) -> None:
    """Searches for settings with Ray Tune; every trial leaves a folder as espo train does."""
    from espo_algo.tuning.search_file import load_search

    with Interruption("ends now; trials go on from their newest checkpoints") as interruption, messages():
        what = load_search(config, samples, output)
        folder = Path(what.run().output)
        check_output(folder)
        first = what.check()
        if dry_run:
            from espo_algo.commands.dry_run import describe
            from espo_algo.tuning.placement import describe_resources

            typer.echo(f"{what}\na trial reserves: {describe_resources(first)}")
            typer.echo(f"\nwith the first values of the ranges:\n{describe(first, what.run())}")
            raise typer.Exit
        from espo_algo.tuning.search import search
        from espo_algo.tuning.trials import format_trials, read_trials

        first.check_task()
        with ray_started():
            failed = search(what, interruption=interruption, resume=resume, workers=workers, say=typer.echo)
    typer.echo(format_trials(read_trials(folder), what.options.metric, what.options.mode))
    if interruption.number is not None:
        elsewhere = "" if output is None else f" --output {output}"
        typer.echo(f"interrupted; to go on: espo tune {config} --resume{elsewhere}", err=True)
        raise typer.Exit(interruption.exit_code)
    typer.echo(f"curves of all trials: espo report {folder}")
    for line in failed:
        typer.echo(f"error: failed: {line}", err=True)
    if failed:
        raise typer.Exit(1)
