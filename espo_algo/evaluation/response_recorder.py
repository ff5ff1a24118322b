"""Snapshots of a run, written beside its training.

- :class:`ResponseRecorder`: takes snapshots in a thread of its own, and never stops whoever trains.
- :func:`read_snapshots`: what is there. :func:`forget_after`: drops what training does again.
- :func:`kept_iterations`: which snapshots stay as a run gets longer.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espo_algo.atomic import write_text
from espo_algo.config import ESPOConfig
from espo_algo.episodes import TokenEpisode
from espo_algo.evaluation.snapshots import take_snapshot
from espo_env.tokenizer import Tokenizer

__all__ = ["ResponseRecorder", "forget_after", "kept_iterations", "read_snapshots"]

logger = logging.getLogger(__name__)

_MOST_SNAPSHOTS = 16
_WAITING = 4
"""Batches that may wait for the disk; further ones are left out."""
_CLOSING_S = 10.0
_NAME = re.compile(r"snapshot-(\d{6,})\.json")


class ResponseRecorder:
    """Writes snapshots of a run's iterations into a folder, a file each.

    Training only hands over its newest batch: text, numbers and files are made in a thread. What cannot be written (a
    full disk, a response that is no JSON, a disk that is too slow) is counted and logged. At most 16 snapshots stay:
    the first, the newest, and others at equal distances, which double as the run gets longer.

    Args:
        folder: Made if it is missing.
        count: Responses of a snapshot, at most; 0 for none.
        config: What the responses are written with.
        tokenizer: Turns tokens into text.

    Attributes:
        num_lost: Iterations that were to be recorded and are not.
    """

    def __init__(self, folder: str | Path, count: int, config: ESPOConfig, tokenizer: Tokenizer) -> None:
        self.folder = Path(folder)
        self.num_lost = 0
        self._count, self._config, self._tokenizer = count, config, tokenizer
        self._queue: queue.Queue[tuple[int, Sequence[TokenEpisode]] | None] = queue.Queue(_WAITING)
        # A disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="response recorder", daemon=True)
        self._thread.start()

    def record(self, iteration: int, episodes: Sequence[TokenEpisode]) -> None:
        """Hands over an iteration's batch, which is not changed any more; returns at once."""
        if not self._count:
            return
        try:
            self._queue.put_nowait((iteration, episodes))
        except queue.Full:
            self._lose(iteration, "the disk is too slow")

    def close(self) -> None:
        """Waits for what was handed over, for ten seconds at most."""
        try:
            self._queue.put(None, timeout=_CLOSING_S)
        except queue.Full:
            logger.warning("%s: the disk hangs; the newest snapshots are missing", self.folder)
            return
        self._thread.join(_CLOSING_S)
        if self.num_lost:
            logger.warning("%s: %d iterations are not recorded", self.folder, self.num_lost)

    def __enter__(self) -> ResponseRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            iteration, episodes = work
            try:
                snapshot = take_snapshot(episodes, self._config, self._tokenizer, self._count, iteration)
                snapshot["lost_iterations"] = self.num_lost
                text = json.dumps(snapshot, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
                write_text(self.folder / f"snapshot-{iteration:06d}.json", text)
                self._thin_out()
            except Exception as error:  # whatever it is: training goes on
                self._lose(iteration, repr(error))
            self._queue.task_done()

    def _thin_out(self) -> None:
        files = _files(self.folder)
        for iteration in files.keys() - kept_iterations([*files]):
            files[iteration].unlink()

    def _lose(self, iteration: int, why: str) -> None:
        self.num_lost += 1
        if self.num_lost == 1:  # the number of all is logged at the end
            logger.warning("%s: responses of iteration %d are not recorded: %s", self.folder, iteration, why)


def read_snapshots(folder: str | Path) -> list[dict[str, Any]]:
    """The snapshots in a folder, in the order of their iterations; none where there is no such folder.

    Raises:
        ValueError: If a file is no snapshot, naming it.
    """
    snapshots = []
    for path in _files(Path(folder)).values():
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:  # thinned out just now
            continue
        try:
            snapshot = json.loads(text)
            snapshot["responses"], snapshot["label"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: expected a snapshot as JSON, got {text[:60]!r} ({error!r})") from None
        snapshots.append(snapshot)
    return snapshots


def forget_after(folder: str | Path, iteration: int) -> None:
    """Drops the snapshots of later iterations, which training does again."""
    for number, path in _files(Path(folder)).items():
        if number > iteration:
            path.unlink()


def kept_iterations(recorded: Sequence[int], most: int = _MOST_SNAPSHOTS) -> set[int]:
    """Which of the recorded iterations stay.

    Args:
        recorded: Numbers of iterations, at least one.
        most: How many may stay, >= 3.

    Returns:
        The first one, the newest, and the multiples of the smallest power of two with which they are ``most`` at most.
    """
    newest, stride = max(recorded), 1
    while newest // stride > most - 2:
        stride *= 2
    return {min(recorded), newest, *(i for i in recorded if i % stride == 0)}


def _files(folder: Path) -> dict[int, Path]:
    found = {int(match[1]): path for path in folder.glob("snapshot-*.json") if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))
