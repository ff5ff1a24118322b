"""Which responses are in flight and which are learnt from, without any engine: lengths are drawn, runners may die."""

import math

import numpy as np
import pytest
from hand_made import make_episode
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_algo.rollout.carried import Carried
from espo_algo.rollout.next_plans import NextPlans
from espo_algo.rollout.partial import PartialResponse
from espo_algo.rollout.plans import Planner, quotas
from espo_algo.rollout.runners import Answers
from espo_algo.rollout.stop_rates import StopRates
from espo_env.types import TRACE_COLUMNS, Segment, StopReason

SIZE = 12


def partial_of(length: int, segments: tuple) -> PartialResponse:
    return PartialResponse(
        np.ones(length, np.int32), np.zeros((len(TRACE_COLUMNS), length), np.float32), -1, 0, segments
    )


def rollout(asked, version: int, length_of: dict[int, int], slots: int, lose: float, rng) -> Answers:
    """What runners make of it: ``slots`` at a time, a token each a step, until enough are over."""
    waiting, live, came = list(range(len(asked.plans))), {}, {}
    awaited = {place for place, plan in enumerate(asked.plans) if plan.awaited}

    def answer(place: int, written: int) -> object:
        before = asked.plans[place].partial or PartialResponse()
        new = written - len(before)
        segments = (*before.segments, Segment(new, version, True)) if new else before.segments
        if written < length_of[asked.numbers[place]]:
            return partial_of(written, segments)
        return make_episode([1] * written, StopReason.EOS, segments=segments, weights_version=version)

    while (len(came) < asked.enough or awaited) and (waiting or live):
        while waiting and len(live) < slots:
            place = waiting.pop(0)
            live[place] = 0 if (p := asked.plans[place].partial) is None else len(p)
        for place in [*live]:
            live[place] += 1
            if live[place] == length_of[asked.numbers[place]]:
                came[place] = answer(place, live.pop(place))
                awaited.discard(place)
    came |= {place: answer(place, written) for place, written in live.items()}
    came |= {place: asked.plans[place].partial or PartialResponse() for place in waiting}
    return Answers.of(asked.plans, {place: a for place, a in came.items() if rng.random() >= lose})


@settings(max_examples=60, deadline=None)
@given(
    fraction=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    most=st.integers(1, 3),
    slots=st.integers(1, 30),
    ahead=st.integers(0, 1),
    lose=st.sampled_from([0.0, 0.0, 0.1]),
    seed=st.integers(0, 999),
)
def test_each_plan_is_learnt_from_once_or_lost_and_none_is_older_than_it_may_be(
    fraction, most, slots, ahead, lose, seed
):
    rng = np.random.default_rng(seed)
    length_of = {n: int(1 + rng.pareto(1.0) * 3) if rng.random() < 0.9 else 60 for n in range(40 * SIZE)}
    length_of = {n: min(length, 200) for n, length in length_of.items()}
    plans, carried = NextPlans(Planner(lambda i: i, seed=0)), Carried()
    learnt, lost, written, options = [], [], 0, {"fraction": fraction, "max_updates": most}
    pending = []
    for update in range(12):
        version = max(0, update - ahead) if pending else update
        if not pending:
            pending.append((carried.ask(plans, SIZE, version, **options), version))
        asked, version = pending.pop()
        answers = rollout(asked, version, length_of, slots, lose, rng)
        came = {asked.numbers[place] for place in answers.episodes | answers.unfinished}
        lost += [number for number in asked.numbers if number not in came]
        written += answers.tokens
        picked = carried.pick(asked, answers, SIZE, version, most)
        assert [*picked] == sorted(picked)
        assert len(picked) == SIZE or lost
        assert fraction or not carried.num_finished + carried.num_unfinished
        for episode in picked.values():
            assert update - episode.first_version <= (most if fraction else 0) + ahead
            assert sum(segment.tokens for segment in episode.segments) == len(episode)
        if update == 0 and not lost:
            assert [*picked] == [*range(SIZE)]
        learnt += picked.items()
        restored = Carried()
        restored.set_state(carried.get_state())
        carried = restored
        if ahead:
            pending.append((carried.ask(plans, SIZE, update, **options), update))
    numbers = [number for number, _ in learnt]
    assert len({*numbers}) == len(numbers)
    assert not {*numbers} & {*lost}
    # What is learnt from, lost or in flight is what was planned.
    asked = pending[0][0] if pending else carried.ask(plans, SIZE, 12, **options)
    in_flight = {*asked.numbers, *carried.get_state()["finished"]}
    assert sorted([*numbers, *lost, *in_flight]) == [*range(plans.number)]
    if not lost:
        left = [len(plan.partial or ()) for plan in asked.plans]
        left += [len(episode) for _, episode in carried.get_state()["finished"].values()]
        assert written == sum(len(episode) for _, episode in learnt) + sum(left)
        assert all(len(episode) == length_of[number] for number, episode in learnt)


