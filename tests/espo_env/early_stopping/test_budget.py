from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hand_made import make_episode
from hypothesis import example, given, settings
from hypothesis import strategies as st

from espo_algo import TokenEpisode
from espo_env.early_stopping import (
    AuditedResponse,
    CriticWarmup,
    DetectorSettings,
    EarlyStoppingState,
    FailureDetector,
    FalsePositiveController,
    Gate,
    RegretStatistics,
    upper_bound,
)
from espo_env.types import StopReason

ANY = -math.inf


def bound(wrong: int, stops: int, confidence: float = 0.95) -> float:
    return float(upper_bound(np.array([wrong]), np.array([stops]), confidence)[0])


def test_the_bound_is_where_so_few_hits_would_be_as_rare_as_the_confidence_says() -> None:
    # Without a hit: (1 - p)^n = 0.05.
    assert bound(0, 98) == pytest.approx(1 - 0.05 ** (1 / 98))
    assert bound(0, 98) > 0.03 > bound(0, 99)
    assert bound(1, 156) > 0.03 > bound(1, 157)
    # By the sum of the binomial distribution.
    for wrong, stops, confidence in ((3, 20, 0.95), (7, 9, 0.8), (40, 400, 0.99)):
        p = bound(wrong, stops, confidence)
        tail = sum(math.comb(stops, k) * p**k * (1 - p) ** (stops - k) for k in range(wrong + 1))
        assert tail == pytest.approx(1 - confidence)


def test_nothing_is_known_without_a_stop_or_where_all_were_wrong() -> None:
    assert bound(0, 0) == bound(4, 4) == 1.0


def test_the_lowest_beta_is_taken_that_the_evidence_allows() -> None:
    # 200 failures at 2.00 to 3.99, a right one at 1.5, 100 failures at 1.0, then right ones.
    failures = [AuditedResponse(2 + i / 100, ANY, False) for i in range(200)]
    right = [AuditedResponse(1.5, ANY, True)]
    more = [AuditedResponse(1.0, ANY, False)] * 100
    others = [AuditedResponse(0.5 - i / 1000, ANY, True) for i in range(50)]
    controller = FalsePositiveController()
    assert not controller.may_stop
    controller = controller.updated(failures[:98])
    assert not controller.may_stop
    controller = controller.updated(failures[98:])
    assert controller.may_stop
    assert controller.beta == pytest.approx(2.0, rel=1e-5)  # all 200
    controller = controller.updated([*right, *more])
    assert controller.beta == pytest.approx(1.0, rel=1e-5)  # 1 of 301
    assert controller.bound == bound(1, 301)
    controller = controller.updated(others)
    # Of the right ones at 0.5 and below three more: bound(4, 304) = 0.0299, bound(5, 305) = 0.0342.
    assert controller.beta == pytest.approx(0.5 - 2 / 1000, rel=1e-5)
    assert controller.bound == bound(4, 304) < 0.03 < bound(5, 305)


def test_a_better_policy_takes_the_stops_away() -> None:
    controller = FalsePositiveController(window=300).updated([AuditedResponse(2.0, ANY, False)] * 300)
    assert controller.may_stop
    # The same score means less and less: the window fills with right ones.
    controller = controller.updated([AuditedResponse(2.0, ANY, True)] * 3)
    assert controller.may_stop
    controller = controller.updated([AuditedResponse(2.0, ANY, True)])
    assert not controller.may_stop
    assert len(controller.audited) == 300
    # And forgets them, where they become rare again.
    controller = controller.updated([AuditedResponse(2.0, ANY, False)] * 299)
    assert controller.may_stop


def test_a_response_that_ran_on_because_it_was_marked_tells_nothing_of_a_lower_beta() -> None:
    marked = [AuditedResponse(3.0 + i / 1000, 2.5, False) for i in range(200)]
    controller = FalsePositiveController().updated(marked)
    assert controller.may_stop
    below = [AuditedResponse(2.0, ANY, False)]
    # At 2.0 there is one stop that is known about, not 201.
    assert controller.updated(below).beta == controller.beta
    assert replace(controller.updated(below), beta=1.9).bound == bound(0, 1)


@settings(max_examples=40, deadline=None)
@example(seed=0, budget=0.3125, fair=True)  # what may be stopped fires at every beta within the bounds
@given(seed=st.integers(0, 2**31), budget=st.floats(0.05, 0.9), fair=st.booleans())
def test_no_lower_beta_would_keep_the_budget(seed: int, budget: float, fair: bool) -> None:
    rng = np.random.default_rng(seed)
    responses = [
        AuditedResponse(
            float(rng.choice([-math.inf, 0.1, 0.5, 1.0, 1.5, 2.0, 60.0, math.inf])),
            ANY if fair else float(rng.choice([ANY, 0.3, 1.2])),
            bool(rng.random() < 0.4),
        )
        for _ in range(rng.integers(0, 60))
    ]
    controller = FalsePositiveController(budget=budget, confidence=0.8).updated(responses)

    def measured(beta: float) -> float:
        stopped = [r for r in responses if r.known_from <= beta < r.critical]
        return bound(sum(r.correct for r in stopped), len(stopped), 0.8)

    assert controller.bound == pytest.approx(measured(controller.beta))
    assert measured(controller.beta) <= budget or not controller.may_stop
    if fair:
        good = [beta for beta in np.arange(0.051, 50, 0.049) if measured(beta) <= budget]
        assert controller.may_stop is bool(good)
        # A lower beta that is good stops the same ones.
        assert not good or controller.beta <= good[0] or measured(good[0]) == measured(controller.beta)


