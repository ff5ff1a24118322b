"""A training run in a folder: configuration, log, checkpoints, responses, the trained model.

- :func:`train`: trains, and goes on where it was interrupted.
- :data:`EXPORT`: the trained model's folder in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from espo_algo.atomic import whole_folder
from espo_algo.commands.checkpoints import choose_checkpoint, iteration_of, list_checkpoints, save_checkpoint
from espo_algo.commands.config_file import RunOptions
from espo_algo.commands.interruption import Interruption
from espo_algo.commands.run_log import RunLog
from espo_algo.commands.run_report import RESPONSES
from espo_algo.commands.run_settings import RunSettings
from espo_algo.config import ESPOConfig
from espo_algo.espo import ESPO
from espo_algo.evaluation.report import iteration_record
from espo_algo.evaluation.response_recorder import ResponseRecorder, forget_after
from espo_algo.export import export
from espo_algo.lock import lock

__all__ = ["EXPORT", "train"]

EXPORT = "model"


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
    forget_after(folder / RESPONSES, done)
    interruption.patient = True
    algo.traces = run.responses > 0
    with (
        ResponseRecorder(folder / RESPONSES, run.responses, algo.config, algo.mdp.task.tokenizer) as recorder,
        tqdm(total=run.iterations, initial=done, desc=folder.name, disable=not progress) as bar,
    ):
        for iteration in range(done + 1, run.iterations + 1):
            result = algo.train()
            log.append(result)
            recorder.record(iteration, algo.latest_episodes)
            now = iteration_record(result)
            bar.update()
            bar.set_postfix(accuracy=f"{now['accuracy']:.3f}", tokens=f"{now['tokens']:.0f}", beta=f"{now['beta']:.3g}")
            last = iteration == run.iterations or interruption.number is not None
            if last or iteration % run.checkpoint_every == 0:
                save_checkpoint(algo, folder, run.keep_checkpoints)
            if report is not None:
                report(result)
            if last:
                break
    interruption.patient = False
