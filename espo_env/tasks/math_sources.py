"""Rows of a data set, out of a file or from the Hugging Face hub.

- :func:`read_rows`: every row with the place it stands at, for messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["read_rows"]

Row = dict[str, Any]
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")
_SUFFIXES = (".jsonl", ".json", ".parquet")


def read_rows(source: str | Path) -> Iterator[tuple[str, Row]]:
    """Reads a data set.

    Args:
        source: A ``.jsonl``, ``.json`` (a list of objects) or ``.parquet`` file, or a data set of the Hugging Face hub,
            ``owner/name``, ``owner/name:config`` or ``owner/name:config@split`` (``train`` if no split is named).

    Yields:
        Where the row stands, such as ``train.jsonl:17`` (line 17) or ``test.parquet[3]`` (row 3, counted from 0), and
        the row.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source is of no known kind, or a row is not a JSON object; with file and line.
        ImportError: If a hub name is given and ``datasets`` is not installed (extra ``hub``), or a Parquet file and
            ``pyarrow`` is not (extra ``math``).
    """
    path = Path(source)
    if path.suffix in _SUFFIXES or path.is_file():
        if not path.is_file():
            raise FileNotFoundError(f"expected a data file, got {str(source)!r}")
        if path.suffix == ".jsonl":
            return _json_lines(path)
        if path.suffix == ".json":
            return _json_list(path)
        if path.suffix == ".parquet":
            return _parquet(path)
    elif match := _HUB.fullmatch(str(source)):
        return _hub(**match.groupdict())
    raise ValueError(f"expected a {', '.join(_SUFFIXES)} file or a hub name 'owner/name', got {str(source)!r}")


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(
                        f"{path}:{number}: expected one JSON object a line, got {line[:80]!r} ({error})"
                    ) from None
                yield _checked(f"{path}:{number}", row)


def _json_list(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: expected a list of JSON objects, got {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a list of JSON objects, got {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}:1: expected a list of JSON objects, got {type(rows).__name__}")
    for number, row in enumerate(rows):
        yield _checked(f"{path}[{number}]", row)


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            f"{path}: reading Parquet files needs the package pyarrow: pip install 'espo[math]'"
        ) from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a Parquet file, got {error}") from None
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", row


def _hub(name: str, config: str | None, split: str | None) -> Iterator[tuple[str, Row]]:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"reading {name!r} from the hub needs the package datasets: pip install 'espo[hub]'"
        ) from None
    split = split or "train"
    for number, row in enumerate(datasets.load_dataset(name, config, split=split)):
        yield f"{name}@{split}[{number}]", row


def _checked(location: str, row: Any) -> tuple[str, Row]:
    if not isinstance(row, dict):
        raise ValueError(f"{location}: expected a JSON object, got {type(row).__name__}")
    return location, row