def test_the_oldest_plans_come_first_and_other_weights_than_the_next_ones_begin_anew():
    plans, carried = NextPlans(Planner(lambda i: i, seed=0)), Carried()
    asked = carried.ask(plans, SIZE, 0, fraction=0.5, max_updates=2)
    assert [plan.awaited for plan in asked.plans] == [True] * SIZE + [False] * (SIZE // 2)
    assert asked.enough == SIZE
    seeds = [plan.seed for plan in asked.plans]
    over = make_episode([1, 1], segments=(Segment(2, 0, True),))
    left = Answers(
        dict.fromkeys(range(SIZE), over), {SIZE + i: partial_of(3, (Segment(3, 0, True),)) for i in range(6)}
    )
    carried.pick(asked, left, SIZE, 0, 2)
    second = carried.ask(plans, SIZE, 2, fraction=0.5, max_updates=2)
    assert [*second.numbers] == [*range(SIZE, SIZE + 18)]
    assert [plan.seed for plan in second.plans[:6]] == seeds[SIZE:]
    assert [plan.awaited for plan in second.plans] == [True] * 6 + [False] * 12
    carried.ask_again(second)
    assert [plan.partial for plan in carried.ask(plans, SIZE, 2, fraction=0.5).plans] == [None] * 18
    # Learners that were restored alone: what newer weights began, or ones that are too old, is written anew.
    for version in (-1, 3):
        carried.pick(second, Answers({}, {0: partial_of(3, (Segment(3, 0, True),))}), SIZE, 0, 2)
        again = carried.ask(plans, SIZE, version, max_updates=2)
        assert again.plans[0].partial is None
        assert again.plans[0].seed == seeds[SIZE]


@given(sizes=st.lists(st.integers(0, 50), max_size=6), share=st.floats(0, 1))
def test_quotas_add_up_and_ask_nobody_for_more_than_it_has(sizes, share):
    enough = math.floor(share * sum(sizes))
    each = quotas(sizes, enough)
    assert sum(each) == enough
    assert all(quota <= size for quota, size in zip(each, sizes, strict=True))


def fate(mark: int = -1, *stopping: bool) -> object:
    segments = tuple(Segment(1, i, on) for i, on in enumerate(stopping))
    reason = StopReason.REGRET if mark >= 0 else StopReason.EOS
    return make_episode([1] * max(1, len(stopping)), reason, mark=mark, segments=segments)


def test_stop_rates_are_those_of_consecutive_plans_as_soon_as_all_of_them_are_known():
    rates = StopRates()
    # What is over first was stopped; what runs on comes later.
    assert rates.known(4, {0: fate(0, True), 2: fate(0, True), 4: fate(0, True), 5: fate(0, True)}, []) == []
    assert rates.known(4, {1: fate(-1, True, True), 6: fate(-1, True)}, []) == []
    again = StopRates()
    again.set_state(rates.get_state())
    assert again.known(4, {3: fate(-1, True, True)}, lost=[7]) == [0.5, pytest.approx(2 / 3)]
    # What might have been stopped before stopping was on does not count; nor what cannot be learnt from.
    broken = make_episode([], StopReason.ERROR)
    assert again.known(4, {8: fate(-1, False, True), 9: fate(-1, False), 10: fate(-1, True), 11: broken}, []) == [0.0]
    assert again.known(4, {12 + i: fate(-1, False) for i in range(4)}, []) == []
    assert again.known(4, {16 + i: fate(0, True) for i in range(4)}, []) == [1.0]


def test_the_rates_of_all_plans_are_unbiased_where_those_of_batches_are_not():
    """Stopped responses are over after a token, the others after four; 30 % are stopped."""
    rng = np.random.default_rng(0)
    stopped = rng.random(40 * SIZE) < 0.3
    length_of = {n: 1 if stopped[n] else 4 for n in range(len(stopped))}
    plans, carried, rates, known = NextPlans(Planner(lambda i: i, seed=0)), Carried(), StopRates(), []
    for version in range(12):
        asked = carried.ask(plans, SIZE, version, fraction=1.0, max_updates=2)
        answers = rollout(asked, version, length_of, 24, 0.0, rng)
        for place, episode in answers.episodes.items():
            episode.mark = 0 if stopped[asked.numbers[place]] else -1
        picked = carried.pick(asked, answers, SIZE, version, 2)
        known += rates.known(SIZE, picked, [])
    assert len(known) >= 9
    assert known == [stopped[i * SIZE : (i + 1) * SIZE].mean() for i in range(len(known))]
