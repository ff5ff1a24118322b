"""Experiments of Ray Tune that go on after their driver was killed.

- :func:`restore`: ``Tuner.restore`` after :func:`mend`.
- :func:`mend`: puts the newest whole checkpoint where Tune's record of the experiment looks for one.

With ``CheckpointConfig(num_to_keep=n)`` Ray 2.60 deletes a trial's oldest checkpoint as soon as a new one is there, and
only then, every ``n`` checkpoints, writes down which ones there are (``TuneController._process_trial_save``). A driver
that is killed in between leaves a record that names a deleted checkpoint, and ``Tuner.restore`` fails the trial,
although newer ones are whole. A larger ``n`` makes that rarer, and no more.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ray import tune

from espo_algo.manifest import BrokenCheckpointError, verify_checkpoint

__all__ = ["mend", "restore"]


def restore(folder: str | Path, trainable: Any = "ESPO", **options: Any) -> tune.Tuner:
    """A tuner that goes on with an experiment, whenever its driver was killed.

    Args:
        folder: The experiment's, on a local disk: ``storage_path`` / ``name``.
        trainable: As it was.
        options: Those of ``Tuner.restore``.
    """
    mend(folder)
    return tune.Tuner.restore(str(Path(folder).resolve()), trainable, **options)


def mend(folder: str | Path) -> list[str]:
    """Looks at the checkpoint from which each unfinished trial is to go on.

    Where it is gone or broken, a copy of the trial's newest whole one takes its place.

    Args:
        folder: The experiment's, on a local disk; it may have been moved there.

    Returns:
        A line for each trial that was mended.

    Raises:
        BrokenCheckpointError: If a trial has no whole checkpoint left.
    """
    folder, mended = Path(folder).resolve(), []
    for trial in tune.ExperimentAnalysis(str(folder)).trials:
        if trial.status == "TERMINATED" or trial.checkpoint is None:
            continue
        named = _within(folder, trial.checkpoint.path)
        if _is_whole(named):
            continue
        newest = next(filter(_is_whole, sorted(named.parent.glob("checkpoint_*"), reverse=True)), None)
        if newest is None:
            raise BrokenCheckpointError(f"{named.parent}: expected a whole checkpoint for trial {trial}, got none")
        shutil.rmtree(named, ignore_errors=True)
        shutil.copytree(newest, named)
        for kept in trial.run_metadata.checkpoint_manager.best_checkpoint_results:
            # Tune is about to delete them, and fails where they are gone.
            Path(kept.checkpoint.path).mkdir(exist_ok=True)
        mended.append(f"{trial}: {newest.name} in the place of {named.name}")
    return mended


def _within(folder: Path, checkpoint: str) -> Path:
    """Where a checkpoint is, or should be: experiment / trial / checkpoint."""
    *_, trial, name = Path(checkpoint).parts
    return folder / trial / name


def _is_whole(checkpoint: Path) -> bool:
    try:
        verify_checkpoint(checkpoint)
    except BrokenCheckpointError:
        return False
    return True
