"""Snapshots: which responses are chosen, and what is written down of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_responses import TASK, one_of_each, response

from espo_algo import ESPOConfig
from espo_algo.evaluation.snapshots import MOST_TOKENS, choose_responses, kept_tokens, take_snapshot
from espo_env.early_stopping import explain
from espo_env.types import TRACE_COLUMNS, StopReason


def snapshot(episodes, config=None, count=24):
    found = take_snapshot(episodes, config or ESPOConfig(), TASK.tokenizer, count, iteration=3)
    json.dumps(found, allow_nan=False)
    return found


def test_a_snapshot_has_what_is_known_of_each_response():
    episodes = one_of_each()
    found = snapshot(episodes)
    assert (found["iteration"], found["total"], found["lost"], len(found["responses"])) == (3, 8, 0, 8)
    stopped = found["responses"][0]
    assert (stopped["stop"], stopped["mark"], stopped["length"], stopped["correct"]) == ("regret", 8, 9, None)
    assert stopped["why"] == explain(episodes[0], ESPOConfig().detector_settings)
    assert stopped["why"].startswith("stopped at token 9: z 0.40 > beta 0.20 x max(V 0.10, floor 0.20)")
    assert (stopped["prompt"], stopped["reference"]) == (TASK.problem(0).prompt, TASK.problem(0).answer)
    np.testing.assert_allclose(stopped["columns"]["z"], episodes[0].z, rtol=1e-3)
    assert len(stopped["tokens"]) == 9
    assert found["responses"][3]["correct"] == 1.0


def test_td_errors_and_advantages_follow_from_the_values():
    config = ESPOConfig().training(gamma=1.0, lambda_=0.5)
    written = response(values=[0.5, 0.3, 0.7], correct=True)
    columns = snapshot([written], config)["responses"][0]["columns"]
    # 0.3 - 0.5, 0.7 - 0.3, 1 - 0.7; each advantage is its error and half of the next advantage.
    assert columns["td_errors"] == pytest.approx([-0.2, 0.4, 0.3], abs=1e-4)
    assert columns["advantages"] == pytest.approx([0.075, 0.55, 0.3], abs=1e-4)


def test_group_advantages_see_the_whole_group():
    config = ESPOConfig().training(advantage_estimator="group")
    found = snapshot([response(correct=True), response(correct=False)], config)["responses"]
    assert [r["columns"]["advantages"][0] for r in found] == pytest.approx([1.0, -1.0], rel=1e-4)


@pytest.mark.parametrize("stop_credit", ["bootstrap", "audited"])
def test_what_hangs_on_the_learners_value_is_left_out(stop_credit):
    config = ESPOConfig().early_stopping(stop_credit=stop_credit, shadow_fraction=0.5)
    found = snapshot([response(reason=StopReason.REGRET, mark=2), response(correct=True)], config)["responses"]
    assert ["advantages" in r["columns"] for r in found] == [False, True]
    cut = response(truncated=True)
    assert "td_errors" not in snapshot([cut])["responses"][0]["columns"]


def test_a_threshold_of_infinity_and_columns_that_nobody_measured():
    endless = response(thresholds=np.full(3, np.inf, np.float32))
    bare = response()
    for name in TRACE_COLUMNS:
        setattr(bare, name, np.zeros(0, np.float32))
    first, second = snapshot([endless, bare])["responses"]
    assert first["columns"]["thresholds"] == [None] * 3
    assert (second["columns"], second["why"]) == ({}, "")


def test_a_response_that_is_no_text_is_lost_alone(caplog):
    strange = response(1)
    strange.problem = type(strange.problem)("1+1=", 2, index=1)  # a reference that is no text
    found = snapshot([response(0), strange])
    assert (found["lost"], [r["group"] for r in found["responses"]]) == (1, [0])
    assert "a response of iteration 3 is not recorded: TypeError" in caplog.text


def test_what_others_wrote_is_written_out_and_cut():
    hostile = response(0)
    hostile.problem = type(hostile.problem)("", "\x1b[2J\u202e" + "9" * 5000, index=0)
    reference = snapshot([hostile])["responses"][0]["reference"]
    assert reference.startswith("\\x1b[2J\\u202e9")
    assert reference.endswith("… [1005 more characters]")
    assert len(reference) < 4100


def test_of_a_long_response_the_ends_and_the_mark_are_kept():
    long = response(0, np.zeros(5000), reason=StopReason.LENGTH, mark=2500)
    found = snapshot([long])["responses"][0]
    assert found["kept"] == [(0, 200), (2400, 2600), (4800, 5000)]
    assert len(found["tokens"]) == len(found["columns"]["advantages"]) == MOST_TOKENS
    assert found["length"] == 5000


@given(st.integers(1, 3000), st.integers(-1, 2999), st.integers(3, 700))
def test_kept_tokens_are_few_in_order_and_hold_the_mark(length, mark, most):
    mark = min(mark, length - 1)
    steps = [step for start, end in kept_tokens(length, mark, most) for step in range(start, end)]
    assert steps == sorted({*steps})
    assert len(steps) <= most
    assert {0, length - 1} <= {*steps} <= {*range(length)}
    assert mark < 0 or mark in steps


def test_half_are_the_first_prompts_and_the_others_of_every_kind():
    right = [response(group, correct=True) for group in range(20)]
    stopped = [response(group, reason=StopReason.REGRET, mark=2) for group in (20, 21)]
    wrong_stop = response(22, correct=True, mark=1)
    caught = response(23, correct=False, mark=1)
    missed, cut = response(24, correct=False), response(25, reason=StopReason.LENGTH)
    lost = response(26, reason=StopReason.ERROR)
    everything = [lost, cut, missed, caught, wrong_stop, *stopped, *right]
    chosen = choose_responses(everything, 12)
    assert [e.group for e in chosen] == [0, 1, 2, 3, 4, 5, 20, 21, 22, 23, 24, 25]
    assert len(choose_responses(everything, 100)) == len(everything) - 1
    assert choose_responses(everything, 0) == []


def test_groups_stay_whole():
    episodes = [response(group, correct=bool(i)) for i in range(2) for group in (7, 3, 5)]
    assert [e.group for e in choose_responses(episodes, 5)] == [3, 3, 5, 5]
    assert [e.group for e in choose_responses(episodes, 1)] == [3]
