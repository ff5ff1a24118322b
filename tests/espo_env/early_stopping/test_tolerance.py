from __future__ import annotations

import math

import numpy as np
import pytest
from flat import make_detector
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_env.early_stopping import (
    CriticWarmup,
    DetectorSettings,
    RegretStatistics,
    ToleranceController,
    calibrate_beta,
    critical_betas,
)


class TestTolerance:
    def test_rises_where_too_many_are_stopped_by_hand(self):
        controller = ToleranceController(beta=7.0, rate=0.1, target=0.25)
        assert controller.updated(0.75).beta == pytest.approx(7.05)
        assert controller.updated(0.0).beta == pytest.approx(6.975)
        assert controller.updated(0.25).beta == 7.0

    def test_multiplies_where_asked_to(self):
        controller = ToleranceController(beta=2.0, rate=0.2, target=0.25, update="multiplicative")
        assert controller.updated(0.5).beta == pytest.approx(2.0 * math.exp(0.2))
        assert controller.updated(0.0).beta == pytest.approx(2.0 * math.exp(-0.2))

    def test_stays_within_its_bounds(self):
        controller = ToleranceController(beta=1.0, rate=10.0, target=0.5, bounds=(0.5, 2.0))
        assert controller.updated(1.0).beta == 2.0
        assert controller.updated(0.0).beta == 0.5

    @pytest.mark.parametrize("update", ["additive", "multiplicative"])
    def test_finds_the_threshold_that_gives_the_target_rate(self, update):
        scores = np.random.default_rng(0).exponential(size=2000)
        controller = ToleranceController(beta=3.0, rate=0.3, target=0.25, update=update)
        for _ in range(300):
            controller = controller.updated(float((scores > controller.beta).mean()))
        assert (scores > controller.beta).mean() == pytest.approx(0.25, abs=0.02)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": 1.5}, r"expected a target stop rate in \[0, 1\], got 1.5"),
            ({"bounds": (2.0, 1.0)}, "expected bounds with low <= high"),
            ({"beta": 60.0}, r"expected beta within bounds \(0.05, 50.0\), got 60.0"),
            ({"rate": -0.1}, "expected a rate >= 0, got -0.1"),
            ({"update": "cubic"}, "got 'cubic'"),
            ({"update": "multiplicative", "target": 0.0}, "expected a positive target"),
        ],
    )
    def test_refuses_constants_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            ToleranceController(**options)

    @pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
    def test_refuses_rates_that_cannot_be(self, rate):
        with pytest.raises(ValueError, match=r"expected a measured stop rate in \[0, 1\], got"):
            ToleranceController().updated(rate)


def steps_until_done(warmup, losses, **options):
    for step, loss in enumerate(losses, 1):
        warmup = warmup.updated(loss, step, **options)
        if warmup.done:
            return step
    return None


class TestWarmup:
    @pytest.mark.parametrize(
        ("losses", "done_after"),
        [
            ([0.9, 0.4, 0.2, 0.05], 4),  # three below 0.5, with changes of 0.1 and more
            ([0.4, 0.2, 0.9, 0.4, 0.2, 0.05], 6),  # a streak starts again
            ([3.0, 2.0, 1.95], 3),  # settled
            ([3.0], None),  # one update has no neighbour
            ([4.0, 3.0, 2.0, 1.0], None),
        ],
    )
    def test_ends_as_the_paper_says(self, losses, done_after):
        assert steps_until_done(CriticWarmup(), losses) == done_after

    def test_is_forced_to_end_after_its_share_of_the_training(self):
        losses = [10.0 - step for step in range(8)]
        assert steps_until_done(CriticWarmup(total_steps=40), losses) == 4
        assert steps_until_done(CriticWarmup(total_steps=None), losses) is None

    def test_never_goes_back(self):
        warmup = CriticWarmup(patience=1).updated(0.1, 1)
        assert warmup.done
        assert warmup.updated(99.0, 2).done

    def test_may_ask_for_explained_variance_instead(self):
        warmup = CriticWarmup(min_explained_variance=0.3, patience=2)
        warmup = warmup.updated(0.01, 1, explained_variance=0.1)
        warmup = warmup.updated(0.01, 2, explained_variance=0.4)
        assert not warmup.done
        assert warmup.updated(0.01, 3, explained_variance=0.4).done
        assert not warmup.updated(0.01, 3, explained_variance=0.2).done
        with pytest.raises(ValueError, match=r"expected explained_variance .*, got None"):
            warmup.updated(0.01, 3)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"patience": 0}, "expected patience >= 1, got 0"),
            ({"max_fraction": 1.5}, r"expected max_fraction in \[0, 1\], got 1.5"),
            ({"total_steps": 0}, "expected total_steps >= 1 or None, got 0"),
            ({"min_explained_variance": 1.5}, "expected min_explained_variance <= 1, got 1.5"),
        ],
    )
    def test_refuses_constants_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            CriticWarmup(**options)


