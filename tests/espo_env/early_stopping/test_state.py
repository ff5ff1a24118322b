from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hand_made import make_episode

from espo_algo import TokenEpisode
from espo_env.early_stopping import (
    CriticWarmup,
    DetectorSettings,
    EarlyStoppingState,
    FailureDetector,
    FalsePositiveController,
    RegretStatistics,
    ToleranceController,
)
from espo_env.types import Segment, StopReason

SETTINGS = DetectorSettings()
NEVER = 1e9


def with_regrets(*regrets: float, mark: int = -1) -> TokenEpisode:
    reason = StopReason.REGRET if mark >= 0 else StopReason.EOS
    return make_episode([1] * len(regrets), reason, regrets=regrets, values=[0.5] * len(regrets), mark=mark)


def updated(
    state: EarlyStoppingState, *episodes: TokenEpisode, loss: float = 9.0, explained: float = 0.0
) -> EarlyStoppingState:
    return state.updated(episodes or [with_regrets(1.0)], SETTINGS, loss, explained)


def test_statistics_start_from_the_first_batch_and_then_move_slowly() -> None:
    state = updated(EarlyStoppingState(), with_regrets(0.0, 4.0), with_regrets(2.0))
    assert state.statistics.mean == pytest.approx(2.0)
    assert state.statistics.var == pytest.approx(8 / 3)
    # Mean 5, variance 9.
    state = updated(state, with_regrets(2.0, 8.0))
    assert state.statistics.mean == pytest.approx(0.99 * 2.0 + 0.01 * 5.0)
    assert state.statistics.var == pytest.approx(0.99 * 8 / 3 + 0.01 * 9.0)
    assert state.num_updates == 2


def test_statistics_can_start_from_zero_and_one() -> None:
    state = EarlyStoppingState(statistics=RegretStatistics(momentum=0.5), start="zero_one")
    state = updated(state, with_regrets(2.0, 8.0))
    assert state.statistics.mean == pytest.approx(2.5)
    assert state.statistics.var == pytest.approx(5.0)
    state = updated(state, with_regrets(4.0))
    assert state.statistics.mean == pytest.approx(3.25)
    assert state.statistics.var == pytest.approx(2.5)


def test_the_papers_warm_up_ends_after_three_low_losses() -> None:
    state = EarlyStoppingState(warmup=CriticWarmup(change_threshold=0.0))
    done = []
    for loss in (0.4, 0.6, 0.45, 0.4, 0.3, 9.0):
        state = updated(state, loss=loss)
        done.append(state.warmup.done)
    assert done == [False, False, False, False, True, True]


def test_the_papers_warm_up_ends_where_the_loss_settles() -> None:
    state = EarlyStoppingState()
    done = []
    for loss in (9.0, 8.0, 7.95):
        state = updated(state, loss=loss)
        done.append(state.warmup.done)
    assert done == [False, False, True]


def test_explained_variance_replaces_the_loss_and_nan_explains_nothing() -> None:
    state = EarlyStoppingState(warmup=CriticWarmup(min_explained_variance=0.2, patience=2))
    done = []
    for explained in (0.3, math.nan, 0.3, 0.1, 0.2, 0.5):
        state = updated(state, loss=0.0, explained=explained)
        done.append(state.warmup.done)
    assert done == [False, False, False, False, False, True]


def test_the_warm_up_is_forced_after_a_tenth_of_the_planned_updates() -> None:
    state = EarlyStoppingState(warmup=CriticWarmup(total_steps=30))
    done = []
    for loss in (90.0, 80.0, 70.0):
        state = updated(state, loss=loss)
        done.append(state.warmup.done)
    assert done == [False, False, True]


