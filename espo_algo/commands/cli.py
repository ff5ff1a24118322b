"""The command line ``espo``.

- ``espo train``: trains from a configuration file.
- ``espo tune``: searches for settings.
- ``espo evaluate``: scores of a model or checkpoint on data sets.
- ``espo sft``: supervised fine-tuning on a task's solutions.
- ``espo grade``: grades a file of responses.
- ``espo play``: a person plays the token environment.
- ``espo report``: table, curves and a page of responses of runs.
- ``espo reproduce``: methods x task families x seeds.

Each is a function in ``..._command.py``, which imports what it needs when it is called: ``espo --help`` does not wait
for torch.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from espo_algo.commands.evaluate_command import evaluate
from espo_algo.commands.grade_command import grade
from espo_algo.commands.play_command import play
from espo_algo.commands.report_command import report
from espo_algo.commands.reproduce_command import reproduce
from espo_algo.commands.sft_command import sft
from espo_algo.commands.train_command import train
from espo_algo.commands.tune_command import tune

app = typer.Typer(
    help="Early-stopping PPO for reasoning language models.", no_args_is_help=True, pretty_exceptions_enable=False
)
for command in (train, tune, evaluate, sft, grade, play, report, reproduce):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"espo {version('espo')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Early-stopping PPO for reasoning language models."""


if __name__ == "__main__":
    app()
