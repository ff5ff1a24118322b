"""Records, tables and curves."""

from __future__ import annotations

import math

import matplotlib
import pytest

from espo_algo.evaluation.report import format_table, iteration_record, plot_curves


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
            "early_stopping": {"stop_rate": 0.375, "false_positive_rate": 0.125},  # stopped or marked
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
        "false_positive_rate": 0.125,
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
