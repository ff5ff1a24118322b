"""A few seconds of what ``make faults`` does for minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
from disturb_runners import run

pytestmark = pytest.mark.usefixtures("ray_session")


def test_under_kills_stops_and_corruptions_nothing_is_lost_uncounted(tmp_path: Path) -> None:
    tally = run(seconds=3.3, per_minute=60.0, seed=0, folder=tmp_path, runners=2)
    assert sum(tally.faults.values()) > 0
    assert tally.planned == tally.answered + tally.missing, str(tally)
    assert {"InvalidGrade", "ZeroDivisionError"} <= tally.lost.keys()
    assert tally.equal == tally.checks > 0
