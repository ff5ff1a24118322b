"""What the commands share.

- :func:`messages`: errors as messages, not as tracebacks.
- :func:`ray_started`: Ray for a command's time.
- :func:`check_output`: that a folder can be written, before work begins.
- :func:`on_device`, :func:`print_table`.
- :data:`ConfigFile`, :data:`Seed`, :data:`Checkpoint`: arguments that several commands take.
"""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Checkpoint", "ConfigFile", "Seed", "check_output", "messages", "on_device", "print_table", "ray_started"]

ConfigFile = Annotated[Path, typer.Argument(help="YAML or JSON file; its sections are ESPOConfig's methods.")]
Seed = Annotated[int, typer.Option(min=0)]
Checkpoint = Annotated[
    bool, typer.Option("--checkpoint", help="The model is a checkpoint or a run's folder. Code in a checkpoint is run.")
]


@contextmanager
def messages() -> Iterator[None]:
    """A wrong file or value, or training that cannot go on, ends with a message, not with a traceback."""
    from espo_algo.errors import TrainingError
    from espo_env.escapes import visible

    try:
        yield
    except (ValueError, OSError, ImportError, TrainingError) as error:
        typer.echo(f"error: {visible(str(error))}", err=True)
        raise typer.Exit(1) from error


@contextmanager
def ray_started(needed: bool = True, **options: Any) -> Iterator[None]:
    """Ray without its chatter; one that runs already is left alone.

    Args:
        needed: False does nothing.
        options: Those of ``ray.init``.

    Raises:
        ConnectionError: If it does not start.
    """
    import ray

    from espo_algo.local_ray import start_ray

    started = needed and not ray.is_initialized()
    if started:
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            start_ray(logging_level=logging.ERROR, log_to_driver=False, **options)
        except SystemExit as error:  # Ray's own handler, while it starts
            raise SystemExit(128 + signal.SIGTERM if error.code == signal.SIGTERM else error.code) from error
        except Exception as error:  # Ray has no narrower one for a node that takes too long
            raise ConnectionError(f"expected Ray to start, or to be where RAY_ADDRESS says, got: {error}") from error
        signal.signal(signal.SIGTERM, on_term)  # Ray's exits with 15, or aborts
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def check_output(folder: Path) -> None:
    """Checks that a folder can be made and written.

    Raises:
        ValueError: If it cannot.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        # Permission bits say nothing of a read-only or full disk, nor of what root may not do either.
        tempfile.TemporaryDirectory(dir=place).cleanup()
    except OSError as error:
        raise ValueError(
            f"expected an output folder that can be written, got {str(folder)!r}: in {str(place)!r} nothing can be "
            f"made ({error.strerror})"
        ) from error


def on_device(model: Any, engine: str) -> Any:
    """On the GPU, where there is one, unless the engine has it to itself and copies the weights from the CPU."""
    import torch

    from espo_algo.rollout.engines import get_engine

    return model.to("cuda" if torch.cuda.is_available() and not get_engine(engine).owns_gpus else "cpu")


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Prints a text table."""
    from espo_algo.evaluation.report import format_table

    typer.echo(format_table(header, rows))
