"""Statistics over seeds, against numbers worked by hand."""

import math

import numpy as np
import pytest

from espo_algo.experiments.statistics import interval, paired_interval, saving, tokens_to_accuracy


def test_interval_of_five_numbers():
    # mean 3, variance (4 + 1 + 0 + 1 + 4) / 4 = 2.5; t(4, .975) = 2.776
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert interval([1, 2, 3, 4, 5]) == pytest.approx((3, 3 - half, 3 + half), abs=1e-5)


def test_paired_differences_leave_out_what_seeds_share():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(2, .975) = 4.302653.
    left, right = [11.0, 52.0, 93.0], [10.0, 50.0, 90.0]
    half = 4.302653 / math.sqrt(3)
    assert paired_interval(left, right) == pytest.approx((2, 2 - half, 2 + half), abs=1e-5)


def test_one_seed_has_no_interval():
    mean, low, high = interval([0.5])
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_intervals_hold_the_mean_in_95_of_100_cases():
    draws = np.random.default_rng(0).normal(size=(1000, 5))
    held = sum(low <= 0 <= high for _, low, high in map(interval, draws)) / len(draws)
    assert held == pytest.approx(0.95, abs=0.02)  # three standard errors


@pytest.mark.parametrize(
    ("target", "tokens"),
    [(0.4, 0), (0.45, 5), (0.5, 10), (0.6, 15), (0.7, 20), (0.71, None)],
)
def test_tokens_to_an_accuracy_lie_between_measurements(target, tokens):
    assert tokens_to_accuracy([0, 10, 20, 30], [0.4, 0.5, 0.7, 0.6], target) == (
        None if tokens is None else pytest.approx(tokens)
    )


def test_saving_is_negative_where_more_was_spent():
    assert saving(80, 100) == pytest.approx(0.2)
    assert saving(110, 100) == pytest.approx(-0.1)


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="expected a value or more, got none"):
        interval([])
    with pytest.raises(ValueError, match="expected as many values on both sides, got 1 and 2"):
        paired_interval([1], [1, 2])
