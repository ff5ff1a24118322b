"""Files and folders that are whole at any time: written beside, then renamed.

- :func:`write_text`: a text file.
- :func:`whole_folder`: a folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_folder", "write_text"]


def write_text(path: str | Path, text: str) -> None:
    r"""Writes a UTF-8 file; whoever reads it sees the old text or the new one, whatever ends this process.

    Half of a surrogate pair, which UTF-8 has no place for and responses may contain, is written as ``\ud83d``: within a
    JSON text that is the same character again.

    Args:
        path: Its folder is made if it is missing. What is no file, such as a pipe or ``/dev/stdout``, is written to as
            it is.
        text: What the file is to contain.
    """
    path = Path(path)
    content = text.encode("utf-8", "backslashreplace")
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.half")
    try:
        with half.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError:
        half.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder that bears its name only once everything is in it; an older one of that name is replaced.

    Args:
        path: The folder. Its parents are made by whoever writes.

    Yields:
        Where to write: ``half-<name>`` beside it, which is not there yet. If an error is raised it stays until the next
        attempt.
    """
    path = Path(path)
    half = path.with_name(f"half-{path.name}")
    shutil.rmtree(half, ignore_errors=True)
    yield half
    shutil.rmtree(path, ignore_errors=True)
    half.rename(path)
