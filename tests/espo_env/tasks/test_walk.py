from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_env.tasks import CycleTask, Problem, WalkTask

PLACES = "0123456789ab"
# 0 -> 3 -> 4 -> 6 -> ...: increments 3 1 2.
BY_HAND = Problem("311121111111>6:0", "331426", "331426")


def slow_walk(prompt):
    """The only right response, by following the table."""
    table, rest = prompt.split(">")
    goal, place = rest.split(":")
    out = ""
    while place != goal:
        increment = table[PLACES.index(place)]
        place = PLACES[(PLACES.index(place) + PLACES.index(increment)) % 12]
        out += increment + place
    return out


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("task", [WalkTask(), CycleTask(), WalkTask(9, 9), CycleTask(1, 1)])
def test_grades_its_own_solutions_as_right(task, split):
    task.validate(100, split)


@settings(max_examples=60)
@given(
    index=st.integers(0, 2**31 - 1),
    split=st.sampled_from(["train", "eval"]),
    task=st.sampled_from([WalkTask(), CycleTask(), WalkTask(2, 4, seed=5)]),
)
def test_solution_follows_the_table_in_the_steps_asked_for(index, split, task):
    problem = task.problem(index, split)
    assert problem.solution == problem.answer == slow_walk(problem.prompt)
    assert task.min_steps <= len(problem.answer) // 2 <= task.max_steps
    assert len(task.encode_prompt(problem)) == task.max_prompt_tokens == 16


@settings(max_examples=30)
@given(index=st.integers(0, 10_000))
def test_a_cycle_table_is_two_cycles_of_six(index):
    table = [PLACES.index(c) for c in CycleTask().problem(index).prompt[:12]]
    after = [(x + table[x]) % 12 for x in range(12)]
    for start in range(12):
        place, steps = after[start], 1
        while place != start:
            place, steps = after[place], steps + 1
        assert steps == 6


@pytest.mark.parametrize(
    ("response", "correct"), [("331426", True), ("33142", False), ("3314261", False), ("331427", False), ("", False)]
)
def test_the_whole_path_has_to_be_right(response, correct):
    assert WalkTask().grade(BY_HAND, response).correct is correct


@pytest.mark.parametrize(
    ("text", "first_error"),
    [
        ("331426$", -1),
        ("3314", -1),
        ("", -1),
        ("3$", 1),
        ("4", 0),
        ("331427", 5),
        ("3314261", 6),
        ("331426$$", 7),
        ("3324", 2),
    ],
)
def test_first_error_is_where_an_oracle_would_stop(text, first_error):
    task = WalkTask()
    tokens = [task.tokenizer.eos_token_id if c == "$" else task.tokenizer.encode(c)[0] for c in text]
    assert task.first_error(BY_HAND, tokens) == first_error


class TestSlips:
    def test_without_slips_it_is_the_solution(self):
        task = CycleTask()
        problem = task.problem(0)
        demonstration = task.slipped_demonstration(problem, np.random.default_rng(0), slip_rate=0.0)
        np.testing.assert_array_equal(demonstration, task.encode_solution(problem))

    @pytest.mark.parametrize("task", [WalkTask(), CycleTask()])
    def test_after_a_slip_the_walk_goes_on_faithfully(self, task):
        rng = np.random.default_rng(0)
        slipped = arrived = steps = slips = 0
        for index in range(200):
            problem = task.problem(index)
            table = [PLACES.index(c) for c in problem.prompt[:12]]
            goal, place = (PLACES.index(problem.prompt[i]) for i in (13, 15))
            tokens = task.slipped_demonstration(problem, rng, slip_rate=0.1, max_new_tokens=40)
            assert tokens.dtype == np.int32
            ended = tokens[-1] == task.tokenizer.eos_token_id
            text = task.tokenizer.decode(tokens)
            assert len(tokens) == 40 if not ended else len(tokens) == len(text) + 1
            wrong = []
            for step in range(len(text) // 2):
                assert PLACES.index(text[2 * step]) == table[place]
                should = (place + table[place]) % 12
                place = PLACES.index(text[2 * step + 1])
                if place != should:
                    wrong.append(2 * step + 1)
            assert (place == goal) == ended or len(text) == 40
            # A slip may land where the right path goes on; but the first wrong token is a slip.
            assert task.first_error(problem, tokens) == (wrong[0] if wrong else -1)
            slipped += bool(wrong)
            arrived += ended
            steps += len(text) // 2
            slips += len(wrong)
        assert slips / steps == pytest.approx(0.1, abs=0.03)
        assert 20 < slipped < 180
        assert arrived > 100

    def test_on_cycles_it_often_never_arrives(self):
        task, rng = CycleTask(), np.random.default_rng(0)
        lengths = {True: [], False: []}
        for index in range(300):
            problem = task.problem(index)
            tokens = task.slipped_demonstration(problem, rng, slip_rate=0.1, max_new_tokens=40)
            lengths[task.first_error(problem, tokens) >= 0].append(len(tokens))
        assert np.mean(lengths[True]) > 1.5 * np.mean(lengths[False])


def test_problems_are_fixed_by_seed_and_index_and_splits_are_disjoint():
    for kind in (WalkTask, CycleTask):
        task = kind(seed=3)
        copy = pickle.loads(pickle.dumps(task))
        problems = [task.problem(i) for i in range(50)]
        assert problems == [copy.problem(i) for i in range(50)]
        assert problems != [kind(seed=4).problem(i) for i in range(50)]
        assert not {p.prompt for p in problems} & {task.problem(i, "eval").prompt for i in range(50)}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WalkTask(0), "expected 1 <= min_steps <= max_steps <= 9, got 0 and 9"),
        (lambda: WalkTask(3, 10), "expected 1 <= min_steps <= max_steps <= 9, got 3 and 10"),
        (lambda: CycleTask(3, 6), "expected 1 <= min_steps <= max_steps <= 5, got 3 and 6"),
        (lambda: CycleTask(seed=-1), "expected seed >= 0, got -1"),
    ],
)
def test_wrong_options_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
