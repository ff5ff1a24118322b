from __future__ import annotations

import pickle
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_env.tasks import ArithmeticTask, Problem
from espo_env.tasks.arithmetic import chain_working


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("options", [{}, {"min_terms": 5, "max_terms": 6, "max_digits": 4}, {"max_digits": 1}])
def test_grades_its_own_solutions_as_right(options, split):
    ArithmeticTask(**options).validate(150, split)


def test_working_goes_from_left_to_right():
    assert chain_working([17, 25, 8], ["+", "-"]) == ("34", "17+25=42;42-8=34;#### 34")
    assert chain_working([5, 9], ["-"]) == ("-4", "5-9=-4;#### -4")
    assert chain_working([Decimal("4.20"), Decimal("0.8")], ["+"]) == ("5.00", "4.20+0.8=5.00;#### 5.00")


@settings(max_examples=40)
@given(index=st.integers(0, 2**31 - 1), split=st.sampled_from(["train", "eval"]))
def test_answer_and_working_are_true(index, split):
    problem = ArithmeticTask(max_terms=5, max_digits=3).problem(index, split)
    terms = re.findall(r"[+-]?\d+", problem.prompt.removesuffix("="))
    assert 2 <= len(terms) <= 5
    assert int(problem.answer) == sum(int(term) for term in terms)
    *lines, final = problem.solution.split(";")
    for line in lines:
        left, sign, right, result = re.fullmatch(r"(-?\d+)([+-])(\d+)=(-?\d+)", line).groups()
        assert int(left) + int(sign + right) == int(result)
    assert final == f"#### {problem.answer}"


@pytest.mark.parametrize(
    ("response", "correct"),
    [("#### 34", True), ("17+25=99;nonsense;#### 34", True), ("34", False), ("17+25-8=34;", False), ("#### 35", False)],
)
def test_the_final_answer_is_graded_and_not_the_working(response, correct):
    assert ArithmeticTask().grade(Problem("17+25-8=", "34"), response).correct is correct


def test_the_question_is_no_answer():
    assert not ArithmeticTask().grade(Problem("17+25-8=", "34"), "#### 17+25-8").correct


def test_problems_are_fixed_by_seed_and_index():
    task = ArithmeticTask(seed=3)
    copy = pickle.loads(pickle.dumps(task))
    assert [task.problem(i) for i in range(20)] == [copy.problem(i) for i in range(20)]
    assert [task.problem(i) for i in range(20)] != [ArithmeticTask(seed=4).problem(i) for i in range(20)]
    # Neighbouring seeds are no shifted copies of each other.
    assert task.problem(1) != ArithmeticTask(seed=4).problem(0)


def test_splits_share_no_problem_even_in_a_small_space():
    task = ArithmeticTask(max_terms=2, max_digits=1)
    train, evaluation = ({task.problem(i, split).prompt for i in range(1500)} for split in ("train", "eval"))
    assert len(train) + len(evaluation) == 200  # all there are: 10 * 10 * 2
    assert not train & evaluation


def test_numbers_of_each_length_come_up():
    prompts = [ArithmeticTask(max_digits=3).problem(i).prompt for i in range(100)]
    assert {len(number) for prompt in prompts for number in re.findall(r"\d+", prompt)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_terms": 1}, "expected 2 <= min_terms <= max_terms, got 1 and 4"),
        ({"min_terms": 5}, "expected 2 <= min_terms <= max_terms, got 5 and 4"),
        ({"max_digits": 0}, "expected max_digits >= 1, got 0"),
        ({"seed": -1}, "expected seed >= 0, got -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticTask(**options)


def test_indices_outside_the_split_are_an_error():
    with pytest.raises(IndexError, match=r"expected an index in \[0, 2147483648\) of split 'eval', got -1"):
        ArithmeticTask().problem(-1, "eval")