def test_the_controller_answers_only_to_batches_collected_with_stopping_on() -> None:
    stopped, kept = with_regrets(1.0, mark=0), with_regrets(1.0)
    state = EarlyStoppingState(
        tolerance=ToleranceController(beta=1.0, rate=0.1, target=0.25), warmup=CriticWarmup(total_steps=20)
    )
    state = updated(state, stopped, loss=NEVER)
    assert not state.detector_state.enabled
    assert state.tolerance.beta == 1.0
    # This batch ends the warm-up, but was collected without stopping.
    state = updated(state, stopped)
    assert state.detector_state.enabled
    assert state.tolerance.beta == 1.0
    state = updated(state, stopped, stopped, stopped, kept)
    assert state.tolerance.beta == pytest.approx(1.0 + 0.1 * (0.75 - 0.25))
    state = updated(state, kept)
    assert state.detector_state.beta == pytest.approx(1.05 - 0.1 * 0.25)


def test_marked_responses_count_as_stopped() -> None:
    marked = make_episode([1, 0], regrets=[1.0, 1.0], values=[0.5, 0.5], mark=0)
    state = EarlyStoppingState(tolerance=ToleranceController(beta=1.0, target=0.5), warmup=CriticWarmup(done=True))
    assert updated(state, marked).tolerance.beta == pytest.approx(1.05)


def stop_rate(state: EarlyStoppingState, settings: DetectorSettings, episodes: list[TokenEpisode]) -> float:
    """What share of the rollouts the detector would have stopped; never on a last token that ended by itself."""
    stops = 0
    for episode in episodes:
        replay = FailureDetector(1, settings, state.detector_state)
        fired = [
            bool(replay.update(episode.regrets[t : t + 1], episode.values[t : t + 1]).stop[0])
            for t in range(len(episode))
        ]
        stops += any(fired[:-1])
    return stops / len(episodes)


@pytest.mark.parametrize("rule", ["regret_value", "regret_only", "value_only"])
@pytest.mark.parametrize("target", [0.1, 0.25, 0.5])
def test_auto_beta_would_have_stopped_the_target_share_of_the_same_rollouts(rule: str, target: float) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        make_episode([1] * n, regrets=rng.exponential(size=n), values=rng.uniform(0.0, 1.0, n))
        for n in rng.integers(3, 30, 40)
    ]
    settings = DetectorSettings(rule, smoothing=0.8)
    state = EarlyStoppingState(
        tolerance=ToleranceController(target=target, bounds=(1e-3, 1e3)),
        warmup=CriticWarmup(total_steps=20),
        calibrate=True,
    )
    state = state.updated(episodes, settings, NEVER, 0.0)
    assert state.tolerance.beta == 7.0
    state = state.updated(episodes, settings, NEVER / 2, 0.0)
    assert state.warmup.done
    assert state.tolerance.beta != 7.0
    assert stop_rate(state, settings, episodes) == pytest.approx(target)
    # Afterwards the controller has it.
    following = state.updated(episodes, settings, NEVER, 0.0)
    assert following.tolerance.beta == state.tolerance.updated(0.0).beta


def test_a_batch_that_was_collected_before_stopping_began_moves_no_tolerance() -> None:
    """Sampling beside learning: the batch behind the one that ends the warm-up was collected without stops, too."""
    begun = EarlyStoppingState(warmup=CriticWarmup(patience=1), calibrate=True)
    state = updated(begun, with_regrets(1.0, 2.0), loss=0.0)
    assert state.warmup.done
    batch = [with_regrets(1.0, 2.0, 3.0)]
    late = state.updated(batch, SETTINGS, 0.0, 0.0, collected_with=begun.detector_state)
    assert late.tolerance == state.tolerance
    assert late.statistics.mean > state.statistics.mean
    assert late.updated(batch, SETTINGS, 0.0, 0.0, collected_with=state.detector_state).tolerance.beta < 7.0


