"""What a firing does to a response."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espo_env.early_stopping import decide, stop_reason
from espo_env.types import StopReason


@pytest.mark.parametrize(
    ("fired", "natural", "step", "mark", "mark_only", "expected"),
    [
        (False, False, 4, -1, False, (False, -1)),
        (True, False, 4, -1, False, (True, 4)),
        (True, True, 4, -1, False, (False, -1)),  # a natural end wins
        (True, False, 4, -1, True, (False, 4)),  # marked, and runs on
        (True, False, 7, 4, True, (False, 4)),  # the first firing is the mark
        (True, True, 7, 4, True, (False, 4)),
        (False, False, 5, 4, True, (False, 4)),
    ],
)
def test_each_rule_by_hand(fired, natural, step, mark, mark_only, expected):
    arguments = ([fired], [natural], [step], [mark], [mark_only])
    for convert in (np.array, torch.tensor):
        stopped, marks = decide(*map(convert, arguments))
        assert (bool(stopped[0]), int(marks[0])) == expected


responses = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12)


@given(st.lists(st.tuples(responses, st.booleans()), min_size=1, max_size=5))
def test_a_loop_over_whole_responses(rows):
    """Step by step for all rows at once, against each row alone in plain words."""
    marks = np.full(len(rows), -1)
    ends: list[tuple[int, bool] | None] = [None] * len(rows)
    for step in range(max(len(steps) for steps, _ in rows)):
        live = [i for i, (steps, _) in enumerate(rows) if ends[i] is None and step < len(steps)]
        fired, natural = (np.array([rows[i][0][step][k] for i in live], bool) for k in (0, 1))
        mark_only = np.array([int(rows[i][1]) for i in live])
        stopped, marks[live] = decide(fired, natural, np.full(len(live), step), marks[live], mark_only)
        for row, i in enumerate(live):
            if natural[row] or stopped[row]:
                ends[i] = (step, bool(stopped[row]))
    for i, (steps, mark_only) in enumerate(rows):
        end = mark = None
        for step, (fires, ends_by_itself) in enumerate(steps):
            if ends_by_itself:
                end = (step, False)
                break
            if fires and mark is None:
                mark = step
            if fires and not mark_only:
                end = (step, True)
                break
        assert ends[i] == end
        assert marks[i] == (-1 if mark is None else mark)


def test_why_a_response_has_ended():
    assert stop_reason(True, False) is StopReason.EOS
    assert stop_reason(False, True) is StopReason.REGRET
    assert stop_reason(False, False) is StopReason.LENGTH
