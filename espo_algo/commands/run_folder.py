"""A training run in a folder: log, checkpoints, responses, the trained model.

- :func:`train`: trains, and goes on where it was interrupted.
- :func:`read_log`: the iterations of a run.
- :func:`write_report`: runs as tables, curves and pages of responses.
- :data:`LOG`, :data:`RESPONSES`, :data:`CHECKPOINTS`, :data:`EXPORT`: names of the files and folders in it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from tqdm import tqdm

from espo_algo.commands.config_file import RunOptions
from espo_algo.config import ESPOConfig
from espo_algo.espo import ESPO
from espo_algo.evaluation.report import choose_responses, format_table, iteration_record, plot_curves, write_responses
from espo_algo.evaluation.response_log import to_episode, to_record
from espo_algo.export import export
from espo_env.tasks.math_sources import read_rows
from espo_env.tokenizer import Tokenizer

__all__ = ["CHECKPOINTS", "EXPORT", "LOG", "RESPONSES", "read_log", "train", "write_report"]

LOG = "results.jsonl"
"""What ``ESPO.train()`` gave back, its numbers, one iteration a line."""
RESPONSES = "responses.jsonl"
"""Some responses of the newest checkpoint's batch."""
CHECKPOINTS = "checkpoints"
EXPORT = "model"

_COLUMNS = ("iteration", "tokens", "accuracy", "response_length", "stop_rate", "beta", "entropy")


def train(config: ESPOConfig, run: RunOptions, resume: bool = False, progress: bool = True) -> Path:
    """Trains up to ``run.iterations``.

    Args:
        config: What to train.
        run: How long, and what to keep.
        resume: Go on from the newest checkpoint in the output folder, if there is one.
        progress: Show a progress bar.

    Returns:
        The output folder.

    Raises:
        FileExistsError: If there is a run in the output folder already, and ``resume`` is False.
    """
    folder = Path(run.output)
    log = folder / LOG
    if log.exists() and not resume:
        raise FileExistsError(f"expected an output folder without a run (or --resume), got {str(folder)!r} with {LOG}")
    folder.mkdir(parents=True, exist_ok=True)
    algo: ESPO = config.build_algo()
    try:
        if checkpoints := _checkpoints(folder):
            algo.restore_from_path(str(checkpoints[-1].resolve()))
        done = algo.training_iteration
        _forget_after(log, done)
        with (
            log.open("a", encoding="utf-8") as lines,
            tqdm(total=run.iterations, initial=done, desc=folder.name, disable=not progress) as bar,
        ):
            for iteration in range(done + 1, run.iterations + 1):
                result = algo.train()
                lines.write(json.dumps(_numbers(result), allow_nan=False) + "\n")
                lines.flush()
                now = iteration_record(result)
                bar.update()
                bar.set_postfix(
                    accuracy=f"{now['accuracy']:.3f}", tokens=f"{now['tokens']:.0f}", beta=f"{now['beta']:.3g}"
                )
                if iteration % run.checkpoint_every == 0 or iteration == run.iterations:
                    _checkpoint(algo, folder, iteration, run)
        if run.export:
            export(algo, folder / EXPORT)
    finally:
        algo.stop()
    return folder


def read_log(folder: str | Path) -> list[dict[str, float]]:
    """The record (:func:`~espo_algo.evaluation.report.iteration_record`) of each iteration.

    Raises:
        FileNotFoundError: If the folder has no run.
    """
    path = Path(folder) / LOG
    if not path.is_file():
        raise FileNotFoundError(f"expected the folder of a run, with {LOG} in it, got {str(folder)!r}")
    return [iteration_record(_with_nan(row)) for _, row in read_rows(path)]


def write_report(runs: Sequence[Path], output: Path, rows: int = 12) -> str:
    """Draws the runs' curves, and writes a page of responses for each run that has exported its tokenizer.

    Args:
        runs: Output folders of :func:`train`.
        output: Folder of the files.
        rows: Rows of each run's table, at most.

    Returns:
        A table for each run, and the files.

    Raises:
        FileNotFoundError: If a folder has no run.
        ValueError: If a run has no iteration yet.
    """
    histories = {str(run): read_log(run) for run in runs}
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
    for run in runs:
        if (run / RESPONSES).is_file() and (run / EXPORT).is_dir():
            episodes = [to_episode(row) for _, row in read_rows(run / RESPONSES)]
            page = output / (f"responses-{run.name}.html" if len(runs) > 1 else "responses.html")
            tokenizer = Tokenizer.from_pretrained(run / EXPORT)
            parts.append(f"responses: {write_responses(episodes, tokenizer, page, f'{run}: responses')}")
    return "\n".join(parts)


def _checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted((folder / CHECKPOINTS).glob("iteration-*"))


def _checkpoint(algo: ESPO, folder: Path, iteration: int, run: RunOptions) -> None:
    tokenizer = algo.mdp.task.tokenizer
    chosen = choose_responses(algo.latest_episodes, run.responses)
    text = "".join(json.dumps(to_record(e, tokenizer, columns=True), ensure_ascii=False) + "\n" for e in chosen)
    (folder / RESPONSES).write_text(text, "utf-8")
    target = folder / CHECKPOINTS / f"iteration-{iteration:06d}"
    half = target.with_name(f"half-{target.name}")  # so that what has its name is whole
    shutil.rmtree(half, ignore_errors=True)
    algo.save_to_path(str(half.resolve()))
    half.rename(target)
    for old in _checkpoints(folder)[: -run.keep_checkpoints]:
        shutil.rmtree(old)


def _forget_after(log: Path, iteration: int) -> None:
    """Drops the lines behind the iteration that training resumes from, one that was cut off in writing included."""
    if log.exists():
        lines = log.read_text("utf-8").splitlines()[:iteration]
        log.write_text("".join(line + "\n" for line in lines), "utf-8")


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a result, nested as they are; None for those that were not measured."""
    numbers: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            if name != "config" and (inner := _numbers(value)):
                numbers[str(name)] = inner
        elif isinstance(value, Real):
            numbers[str(name)] = float(value) if math.isfinite(value) else None
    return numbers


def _with_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _with_nan(value) if isinstance(value, Mapping) else math.nan if value is None else value
        for name, value in numbers.items()
    }
