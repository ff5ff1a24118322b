"""The reason in words and numbers: what the rule compared, for every rule."""

from __future__ import annotations

import re

import numpy as np
import pytest

from espo_env.early_stopping import (
    STOP_RULES,
    DetectorSettings,
    DetectorState,
    FailureDetector,
    RegretStatistics,
    explain,
)
from espo_env.early_stopping.explanation import comparison
from espo_env.types import StopReason, Trajectory


def response(z=(0.1, 0.44), thresholds=(0.04, 0.04), values=0.1, reason=StopReason.REGRET, mark=1, **fields):
    n = len(z)
    return Trajectory(
        np.zeros(1, np.int32),
        np.ones(n, np.int32),
        reason,
        z=np.array(z, np.float32),
        thresholds=np.array(thresholds, np.float32),
        values=np.full(n, values, np.float32),
        mark=mark,
        **fields,
    )


SETTINGS = DetectorSettings()


def test_a_stop_is_told_with_what_the_threshold_is_made_of():
    assert explain(response(), SETTINGS) == "stopped at token 2: z 0.44 > beta 0.20 x max(V 0.10, floor 0.20) = 0.040"


@pytest.mark.parametrize(
    ("correct", "outcome"), [(True, "it ended right, so a stop would have been wrong"), (False, "it was not right")]
)
def test_a_mark_is_told_with_how_it_ended(correct, outcome):
    marked = response(reason=StopReason.EOS, correct=correct)
    assert explain(marked, SETTINGS).startswith(f"marked at token 2, ran on, and {outcome}: z 0.44 > beta")


def test_without_a_stop_the_nearest_token_is_told():
    near = response(z=(0.0, 0.1, 0.0), thresholds=(0.2, 0.2, 0.05), values=0.8, reason=StopReason.LENGTH, mark=-1)
    told = "not stopped: nearest at token 3, z 0.00 <= beta 0.062 x max(V 0.80, floor 0.20) = 0.050"
    assert explain(near, SETTINGS) == told


def test_the_end_token_does_not_count_as_near():
    ended = response(z=(0.0, 9.0), reason=StopReason.EOS, mark=-1)
    assert "nearest at token 1," in explain(ended, SETTINGS)
    assert explain(response((9.0,), (1.0,), reason=StopReason.EOS, mark=-1), SETTINGS) == (
        "not stopped: it ended with its first token"
    )


def test_a_crossing_while_stopping_was_off_is_told():
    warming = response(z=(0.0, 0.44, 0.0), thresholds=(0.04,) * 3, reason=StopReason.EOS, mark=-1)
    assert explain(warming, SETTINGS).startswith("not stopped, because stopping was off: z 0.44 > beta 0.20")


def test_nothing_is_told_of_what_was_not_measured():
    nothing = Trajectory(np.zeros(1, np.int32), np.ones(2, np.int32), StopReason.EOS)
    assert explain(nothing, SETTINGS) == ""


def test_numbers_that_look_the_same_get_more_digits():
    close = response(z=(0.0, 0.4004), thresholds=(0.4, 0.4), values=1.0)
    assert "z 0.4004 > beta 0.40 x max(V 1.00, floor 0.20) = 0.4000" in explain(close, SETTINGS)


@pytest.mark.parametrize("gate", ["before", "after"])
@pytest.mark.parametrize("rule", [*STOP_RULES, "own_parts:third_token"])
def test_every_rule_is_told_with_its_own_beta(rule, gate):
    """What is printed is what the detector compared: beta comes back out of the threshold."""
    settings = DetectorSettings(rule=rule, gate=gate)
    detector = FailureDetector(1, settings, DetectorState(RegretStatistics(0.0, 1.0), beta=0.25), seed=0)
    detector.reset(prompt_success=np.array([0.75], np.float32))
    verdicts = [
        detector.update(np.array([g], np.float32), np.array([v], np.float32)) for g, v in ((1, 0.5), (9, 0.1), (0, 0.9))
    ]
    written = response([v.score[0] for v in verdicts], [v.threshold[0] for v in verdicts], prompt_success=0.75)
    written.values = np.array([0.5, 0.1, 0.9], np.float32)
    for step, verdict in enumerate(verdicts):
        told = comparison(written, step, settings)
        assert (">" in told) == bool(verdict.stop[0])
        if rule == "never":
            assert told.endswith("<= a threshold out of reach")
        elif rule == "own_parts:third_token":
            assert told.endswith("(rule own_parts:third_token)")
        else:
            assert re.search(r"beta 0\.25\b", told), told
        assert ("of the token before" in told) == (gate == "after" and (rule == "never" or rule.startswith("regret")))
