from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from espo_algo.experiments.signals import SIGNALS, Recorded, measure

RNG = np.random.default_rng(0)


def recorded(n: int = 24, longest: int = 12) -> Recorded:
    """Responses to prompts, four each; the probability of a token is exp(-regret)."""
    regrets = RNG.exponential(size=(n, longest)).astype(np.float32)
    return Recorded(
        lengths=RNG.integers(2, longest + 1, n),
        correct=RNG.random(n) < 0.5,
        prompts=np.repeat(np.arange(n // 4), 4),
        logprobs=-regrets,
        regrets=regrets,
        values=RNG.uniform(size=(n, longest)).astype(np.float32),
        statistics=np.array([1.0, 1.0]),
        oracle_saving=0.0,
    )


def test_what_a_score_is_worth_by_hand() -> None:
    r = replace(
        recorded(4, 10),
        lengths=np.array([10, 10, 10, 10]),
        correct=np.array([False, False, True, True]),
        logprobs=np.log(np.full((4, 10), 0.5, np.float32)),
    )
    scores = np.zeros((4, 10))
    # In this order: wrong at step 1, wrong at step 5, right at step 3. The last step of a response is never a stop.
    scores[0, 1], scores[1, 5], scores[2, 3], scores[3, 9] = 9, 8, 7, 99
    m = measure(r, lambda _: scores, target=0.75)
    assert m.saving == pytest.approx((8 + 4 + 6) / 40)
    assert m.false_positives == pytest.approx(1 / 3)
    assert m.bound == pytest.approx(0.5)
    assert m.saving_wrong_stops == m.saving_good_ones == pytest.approx((8 + 4) / 40)
    # After five tokens the first failing response alone is known; after ten none goes on.
    assert m.auroc[5] == pytest.approx(((1 + 1) + (0 + 0.5)) / 4)
    assert math.isnan(m.auroc[10])


def test_stops_are_those_of_a_plain_loop() -> None:
    r = recorded(40)
    for name, score in SIGNALS.items():
        scores = score(r)
        assert scores.shape == r.regrets.shape, name
        critical = [max(scores[i, : r.lengths[i] - 1]) for i in range(40)]
        if np.sort(critical)[-10] <= 0:
            continue
        threshold = np.nextafter(np.sort(critical)[-10], -np.inf)
        saved, wrong, least = 0, [], []
        for i in range(40):
            for t in range(r.lengths[i] - 1):
                if scores[i, t] > threshold:
                    saved += r.lengths[i] - t - 1
                    wrong.append(r.correct[i])
                    least.append(min(math.exp(p) for p in r.logprobs[i, : t + 1]))
                    break
        m = measure(r, score, target=0.25)
        assert (len(wrong), m.saving) == (10, pytest.approx(saved / r.lengths.sum())), name
        assert (m.false_positives, m.bound) == (pytest.approx(np.mean(wrong)), pytest.approx(np.mean(least))), name


def test_siblings_are_the_other_responses_to_the_prompt() -> None:
    r = replace(recorded(8), correct=np.array([1, 0, 1, 1, 0, 0, 0, 1], bool))
    np.testing.assert_allclose(r.siblings(), np.array([2, 3, 2, 2, 1, 1, 1, 0]) / 3)
    np.testing.assert_array_equal(r.siblings(first=2), [np.nan, np.nan, 0.5, 0.5, np.nan, np.nan, 0.0, 0.0])
