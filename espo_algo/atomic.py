"""Text files that are whole at any time.

- :func:`write_text`: writes beside, then renames.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_text"]


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
