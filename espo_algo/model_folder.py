"""Whether the name of a model means a folder, and whether there is a model in it.

- :func:`check_model_folder`.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["check_model_folder"]


def check_model_folder(name: str | Path | None) -> None:
    """Checks a name that means a folder; does nothing where it means a model on the hub, or where there is none.

    Raises:
        ValueError: If no model is in the folder.
    """
    if name is not None and _looks_like_folder(str(name)) and not (Path(name) / "config.json").is_file():
        raise ValueError(f"expected a model folder with a config.json, got {str(name)!r}")


def _looks_like_folder(name: str) -> bool:
    """A hub name is ``name`` or ``owner/name``; the rest, and what begins with a folder that is here, is a path."""
    path = Path(name)
    return (
        path.exists()
        or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None
        or name.startswith((".", "~"))
        or (len(path.parts) > 1 and Path(path.parts[0]).is_dir())
    )
