"""Table, curves and pages."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
import pytest

from espo_algo.evaluation.report import choose_responses, format_table, iteration_record, plot_curves, write_responses
from espo_env.tasks import ArithmeticTask
from espo_env.types import StopReason, Trajectory

TOKENIZER = ArithmeticTask().tokenizer


def trajectory(reason=StopReason.EOS, correct=None, mark=-1, name="1"):
    tokens = np.array(TOKENIZER.encode(name), np.int32)
    column = np.zeros(len(tokens), np.float32)
    return Trajectory(
        tokens, tokens, reason, correct=correct, mark=mark, regrets=column, z=column, thresholds=column + 1
    )


def test_record_takes_the_numbers_of_one_iteration():
    result = {
        "training_iteration": 3,
        "beta": 0.5,
        "warmup_done": 1.0,
        "env_runners": {
            "num_env_steps_sampled_lifetime": 1200,
            "accuracy": 0.25,
            "response_length": {"mean": 12.5, "p90": 20.0, "max": 30},
            "stop_reason": {"eos": 0.5, "regret": 0.25, "length": 0.25},
            "early_stopping": {"stop_rate": 0.375},  # stopped or marked
        },
        "learners": {"default_policy": {"entropy": 0.125, "vf_explained_var": math.nan}},
        "timers": {"env_runner_sampling_timer": 1.5, "learner_update_timer": 2.5},
    }
    record = iteration_record(result)
    assert math.isnan(record.pop("vf_explained_var"))
    assert record == {
        "iteration": 3,
        "tokens": 1200,
        "accuracy": 0.25,
        "response_length": 12.5,
        "stop_rate": 0.375,
        "beta": 0.5,
        "warmup_done": 1,
        "entropy": 0.125,
        "sampling_s": 1.5,
        "update_s": 2.5,
    }


def test_table_is_aligned():
    table = format_table(["run", "n"], [["a", "1"], ["longer", "200"]])
    assert table.splitlines() == ["run       n", "------  ---", "a         1", "longer  200"]


def test_table_without_rows_is_its_header():
    assert format_table(["run", "n"], []).splitlines() == ["run  n", "---  -"]


def test_ragged_row_is_refused():
    with pytest.raises(ValueError, match=r"rows of 2 cells, got \['a'\]"):
        format_table(["run", "n"], [["a"]])


def test_curves_are_a_png_and_the_callers_backend_stays(tmp_path):
    backend = matplotlib.get_backend()
    record = {"iteration": 1.0, "tokens": 10.0, "accuracy": 0.5, "stop_rate": 0.0, "response_length": math.nan}
    path = plot_curves({"PPO": [record, record | {"iteration": 2.0}], "other": [record]}, tmp_path / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = matplotlib.image.imread(path)
    assert image.shape[0] > 300
    assert image.std() > 0
    assert matplotlib.get_backend() == backend


def test_responses_of_every_kind_are_chosen_in_turns():
    stopped = [trajectory(StopReason.REGRET, mark=0) for _ in range(9)]
    caught = trajectory(correct=False, mark=0)
    false_positive = trajectory(correct=True, mark=0)
    right = [trajectory(correct=True) for _ in range(9)]
    missed = trajectory(correct=False)
    cut = trajectory(StopReason.LENGTH)
    lost = trajectory(StopReason.ERROR)
    everything = [lost, *right, cut, *stopped, missed, false_positive, caught]
    assert choose_responses(everything, 6) == [stopped[0], caught, false_positive, right[0], missed, cut]
    assert choose_responses(everything, 3) == [stopped[0], caught, false_positive]
    chosen = choose_responses(everything, 8)
    assert chosen == [*stopped[:2], caught, false_positive, *right[:2], missed, cut]
    assert len(choose_responses(everything, 100)) == len(everything) - 1


def test_page_shows_the_responses_and_escapes_the_title(tmp_path):
    responses = [trajectory(StopReason.REGRET, mark=1, name="12+"), trajectory(correct=True, mark=0, name="7-5")]
    page = write_responses(responses, TOKENIZER, tmp_path / "page.html", "a < b").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "<h1>a &lt; b</h1>" in page
    assert page.count("<article>") == 2
    assert page.count("◀ stopped") == 1
    assert page.count("◀ would stop") == 1
