"""The checkpoints of a run.

- :func:`list_checkpoints`: the finished ones, oldest first.
- :func:`iteration_of`: the number in its name.
- :func:`save_checkpoint`: writes one, and deletes old ones.
- :func:`choose_checkpoint`: the one that training goes on from.
- :data:`CHECKPOINTS`: their folder in a run's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from espo_algo.atomic import whole_folder
from espo_algo.espo import ESPO
from espo_algo.manifest import BrokenCheckpointError, verify_checkpoint

__all__ = ["CHECKPOINTS", "choose_checkpoint", "iteration_of", "list_checkpoints", "save_checkpoint"]

CHECKPOINTS = "checkpoints"


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted((folder / CHECKPOINTS).glob("iteration-*"))


def iteration_of(checkpoint: Path) -> int:
    """The iteration after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("iteration-"))


def save_checkpoint(algo: ESPO, folder: Path, keep: int) -> Path:
    """Writes a checkpoint, and deletes old ones.

    Args:
        algo: What to save.
        folder: The run's.
        keep: How many stay, the newest ones.
    """
    target = folder / CHECKPOINTS / f"iteration-{algo.training_iteration:06d}"
    with whole_folder(target) as half:
        algo.save_to_path(str(half.resolve()))
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def choose_checkpoint(folder: Path, skip_broken: bool) -> Path | None:
    """The newest checkpoint of a run; None where there is none.

    Args:
        folder: The run's.
        skip_broken: Take the newest whole one, and set the broken ones behind it aside (``broken-iteration-...``).

    Raises:
        BrokenCheckpointError: If the newest one is broken and is not to be skipped, or none is whole.
    """
    broken = []
    for path in reversed(list_checkpoints(folder)):
        try:
            verify_checkpoint(path)
        except BrokenCheckpointError as error:
            broken.append(error)
            if not skip_broken:
                raise BrokenCheckpointError(
                    f"{error}; --skip-broken goes on from the newest checkpoint that is whole"
                ) from None
            continue
        for newer in [other for other in list_checkpoints(folder) if other > path]:
            aside = newer.with_name(f"broken-{newer.name}")
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
            newer.rename(aside)
        return path
    if broken:
        raise BrokenCheckpointError(f"expected a whole checkpoint, got {'; '.join(map(str, broken))}")
    return None