def test_a_response_that_ran_on_tells_of_stops_from_the_tolerance_that_marked_it() -> None:
    tolerance = FalsePositiveController(beta=3.0, may_stop=True)
    state = EarlyStoppingState(tolerance=tolerance, warmup=CriticWarmup(done=True))
    marked = with_regrets(1.0, 9.0, 1.0)
    marked.mark = 1
    for collected_with, known_from in (
        (None, 3.0),
        (replace(state.detector_state, beta=2.0), 2.0),
        (replace(state.detector_state, enabled=False), -math.inf),
    ):
        (audited,) = state.updated([marked], SETTINGS, 0.0, 0.0, collected_with).tolerance.audited
        assert audited.known_from == known_from


def test_beta_is_left_alone_where_it_was_given() -> None:
    state = EarlyStoppingState(warmup=CriticWarmup(total_steps=10))
    state = updated(state, with_regrets(1.0, 2.0))
    assert state.warmup.done
    assert state.tolerance.beta == 7.0


def test_the_state_before_is_not_changed() -> None:
    state = EarlyStoppingState()
    updated(state, with_regrets(3.0))
    assert (state.statistics.mean, state.num_updates) == (0.0, 0)


@pytest.mark.parametrize("rule", [SETTINGS.rule, "never"])
@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("tolerance", [ToleranceController(), FalsePositiveController()])
def test_an_update_reads_the_columns_it_names_and_no_others(tolerance, calibrate: bool, rule: str) -> None:
    """Batches come without what is not named, whichever of them ends the warm-up."""
    settings = DetectorSettings(rule=rule)
    state = EarlyStoppingState(tolerance=tolerance, calibrate=calibrate, warmup=CriticWarmup(total_steps=20))
    named = set()
    for step in range(4):
        rng = np.random.default_rng(step)
        whole = [
            make_episode([1] * 9, regrets=rng.exponential(size=9), values=rng.random(9), shadow=bool(i % 2))
            for i in range(8)
        ]
        left = [e.without_traces(keep=state.columns_read(settings)) for e in whole]
        named.add(state.columns_read(settings))
        expected = state.updated(whole, settings, NEVER, 0.0)
        assert state.updated(left, settings, NEVER, 0.0) == expected
        state = expected
    assert state.warmup.done
    assert len(named) == (2 if calibrate and rule != "never" and isinstance(tolerance, ToleranceController) else 1)


def test_the_controller_answers_to_the_rates_it_is_given_where_batches_are_no_fair_sample() -> None:
    state = EarlyStoppingState(tolerance=ToleranceController(beta=1.0, target=0.25), warmup=CriticWarmup(done=True))
    stopped = [with_regrets(1.0, mark=0)]
    for rates in ([], [0.5], [0.5, 0.0]):
        expected = state.tolerance
        for rate in rates:
            expected = expected.updated(rate)
        assert state.updated(stopped, SETTINGS, 0.0, 0.0, stop_rates=rates).tolerance == expected
    # Before stopping is on there is nothing to answer to, and the batch that ends the warm-up sets beta.
    begun = EarlyStoppingState(warmup=CriticWarmup(patience=1), calibrate=True)
    batch = [with_regrets(1.0, 2.0)]
    assert begun.updated(batch, SETTINGS, 0.0, 0.0, stop_rates=[]) == begun.updated(batch, SETTINGS, 0.0, 0.0)


def test_a_response_that_might_have_been_stopped_in_any_segment_tells_nothing_of_wrong_stops() -> None:
    state = EarlyStoppingState(tolerance=FalsePositiveController(beta=3.0), warmup=CriticWarmup(done=True))
    on, off = Segment(1, 1, True), Segment(1, 0, False)
    assert not state.detector_state.enabled
    for segments, shadow, told in (
        ((off, off), False, True),
        ((off, on), False, False),
        ((on, on), False, False),
        ((off, on), True, True),
        ((), False, True),
    ):
        response = with_regrets(1.0, 2.0)
        response.segments, response.shadow = segments, shadow
        audited = state.updated([response], SETTINGS, 0.0, 0.0).tolerance.audited
        assert [a.known_from for a in audited] == [-math.inf] * told
