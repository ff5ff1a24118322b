from __future__ import annotations

import math

import numpy as np
import pytest
from hand_made import make_episode
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_algo.critic_quality import auroc, success_auroc
from espo_env.types import StopReason


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0.5, 3.0)), min_size=1, max_size=20))
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool, float]]) -> None:
    scores, positive, weights = (np.array(column) for column in zip(*rows, strict=True))
    pairs = [(s, w, t, v) for s, p, w in rows if p for t, q, v in rows if not q]
    won = sum(w * v * ((s > t) + 0.5 * (s == t)) for s, w, t, v in pairs)
    total = sum(w * v for _, w, _, v in pairs)
    got = auroc(scores.astype(float), positive, weights)
    assert got == pytest.approx(won / total) if pairs else math.isnan(got)


def test_without_weights_every_pair_counts_once() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))
    assert math.isnan(auroc(scores, np.zeros(40, bool)))


def test_values_are_looked_at_behind_a_share_of_the_tokens() -> None:
    right = make_episode([1] * 8, correct=True, values=[0, 0, 1, 0, 0.5, 0, 0, 0])
    wrong = make_episode([1] * 4, correct=False, values=[1, 0, 0.5, 0.5])
    assert success_auroc([right, wrong]) == {"0": 0.0, "25": 1.0, "50": 0.5, "75": 0.0}


def test_rounding_is_no_order() -> None:
    right = make_episode([1, 1], correct=True, values=[0.3, 0.3])
    wrong = make_episode([1, 1], correct=False, values=[np.nextafter(np.float32(0.3), np.float32(1)), 0.29])
    assert success_auroc([right, wrong]) == {"0": 0.5, "25": 0.5, "50": 1.0, "75": 1.0}


def test_marked_ones_that_ran_on_stand_for_those_that_were_stopped() -> None:
    def episode(value: float, correct: bool, mark: int = -1) -> object:
        return make_episode([1, 1, 1], correct=correct, values=[value] * 3, mark=mark)

    stopped = make_episode([1], StopReason.REGRET, values=[0.9], mark=0)
    unmarked, audited = [episode(0.5, True), episode(0.1, False)], episode(0.8, False, mark=1)
    # Wrong ones with 0.1 (once) and 0.8, which stands for three.
    assert success_auroc([*unmarked, audited, stopped, stopped])["0"] == pytest.approx(1 / 4)
    assert success_auroc([*unmarked, stopped])["0"] == 1.0
    assert all(math.isnan(a) for a in success_auroc([stopped]).values())
