"""``espo train``: trains from a configuration file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from espo_algo.commands.interruption import Interruption
from espo_algo.commands.terminal import ConfigFile, check_output, messages, ray_started

__all__ = ["train"]


def train(
    config: ConfigFile,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output folder.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Output folder, instead of run.output.")] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume with another configuration, or an incomplete log.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Resume from the newest checkpoint that is whole.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and print what would run: batch, memory, actors.")
    ] = False,
) -> None:
    """Trains; writes a log, checkpoints, responses and the trained model."""
    from espo_algo.commands.config_file import RunOptions, load_config, read_file

    with Interruption() as interruption, messages():
        run = RunOptions(**read_file(config).get("run", {}))
        run = run if output is None else replace(run, output=str(output))
        check_output(Path(run.output))  # before anything that takes seconds
        settings, _ = load_config(config)
        settings.validate()
        if dry_run:
            from espo_algo.commands.dry_run import describe

            typer.echo(describe(settings, run))
            raise typer.Exit
        from espo_algo.commands.run_folder import train as train_in_folder

        with ray_started():
            folder = train_in_folder(
                settings,
                run,
                file=config,
                interruption=interruption,
                resume=resume,
                accept_changes=accept_changes,
                skip_broken=skip_broken,
            )
    if interruption.number is not None:
        elsewhere = "" if output is None else f" --output {output}"
        typer.echo(f"interrupted; to go on: espo train {config} --resume{elsewhere}", err=True)
        typer.echo(f"what there is so far: espo report {folder}", err=True)
        raise typer.Exit(interruption.exit_code)
    typer.echo(f"done: {folder} (espo report {folder})")
