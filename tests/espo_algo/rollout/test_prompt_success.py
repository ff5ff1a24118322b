from __future__ import annotations

import numpy as np
import pytest
from hand_made import make_episode

from espo_algo import TokenEpisode
from espo_algo.rollout import prompt_success
from espo_algo.rollout.plans import Planner, ResponsePlan
from espo_algo.rollout.prompt_success import PilotQueue, PromptSuccess
from espo_env.tasks import Problem
from espo_env.types import StopReason


def answer(index: int, correct: bool | None) -> TokenEpisode:
    reason = StopReason.REGRET if correct is None else StopReason.EOS
    return make_episode([1, 0], reason, correct=correct, problem=Problem("", "", index=index))


def test_the_rate_by_hand() -> None:
    success = PromptSuccess()
    assert success.rate(7) == 1.0
    success.update([answer(7, True), answer(8, False), answer(7, False), answer(7, None)])
    # One right of three, and one that is presumed.
    assert success.rate(7) == pytest.approx((1 + 1) / (1 + 3))
    assert success.rate(8) == pytest.approx(1 / 2)
    success.update([answer(7, True), answer(7, True)])
    assert success.rate(7) == pytest.approx((1 + 0.5 * 1 + 2) / (1 + 0.5 * 3 + 2))
    assert success.rate(8) == pytest.approx(1 / 2)
    assert success.rate(9) == 1.0


def test_the_problems_seen_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_success, "_MOST_PROBLEMS", 3)
    success = PromptSuccess()
    for index in (1, 2, 3, 1, 4):
        success.update([answer(index, False)])
    assert list(success.counts) == [3, 1, 4]
    assert success.rate(2) == 1.0


def test_what_is_known_comes_back() -> None:
    success, other = PromptSuccess(), PromptSuccess()
    success.update([answer(3, True), answer(5, False)])
    success.update([answer(3, False)])
    other.set_state(success.get_state())
    assert list(other.counts.items()) == list(success.counts.items())
    other.set_state(PromptSuccess().get_state())
    assert not other.counts


def test_pilots_are_the_first_responses_and_run_on() -> None:
    plans = Planner(lambda i: i, seed=0, rollouts_per_prompt=4, pilots=2).plans(range(8))
    assert [plan.pilot for plan in plans] == [plan.mark_only for plan in plans] == [True, True, False, False] * 2
    without = Planner(lambda i: i, seed=0, rollouts_per_prompt=4).plans(range(8))
    assert [plan.seed for plan in plans] == [plan.seed for plan in without]
    assert not any(plan.pilot or plan.mark_only for plan in without)


def ended(number: int, correct: bool, reason: StopReason = StopReason.EOS) -> TokenEpisode:
    return make_episode([1, 0], reason, correct=correct, request_id=number)


def test_the_others_wait_until_all_pilots_of_their_prompt_are_graded() -> None:
    plans = Planner(lambda i: i, seed=0, rollouts_per_prompt=4, pilots=2).plans(range(8))
    queue = PilotQueue(plans)
    assert (len(queue), queue.num_held) == (4, 4)
    assert queue.take(3) == [0, 1, 4]
    queue.answered(ended(1, True))
    assert queue.take(9) == [5]
    assert not queue
    queue.answered(ended(4, False))
    queue.answered(ended(5, False))
    assert queue.num_held == 2
    assert queue.take(9) == [6, 7]
    queue.answered(ended(6, True))  # no pilot
    queue.answered(ended(0, False))
    assert queue.num_held == 0
    assert queue.take(9) == [2, 3]
    assert [plan.prompt_success for plan in queue.plans] == [1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 0.0, 0.0]
    assert [plan.prompt_success for plan in plans] == [1.0] * 8


def test_a_lost_pilot_has_no_say_and_holds_nobody_up() -> None:
    plans = [ResponsePlan(0, i, 0, True, pilot=True) for i in range(2)] + [ResponsePlan(0, 9, 0, prompt_success=0.7)]
    queue = PilotQueue(plans)
    queue.take(2)
    queue.answered(ended(0, False, StopReason.ERROR))
    queue.answered(ended(1, True))
    assert queue.take(1) == [2]
    assert queue.plans[2].prompt_success == 1.0
    queue = PilotQueue(plans)
    queue.take(2)
    for number in range(2):
        queue.answered(ended(number, False, StopReason.ERROR))
    assert queue.take(1) == [2]
    assert queue.plans[2].prompt_success == 0.7


def test_without_pilots_the_order_is_that_of_the_plans() -> None:
    queue = PilotQueue(Planner(lambda i: i, seed=0, rollouts_per_prompt=2).plans(range(6)))
    assert (len(queue), queue.num_held) == (6, 0)
    assert queue.take(4) + queue.take(4) == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(queue.take(4), [])
