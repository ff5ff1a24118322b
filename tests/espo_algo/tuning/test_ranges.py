"""Ranges in the place of values: found, checked, filled."""

import pytest
from ray.tune.search.sample import Categorical, Float, Integer

from espo_algo.tuning.ranges import Range, find_ranges, with_values

CONTENT = {
    "environment": {"env": "espo_env/Arithmetic-v0", "env_config": {"max_terms": {"randint": [2, 5]}}},
    "early_stopping": {"fail_reward": {"choice": [-1.0, 0.0]}, "beta": "auto"},
    "training": {"lr": {"loguniform": [1e-5, 1e-3]}, "gamma": {"uniform": [0.9, 1]}, "lambda_": {"grid_search": [1.0]}},
}


def test_ranges_are_found_at_any_depth_and_only_in_the_place_of_values():
    found = find_ranges(CONTENT)
    assert [str(r) for r in found] == [
        "environment.env_config.max_terms: randint [2, 5]",
        "early_stopping.fail_reward: choice [-1.0, 0.0]",
        "training.lr: loguniform [1e-05, 0.001]",
        "training.gamma: uniform [0.9, 1]",
        "training.lambda_: grid_search [1.0]",
    ]
    assert find_ranges({"choice": [1], "training": {"uniform": 3, "lr": 1e-3}}) == []  # a section, and two keys


def test_the_upper_end_of_whole_numbers_is_not_among_them():
    assert Range(("a", "b"), "randint", (2, 5)).extremes == (2, 4)
    assert Range(("a", "b"), "uniform", (2, 5)).extremes == (2, 5)


def test_a_range_is_drawn_from_by_ray_tune():
    whole, choice, log, even, grid = (found.domain() for found in find_ranges(CONTENT))
    assert isinstance(whole, Integer)
    assert isinstance(choice, Categorical)
    assert isinstance(log, Float)
    assert isinstance(even, Float)
    assert grid == {"grid_search": [1.0]}
    assert {whole.sample() for _ in range(99)} == {2, 3, 4}
    assert all(1e-5 <= log.sample() <= 1e-3 for _ in range(99))
    assert sum(log.sample() < 1e-4 for _ in range(2000)) == pytest.approx(1000, abs=200)  # half of them, not a tenth


def test_values_take_the_place_of_ranges_and_nothing_else_changes():
    values = {found.name: found.extremes[0] for found in find_ranges(CONTENT)}
    filled = with_values(CONTENT, values)
    assert filled == {
        "environment": {"env": "espo_env/Arithmetic-v0", "env_config": {"max_terms": 2}},
        "early_stopping": {"fail_reward": -1.0, "beta": "auto"},
        "training": {"lr": 1e-5, "gamma": 0.9, "lambda_": 1.0},
    }
    assert len(find_ranges(CONTENT)) == 5  # the original has its ranges still


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"uniform": [2, 1]}, "training.lr: uniform: expected two numbers"),
        ({"uniform": [1]}, "with low < high, got"),
        ({"uniform": ["a", "b"]}, "expected two numbers"),
        ({"loguniform": [0, 1]}, "expected a low end > 0, got 0"),
        ({"randint": [0.5, 2]}, "expected whole numbers, got"),
        ({"choice": []}, "expected a list of choices, got"),
        ({"grid_search": 3}, "training.lr: grid_search: expected a list of choices, got 3"),
    ],
)
def test_a_range_without_sense_is_explained(given, message):
    with pytest.raises(ValueError, match=message):
        find_ranges({"training": {"lr": given}})
