"""Checksums of a checkpoint's files.

- :func:`write_manifest`: of every file in a folder.
- :func:`verify_checkpoint`: whether the files are what was written.
- :class:`BrokenCheckpointError`: they are not.
- :data:`MANIFEST`: the file's name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from espo_algo.atomic import write_text

__all__ = ["MANIFEST", "BrokenCheckpointError", "verify_checkpoint", "write_manifest"]

MANIFEST = "manifest.json"
"""SHA-256 of every other file of a checkpoint, by its path within; written last."""


class BrokenCheckpointError(ValueError):
    """A checkpoint whose files are not those that were written."""


def write_manifest(folder: str | Path) -> None:
    """Writes the checksums of all files in a folder; they find accidents, not a person who means to deceive."""
    folder = Path(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)
    digests = {file.relative_to(folder).as_posix(): _sha256(file) for file in files}
    write_text(folder / MANIFEST, json.dumps(digests, indent=1) + "\n")


def verify_checkpoint(folder: str | Path) -> None:
    """Reads every file of a checkpoint and compares it with its checksum.

    Args:
        folder: A checkpoint that :meth:`ESPO.save_to_path` wrote.

    Raises:
        BrokenCheckpointError: If there are no checksums, or a file is missing or another one, naming it.
    """
    folder = Path(folder)
    try:
        digests = dict(json.loads((folder / MANIFEST).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BrokenCheckpointError(f"{folder}: expected checksums in {MANIFEST}, got {error}") from None
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file():
            raise BrokenCheckpointError(f"{folder}: expected {name}, which {MANIFEST} lists, got no such file")
        if (got := _sha256(file)) != digest:
            raise BrokenCheckpointError(
                f"{folder}: expected {name} with the SHA-256 that {MANIFEST} lists, {digest}, got {got}: "
                "one of the two has changed since it was written"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