def stops_at(beta, rule, regrets, values, may_stop_last):
    detector = make_detector(1, RegretStatistics(0.2, 0.5), beta=beta, rule=rule)
    for t, (g, v) in enumerate(zip(regrets, values, strict=True)):
        stop = detector.update(np.array([g], np.float32), np.array([v], np.float32)).stop[0]
        if stop and (t < len(regrets) - 1 or may_stop_last):
            return True
    return False


class TestCalibration:
    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 2**31),
        rule=st.sampled_from(["regret_value", "regret_only", "value_only"]),
        beta=st.floats(0.05, 4),
    )
    def test_critical_beta_is_where_the_detector_starts_to_stop(self, seed, rule, beta):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, 7, size=5)
        regrets = [rng.exponential(size=n).astype(np.float32) for n in lengths]
        values = [rng.uniform(-0.2, 1, size=n).astype(np.float32) for n in lengths]
        keep = rng.integers(0, 2, size=5).astype(bool) | (lengths == 0)
        critical = critical_betas(DetectorSettings(rule=rule), RegretStatistics(0.2, 0.5), regrets, values, keep)
        for i in range(5):
            if abs(critical[i] - beta) > 1e-4:
                assert stops_at(beta, rule, regrets[i], values[i], keep[i]) == (critical[i] > beta)

    def test_nothing_recorded_gives_nothing(self):
        assert critical_betas(DetectorSettings(), RegretStatistics(), [], [], []).shape == (0,)
        with pytest.raises(ValueError, match="expected at least one recorded response"):
            calibrate_beta(np.zeros(0), 0.25, (0.05, 50.0))

    def test_a_response_that_cannot_be_stopped_has_no_critical_beta(self):
        one = np.ones(1, np.float32)
        assert critical_betas(DetectorSettings(), RegretStatistics(), [one], [one], [False]).tolist() == [-math.inf]
        never = DetectorSettings(rule="never")
        assert (
            calibrate_beta(critical_betas(never, RegretStatistics(), [one], [one], [True]), 0.25, (0.05, 50.0)) == 0.05
        )

    @pytest.mark.parametrize(("target", "stopped"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
    def test_stops_the_share_that_was_aimed_at(self, target, stopped):
        critical = np.array([0.3, 0.9, 0.1, 2.0, 1.5, 0.7, 0.2, 0.4])
        beta = calibrate_beta(critical, target, (0.01, 50.0))
        assert (critical > beta).sum() == stopped

    def test_a_few_that_cannot_be_stopped_do_not_spoil_it(self):
        critical = np.array([1.0, 0.5, -math.inf, -math.inf])
        beta = calibrate_beta(critical, 0.5, (0.05, 50.0))
        assert (critical > beta).sum() == 2
        assert beta == pytest.approx(0.5)

    def test_stays_within_the_bounds(self):
        assert calibrate_beta(np.array([9.0, 8.0]), 0.5, (0.05, 3.0)) == 3.0
