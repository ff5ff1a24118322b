"""The downloaded data sets: in $ESPO_DATA, else in shared/data beside the checkout, of which they are no part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("ESPO_DATA", Path(__file__).parents[3] / "shared" / "data"))


def data_file(name: str) -> Path:
    """The file, or the test is skipped."""
    if not (DATA / name).is_file():
        pytest.skip(f"needs {name} in {DATA} (set ESPO_DATA to the folder of the data sets)")
    return DATA / name


def data_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file, or the test is skipped."""
    return [json.loads(line) for line in data_file(name).read_text("utf-8").splitlines()]
