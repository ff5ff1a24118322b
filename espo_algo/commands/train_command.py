"""``espo train``: trains from a configuration file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from espo_algo.commands.terminal import ConfigFile, messages, ray_started

__all__ = ["train"]


def train(
    config: ConfigFile,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint in the output folder.")] = False,
    output: Annotated[Path | None, typer.Option(help="Output folder, instead of run.output.")] = None,
) -> None:
    """Trains; writes a log, checkpoints, responses and the trained model."""
    from espo_algo.commands.config_file import load_config
    from espo_algo.commands.run_folder import train as train_in_folder

    with messages(), ray_started():
        settings, run = load_config(config)
        run = run if output is None else replace(run, output=str(output))
        folder = train_in_folder(settings, run, resume)
        shutil.copy(config, folder / f"config{config.suffix}")
    typer.echo(f"done: {folder} (espo report {folder})")
