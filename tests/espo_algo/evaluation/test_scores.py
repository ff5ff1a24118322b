"""Scores of several responses to a problem, against hand-worked numbers and plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_algo.evaluation.scores import bootstrap_interval, majority_at_k, pass_at_k, score


def pass_by_counting(correct, k):
    """Share of the choices of k responses that have a right one."""
    choices = list(itertools.combinations(correct, k))
    return sum(any(choice) for choice in choices) / len(choices)


def majority_by_counting(answers, right, k):
    """The same for the most frequent answer, ties broken each way."""
    total = 0.0
    choices = list(itertools.combinations(answers, k))
    for choice in choices:
        votes = {}
        for answer in choice:
            if answer is not None:
                votes[answer] = votes.get(answer, 0) + 1
        winners = [a for a in votes if votes[a] == max(votes.values())]
        total += sum(1 / len(winners) for a in winners if a in right)
    return total / len(choices)


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(4, 0, 4, 0.0), (4, 1, 1, 0.25), (4, 1, 2, 0.5), (4, 2, 2, 1 - 1 / 6), (4, 3, 2, 1.0), (1, 1, 1, 1.0)],
)
def test_pass_at_k_by_hand(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(pass_by_counting(correct, k))


def test_pass_at_k_of_many_responses_is_exact():
    # As floats the binomials would overflow.
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("answers", "right", "k", "expected"),
    [
        (["7", "7", "8"], {"7"}, 3, 1.0),
        (["7", "8", "8"], {"7"}, 3, 0.0),
        (["7", "8"], {"7"}, 2, 0.5),
        (["7", "7", "8"], {"7"}, 2, (1 + 0.5 + 0.5) / 3),
        (["7", None, None], {"7"}, 3, 1.0),
        ([None, None], set(), 2, 0.0),
    ],
)
def test_majority_by_hand(answers, right, k, expected):
    assert majority_at_k(answers, [a in right for a in answers], k) == pytest.approx(expected)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=8), st.sets(st.sampled_from("abc")), st.data()
)
def test_majority_is_the_mean_over_all_choices(answers, right, data):
    k = data.draw(st.integers(1, len(answers)))
    correct = [a in right for a in answers]
    assert majority_at_k(answers, correct, k) == pytest.approx(majority_by_counting(answers, right, k))


def test_majority_of_one_is_the_share_of_right_answers():
    answers = ["a"] * 30 + ["b"] * 70
    assert majority_at_k(answers, [a == "a" for a in answers], 1) == pytest.approx(0.3)


def test_majority_over_random_choices_is_near_the_exact_one():
    answers = ["a"] * 8 + ["b"] * 6 + ["c"] * 4
    correct = [a == "a" for a in answers]  # C(18, 5) = 8568 choices
    estimate = majority_at_k(answers, correct, 5)
    assert estimate == majority_at_k(answers, correct, 5)  # seeded
    assert estimate == pytest.approx(majority_by_counting(answers, {"a"}, 5), abs=0.05)


def test_an_answer_judged_in_two_ways_counts_as_right():
    assert majority_at_k(["7", "7"], [True, False], 2) == 1.0


@pytest.mark.parametrize("k", [0, 3])
def test_k_outside_the_number_of_responses_is_refused(k):
    with pytest.raises(ValueError, match=rf"k in \[1, 2\], the number of responses, got {k}"):
        pass_at_k(2, 1, k)
    with pytest.raises(ValueError, match=rf"k in \[1, 2\], the number of responses, got {k}"):
        majority_at_k(["a", "b"], [True, False], k)


def test_other_impossible_arguments_are_named():
    with pytest.raises(ValueError, match=r"num_correct in \[0, 2\], got 3"):
        pass_at_k(2, 3, 1)
    with pytest.raises(ValueError, match="each of 2 answers, got 1"):
        majority_at_k(["a", "b"], [True], 1)
    with pytest.raises(ValueError, match=r"shape \(n,\), n >= 1, got \(0,\)"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match=r"confidence in \(0, 1\), got 1"):
        bootstrap_interval([1.0], confidence=1)


def test_interval_of_many_problems_is_the_normal_one():
    scores = np.random.default_rng(1).random(400) < 0.3
    low, high = bootstrap_interval(scores)
    half = 1.96 * np.sqrt(scores.mean() * (1 - scores.mean()) / len(scores))
    assert (scores.mean() - low, high - scores.mean()) == (pytest.approx(half, rel=0.15), pytest.approx(half, rel=0.15))


def test_wider_confidence_and_fewer_problems_make_it_wider():
    scores = np.array([0.0, 1.0] * 20)

    def width(values, confidence=0.95):
        low, high = bootstrap_interval(values, confidence)
        return high - low

    assert width(scores, 0.5) < width(scores) < width(scores[:10])


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_interval_lies_within_the_scores(scores):
    low, high = bootstrap_interval(scores, num_resamples=50)
    assert min(scores) - 1e-12 <= low <= high <= max(scores) + 1e-12


def test_equal_scores_have_a_point_as_interval():
    assert score([0.25, 0.25]) == (0.25, 0.25, 0.25)
