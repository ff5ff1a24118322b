from __future__ import annotations

import math

import numpy as np
import pytest
from hand_made import make_episode

from espo_algo import TokenEpisode
from espo_algo.regret_control import RegretControl
from espo_env.early_stopping import CriticWarmup, FailureDetector, RegretStatistics, ToleranceController
from espo_env.types import StopReason

DETECTOR = FailureDetector(1)
NEVER = 1e9


def with_regrets(*regrets: float, mark: int = -1) -> TokenEpisode:
    reason = StopReason.REGRET if mark >= 0 else StopReason.EOS
    return make_episode([1] * len(regrets), reason, regrets=regrets, values=[0.5] * len(regrets), mark=mark)


def updated(
    control: RegretControl, *episodes: TokenEpisode, loss: float = 9.0, explained: float = 0.0
) -> RegretControl:
    return control.updated(episodes or [with_regrets(1.0)], DETECTOR, loss, explained)


def test_statistics_start_from_the_first_batch_and_then_move_slowly() -> None:
    control = updated(RegretControl(), with_regrets(0.0, 4.0), with_regrets(2.0))
    assert control.statistics.mean == pytest.approx(2.0)
    assert control.statistics.var == pytest.approx(8 / 3)
    # Mean 5, variance 9.
    control = updated(control, with_regrets(2.0, 8.0))
    assert control.statistics.mean == pytest.approx(0.99 * 2.0 + 0.01 * 5.0)
    assert control.statistics.var == pytest.approx(0.99 * 8 / 3 + 0.01 * 9.0)
    assert control.num_updates == 2


def test_statistics_can_start_from_zero_and_one() -> None:
    control = RegretControl(statistics=RegretStatistics(momentum=0.5), start="zero_one")
    control = updated(control, with_regrets(2.0, 8.0))
    assert control.statistics.mean == pytest.approx(2.5)
    assert control.statistics.var == pytest.approx(5.0)
    control = updated(control, with_regrets(4.0))
    assert control.statistics.mean == pytest.approx(3.25)
    assert control.statistics.var == pytest.approx(2.5)


def test_the_papers_warm_up_ends_after_three_low_losses() -> None:
    control = RegretControl(warmup=CriticWarmup(change_threshold=0.0))
    done = []
    for loss in (0.4, 0.6, 0.45, 0.4, 0.3, 9.0):
        control = updated(control, loss=loss)
        done.append(control.warmup.done)
    assert done == [False, False, False, False, True, True]


def test_the_papers_warm_up_ends_where_the_loss_settles() -> None:
    control = RegretControl()
    done = []
    for loss in (9.0, 8.0, 7.95):
        control = updated(control, loss=loss)
        done.append(control.warmup.done)
    assert done == [False, False, True]


def test_explained_variance_replaces_the_loss_and_nan_explains_nothing() -> None:
    control = RegretControl(warmup=CriticWarmup(min_explained_variance=0.2, patience=2))
    done = []
    for explained in (0.3, math.nan, 0.3, 0.1, 0.2, 0.5):
        control = updated(control, loss=0.0, explained=explained)
        done.append(control.warmup.done)
    assert done == [False, False, False, False, False, True]


def test_the_warm_up_is_forced_after_a_tenth_of_the_planned_updates() -> None:
    control = RegretControl(warmup=CriticWarmup(total_steps=30))
    done = []
    for loss in (90.0, 80.0, 70.0):
        control = updated(control, loss=loss)
        done.append(control.warmup.done)
    assert done == [False, False, True]


def test_the_controller_answers_only_to_batches_collected_with_stopping_on() -> None:
    stopped, kept = with_regrets(1.0, mark=0), with_regrets(1.0)
    control = RegretControl(
        controller=ToleranceController(beta=1.0, rate=0.1, target=0.25), warmup=CriticWarmup(total_steps=20)
    )
    control = updated(control, stopped, loss=NEVER)
    assert not control.engine_state.enabled
    assert control.controller.beta == 1.0
    # This batch ends the warm-up, but was collected without stopping.
    control = updated(control, stopped)
    assert control.engine_state.enabled
    assert control.controller.beta == 1.0
    control = updated(control, stopped, stopped, stopped, kept)
    assert control.controller.beta == pytest.approx(1.0 + 0.1 * (0.75 - 0.25))
    control = updated(control, kept)
    assert control.engine_state.beta == pytest.approx(1.05 - 0.1 * 0.25)


def test_marked_responses_count_as_stopped() -> None:
    marked = make_episode([1, 0], regrets=[1.0, 1.0], values=[0.5, 0.5], mark=0)
    control = RegretControl(controller=ToleranceController(beta=1.0, target=0.5), warmup=CriticWarmup(done=True))
    assert updated(control, marked).controller.beta == pytest.approx(1.05)


def stop_rate(control: RegretControl, detector: FailureDetector, episodes: list[TokenEpisode]) -> float:
    """What share of the rollouts the detector would have stopped; never on a last token that ended by itself."""
    stops = 0
    for episode in episodes:
        state = control.engine_state
        replay = FailureDetector(1, state.statistics, state.beta, detector.smoothing, rule=detector.rule)
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
    detector = FailureDetector(1, smoothing=0.8, rule=rule)
    control = RegretControl(
        controller=ToleranceController(target=target, bounds=(1e-3, 1e3)),
        warmup=CriticWarmup(total_steps=20),
        calibrate=True,
    )
    control = control.updated(episodes, detector, NEVER, 0.0)
    assert control.controller.beta == 7.0
    control = control.updated(episodes, detector, NEVER / 2, 0.0)
    assert control.warmup.done
    assert control.controller.beta != 7.0
    assert stop_rate(control, detector, episodes) == pytest.approx(target)
    # Afterwards the controller has it.
    following = control.updated(episodes, detector, NEVER, 0.0)
    assert following.controller.beta == control.controller.updated(0.0).beta


def test_beta_is_left_alone_where_it_was_given() -> None:
    control = RegretControl(warmup=CriticWarmup(total_steps=10))
    control = updated(control, with_regrets(1.0, 2.0))
    assert control.warmup.done
    assert control.controller.beta == 7.0


def test_the_state_before_is_not_changed() -> None:
    control = RegretControl()
    updated(control, with_regrets(3.0))
    assert (control.statistics.mean, control.num_updates) == (0.0, 0)
