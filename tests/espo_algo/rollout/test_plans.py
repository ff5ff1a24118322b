"""Which responses are collected."""

from __future__ import annotations

import numpy as np
import pytest

from espo_algo.rollout.noise import request_noise
from espo_algo.rollout.plans import Planner, share_out


def test_responses_to_a_prompt_share_its_problem_and_group_and_have_seeds_of_their_own():
    plans = Planner(lambda i: 10 * i, seed=3, rollouts_per_prompt=3).plans(range(6))
    assert [plan.problem_index for plan in plans] == [0, 0, 0, 10, 10, 10]
    assert [plan.group for plan in plans] == [0, 0, 0, 1, 1, 1]
    assert len({plan.seed for plan in plans}) == 6
    assert not any(plan.mark_only for plan in plans)


def test_a_plan_depends_on_the_seed_and_its_number_alone():
    planner = Planner(lambda i: i, seed=1, shadow_fraction=0.5)
    together = planner.plans(range(40))
    assert planner.plans(range(20)) + planner.plans(range(20, 40)) == together
    assert planner.plans([17, 3]) == [together[17], together[3]]
    other = Planner(lambda i: i, seed=2, shadow_fraction=0.5).plans(range(40))
    assert not {plan.seed for plan in together} & {plan.seed for plan in other}


@pytest.mark.parametrize(("fraction", "marked"), [(0.0, 0), (1.0, 50)])
def test_none_or_all_are_only_marked(fraction, marked):
    assert sum(plan.mark_only for plan in Planner(lambda i: i, 0, shadow_fraction=fraction).plans(range(50))) == marked


def test_shadow_responses_are_a_random_share():
    """They were not: the draw that chose them was the uniform that the second token is drawn with."""
    plans = Planner(lambda i: i, seed=0, shadow_fraction=0.2).plans(range(8000))
    shadow = np.array([plan.mark_only for plan in plans])
    # Four standard errors.
    assert shadow.mean() == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(len(plans)))
    noise = [request_noise(plan.seed, 6) for plan in plans]
    uniforms, exponentials = np.array([u for u, _ in noise]), np.array([e for _, e in noise])
    low_bits = uniforms * 2**24 % 1
    for column in (*uniforms.T, *low_bits.T, exponentials):
        assert abs(np.corrcoef(shadow, column)[0, 1]) < 4 / np.sqrt(len(plans))


@pytest.mark.parametrize("runners", [1, 2, 3, 7])
def test_every_plan_is_answered_by_one_runner_and_a_prompts_by_the_same(runners):
    plans = Planner(lambda i: i, seed=0, rollouts_per_prompt=3).plans(range(2, 17))  # starts within a prompt
    shares = share_out(plans, runners)
    assert len(shares) == runners
    assert sorted(place for share in shares for place in share) == list(range(15))
    assert all(share == sorted(share) for share in shares)
    prompts = [{plans[place].group for place in share} for share in shares]
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 6
    assert max(map(len, prompts)) - min(map(len, prompts)) <= 1