def test_the_promise_is_kept_as_often_as_the_confidence_says() -> None:
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(200):
        fails = rng.random(600) < 0.5
        # Of the stops at beta 1 and above 2 % are wrong, of those at 0.5 to 1 every tenth.
        critical = np.where(fails, rng.uniform(0.5, 2.0, 600), rng.uniform(-2.0, 0.5, 600))
        correct = ~fails | (rng.random(600) < np.where(critical > 1, 0.02, 0.1))
        controller = FalsePositiveController(budget=0.05).updated(
            AuditedResponse(float(c), ANY, bool(r)) for c, r in zip(critical, correct, strict=True)
        )
        if controller.may_stop:
            beta = controller.beta
            high, low = min(1.0, 2.0 - beta), max(0.0, 1.0 - beta)
            broken += 0.02 * high + 0.1 * low > 0.05 * (high + low)
    assert broken <= 0.05 * 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.0}, r"budget in \(0, 1\), got 0.0"),
        ({"confidence": 1.0}, r"confidence in \(0, 1\), got 1.0"),
        ({"window": 0}, "window >= 1, got 0"),
        ({"bounds": (2.0, 1.0)}, r"low <= high, got \(2.0, 1.0\)"),
        ({"beta": 99.0}, r"within bounds \(0.05, 50.0\), got 99.0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FalsePositiveController(**options)


# --- in the state of early stopping ---------------------------------------------------------------------------------

SETTINGS = DetectorSettings(rule="regret_only", smoothing=0.0, delta=1e-12)
STATISTICS = RegretStatistics(mean=0.0, var=1.0, momentum=1.0)


def episode(regret: float, reason: StopReason = StopReason.EOS, **fields: object) -> TokenEpisode:
    """Its critical beta is the regret: mean 0, variance 1, no smoothing."""
    return make_episode([1, 0], reason, regrets=[regret, 9.0], values=[0.5, 0.5], **fields)


def start(**options: object) -> EarlyStoppingState:
    return EarlyStoppingState(
        statistics=STATISTICS,
        tolerance=FalsePositiveController(budget=0.5, **options),
        warmup=CriticWarmup(done=True),
        start="zero_one",
    )


def test_every_response_counts_until_something_is_stopped_and_then_those_that_ran_on() -> None:
    state = start()
    assert not state.detector_state.enabled
    state = state.updated([episode(2.0, correct=False)] * 5 + [episode(1.0, correct=True)] * 5, SETTINGS, 0.0, 0.0)
    assert [r.known_from for r in state.tolerance.audited] == [ANY] * 10
    assert [r.critical for r in state.tolerance.audited] == pytest.approx([2.0] * 5 + [1.0] * 5)
    assert [r.correct for r in state.tolerance.audited] == [False] * 5 + [True] * 5
    assert state.detector_state.enabled
    beta = state.detector_state.beta
    assert beta == pytest.approx(2.0, rel=1e-5)
    batch = [
        episode(3.0, StopReason.REGRET, mark=1, correct=None),  # stopped: nobody knows
        episode(0.5, correct=True),  # not stopped, and so not a fair sample
        episode(4.0, correct=True, mark=0),  # let run at its mark
        episode(0.25, correct=True, shadow=True),
        episode(5.0, StopReason.LENGTH, mark=0, shadow=True),
    ]
    audited = state.updated(batch, SETTINGS, 0.0, 0.0).tolerance.audited[10:]
    assert [r.critical for r in audited] == pytest.approx([4.0, 0.25, 5.0])
    assert [r.known_from for r in audited] == [beta, ANY, ANY]
    assert [r.correct for r in audited] == [True, True, False]


@pytest.mark.parametrize("gate", ["before", "after"])
def test_what_is_promised_of_recorded_responses_is_what_a_detector_would_have_done_to_them(gate: Gate) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        make_episode(
            [1] * n, regrets=rng.exponential(size=n), values=rng.uniform(0, 1, n), correct=bool(rng.random() < p)
        )
        for n, p in zip(rng.integers(3, 30, 300), rng.uniform(0, 0.4, 300), strict=True)
    ]
    settings = DetectorSettings(smoothing=0.8, gate=gate)
    state = EarlyStoppingState(
        tolerance=FalsePositiveController(budget=0.3, bounds=(1e-3, 1e3)), warmup=CriticWarmup(total_steps=10)
    ).updated(episodes, settings, 9.0, 0.0)
    assert state.detector_state.enabled
    stopped = []
    for e in episodes:
        detector = FailureDetector(1, settings, state.detector_state)
        fired = [bool(detector.update(e.regrets[t : t + 1], e.values[t : t + 1]).stop[0]) for t in range(len(e))]
        if any(fired[:-1]):
            stopped.append(e.correct)
    assert len(stopped) > 20
    assert bound(sum(stopped), len(stopped)) == pytest.approx(state.tolerance.bound)
    assert state.tolerance.bound <= 0.3


def test_nothing_is_written_down_while_the_critic_warms_up() -> None:
    state = replace(start(), warmup=CriticWarmup(patience=2, change_threshold=0.0))
    state = state.updated([episode(2.0, correct=False)], SETTINGS, 0.0, 0.0)
    assert not state.tolerance.audited
    state = state.updated([episode(2.0, correct=False)], SETTINGS, 0.0, 0.0)
    assert len(state.tolerance.audited) == 1
