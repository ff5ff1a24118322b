"""Folders that one process writes to at a time.

- :func:`lock`: held while a process writes; refused to a second one.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["lock"]


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Holds a lock; the operating system takes it back when the process ends, however it ends.

    Args:
        path: File of the lock, made with its folder if it is missing. It stays there: deleting it would let a third
            process in beside a second one.

    Raises:
        BlockingIOError: If the lock is held already, with process id and host of who holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(
                f"expected that no other process writes to {str(path.parent)!r}, got {path.name} held by "
                f"{file.read().strip() or 'a process that is just starting'}"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
