"""What is kept of a run while it trains, so that it goes on where it was cut short.

- :class:`RunCheckpoint`: writes it, and reads it.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espo_algo.atomic import whole_folder
from espo_algo.espo import ESPO
from espo_algo.manifest import BrokenCheckpointError, verify_checkpoint, write_manifest

__all__ = ["RunCheckpoint"]

logger = logging.getLogger(__name__)

_NEWEST, _ALGORITHM, _STATE = "newest", "algorithm", "state.pkl"


class RunCheckpoint:
    """The checkpoint of one run: the algorithm's, and what was measured until then.

    Args:
        folder: Its own; it need not exist.
        identity: Says which run this is. A checkpoint of another one is not taken.
        every_s: Seconds from one checkpoint to the next, at least: a shorter run writes none.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], every_s: float = 300.0) -> None:
        self._folder, self._identity, self._every_s = folder.resolve(), dict(identity), every_s
        self._begun = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """What the run has taken, the time before it was cut short included."""
        return time.monotonic() - self._begun

    def restore(self, algo: ESPO) -> Any | None:
        """Brings an algorithm to where the run was cut short.

        Returns:
            The state that was saved with it. None where there is no checkpoint; None, too, and a warning, where it is
            damaged or another run's: the run begins anew then.
        """
        newest = self._folder / _NEWEST
        if not newest.exists():
            return None
        try:
            verify_checkpoint(newest)
        except BrokenCheckpointError as error:
            logger.warning("the run begins anew: %s", error)
            return None
        saved = pickle.loads((newest / _STATE).read_bytes())
        if saved["identity"] != self._identity:
            logger.warning(
                "the run begins anew: expected a checkpoint of %s in %s, got one of %s",
                self._identity,
                newest,
                saved["identity"],
            )
            return None
        algo.restore_from_path(str(newest / _ALGORITHM))
        self._begun -= saved["seconds"]
        return saved["state"]

    def save_if_due(self, algo: ESPO, state: Any) -> None:
        """Writes a checkpoint in the place of the last one, if that is old enough.

        Args:
            algo: What is trained.
            state: What goes with it; can be pickled.
        """
        if time.monotonic() - self._saved < self._every_s:
            return
        with whole_folder(self._folder / _NEWEST) as half:
            algo.save_to_path(str(half / _ALGORITHM))
            saved = {"identity": self._identity, "state": state, "seconds": self.seconds}
            (half / _STATE).write_bytes(pickle.dumps(saved))
            write_manifest(half)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Deletes it: the run is done."""
        shutil.rmtree(self._folder, ignore_errors=True)
