"""A training run in a folder: configuration, log, checkpoints, responses, the trained model.

- :func:`train`: trains, and goes on where it was interrupted.
- :func:`write_report`: runs as tables, curves and pages of responses.
- :data:`RESPONSES`, :data:`TOKENIZER`, :data:`EXPORT`: names of files and folders in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from espo_algo.atomic import whole_folder, write_text
from espo_algo.commands.checkpoints import choose_checkpoint, iteration_of, list_checkpoints, save_checkpoint
from espo_algo.commands.config_file import RunOptions
from espo_algo.commands.interruption import Interruption
from espo_algo.commands.run_log import RunLog
from espo_algo.commands.run_settings import RunSettings
from espo_algo.config import ESPOConfig
from espo_algo.espo import ESPO
from espo_algo.evaluation.report import choose_responses, format_table, iteration_record, plot_curves, write_responses
from espo_algo.evaluation.response_log import to_episode, to_record
from espo_algo.export import export, save_tokenizer
from espo_algo.lock import lock
from espo_env.tasks.math_sources import read_rows
from espo_env.tokenizer import Tokenizer

__all__ = ["EXPORT", "RESPONSES", "TOKENIZER", "train", "write_report"]

RESPONSES = "responses.jsonl"
"""Some responses of the newest checkpoint's batch."""
TOKENIZER = "tokenizer"
EXPORT = "model"

_COLUMNS = ("iteration", "tokens", "accuracy", "response_length", "stop_rate", "beta", "entropy")


def train(
    config: ESPOConfig,
    run: RunOptions,
    *,
    file: Path | None = None,
    interruption: Interruption | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    skip_broken: bool = False,
    progress: bool = True,
    report: Callable[[Mapping[str, Any]], None] | None = None,
) -> Path:
    """Trains up to ``run.iterations``, or until it is interrupted.

    Args:
        config: What to train.
        run: How long, and what to keep.
        file: The configuration file that says so, which is kept in the output folder; None for one made in Python.
        interruption: The iteration in which it notes a signal is finished and saved.
        resume: Go on from the newest checkpoint in the output folder, if there is one.
        accept_changes: Go on though configuration or problems are others than the run's, or its log is incomplete.
        skip_broken: Go on from the newest checkpoint that is whole.
        progress: Show a progress bar.
        report: Takes what each iteration gave back, once it is logged and, where it is its turn, saved.

    Returns:
        The output folder.

    Raises:
        FileExistsError: If there is a run in the output folder already, and ``resume`` is False.
        BlockingIOError: If another process trains in it.
        BrokenCheckpointError: If the newest checkpoint is not what was written.
        ValueError: If a run would go on with something else than before, naming it.
    """
    folder = Path(run.output)
    log, interruption = RunLog(folder), interruption or Interruption()
    with lock(folder / "lock"):
        started = bool(log.iterations() or list_checkpoints(folder))
        if started and not resume:
            raise FileExistsError(f"expected an output folder without a run (or --resume), got one in {str(folder)!r}")
        checkpoint = choose_checkpoint(folder, skip_broken)
        mdp = config.check_task()
        settings = RunSettings(file, mdp.task.num_problems(mdp.split))
        done = 0 if checkpoint is None else iteration_of(checkpoint)
        if started and not accept_changes:
            _check_same(folder, settings, log, done)
        settings.keep(folder, done if started else None)
        save_tokenizer(config.model_name, mdp.task, folder / TOKENIZER)
        algo: ESPO = config.build_algo()
        try:
            if checkpoint is not None:
                algo.restore_from_path(str(checkpoint.resolve()))
            _iterate(algo, folder, log, run, interruption, progress, report)
            if run.export and interruption.number is None:
                with whole_folder(folder / EXPORT) as half:
                    export(algo, half)
        finally:
            algo.stop()
    return folder


def _check_same(folder: Path, settings: RunSettings, log: RunLog, done: int) -> None:
    if differences := settings.differences(folder):
        raise ValueError(
            f"expected what {str(folder)!r} was trained with so far, got {'; '.join(differences)}; --accept-changes "
            "goes on with the new values"
        )
    if missing := sorted({*range(1, done + 1)} - {*log.iterations()}):
        raise ValueError(
            f"expected iterations 1 to {done} in {log.path}, as there is a checkpoint of iteration {done}, got "
            f"{len(missing)} of them missing, the first {missing[0]}; --accept-changes goes on without them"
        )


def _iterate(
    algo: ESPO,
    folder: Path,
    log: RunLog,
    run: RunOptions,
    interruption: Interruption,
    progress: bool,
    report: Callable[[Mapping[str, Any]], None] | None,
) -> None:
    """Trains on; log, checkpoints and responses are written as it goes."""
    done = algo.training_iteration
    log.forget_after(done)
    interruption.patient = True
    with tqdm(total=run.iterations, initial=done, desc=folder.name, disable=not progress) as bar:
        for iteration in range(done + 1, run.iterations + 1):
            result = algo.train()
            log.append(result)
            now = iteration_record(result)
            bar.update()
            bar.set_postfix(accuracy=f"{now['accuracy']:.3f}", tokens=f"{now['tokens']:.0f}", beta=f"{now['beta']:.3g}")
            last = iteration == run.iterations or interruption.number is not None
            if last or iteration % run.checkpoint_every == 0:
                _save_responses(algo, folder, run.responses)
                save_checkpoint(algo, folder, run.keep_checkpoints)
            if report is not None:
                report(result)
            if last:
                break
    interruption.patient = False


def _save_responses(algo: ESPO, folder: Path, count: int) -> None:
    tokenizer = algo.mdp.task.tokenizer
    records = [to_record(e, tokenizer, columns=True) for e in choose_responses(algo.latest_episodes, count)]
    write_text(folder / RESPONSES, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def write_report(runs: Sequence[Path], output: Path, rows: int = 12) -> str:
    """Draws the runs' curves, and writes a page of each run's responses; of runs that have not ended, too.

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
    for run in runs:
        if (run / RESPONSES).is_file():
            episodes = [to_episode(row) for _, row in read_rows(run / RESPONSES)]
            page = output / (f"responses-{run.name}.html" if len(runs) > 1 else "responses.html")
            tokenizer = Tokenizer.from_pretrained(run / TOKENIZER)
            parts.append(f"responses: {write_responses(episodes, tokenizer, page, f'{run}: responses')}")
    return "\n".join(parts)
