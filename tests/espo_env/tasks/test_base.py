from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from letter_task import LetterTask

from espo_env.tasks import ArithmeticTask, CycleTask, Problem, ReasoningGymTask, WalkTask

SOLVED = {
    "arithmetic": lambda: ArithmeticTask(3, 6, 1),
    "long chains": lambda: ArithmeticTask(8, 14, 1),
    "walk": WalkTask,
    "cycle": CycleTask,
    "search": lambda: ReasoningGymTask("path_star", prompt="compact", degree=4, node_range=36),
}


def test_a_problem_can_be_sent_to_another_process_and_hashed():
    problem = Problem("p", "a", metadata={"digits": [1, 2]})
    assert pickle.loads(pickle.dumps(problem)) == copy.deepcopy(problem) == problem
    assert hash(problem) == hash(Problem("p", "a"))
    assert Problem("p", "a").metadata == {}


def test_solutions_are_encoded_with_the_end_token(letters):
    problem = letters.problem(2)
    assert letters.encode_prompt(problem).tolist() == [3, 1, 2]
    assert letters.encode_solution(problem).tolist() == [3, 1, 2, 0]
    assert letters.encode_solution(problem).dtype == np.int32


def test_validation_names_a_solution_that_is_graded_wrong():
    class Wrong(LetterTask):
        def problem(self, index, split="train"):
            return Problem("a", "b", "a", index)

    with pytest.raises(ValueError, match="problem 0 of 'eval': expected its own solution 'a' to be graded right"):
        Wrong().validate(split="eval")


def test_validation_names_a_prompt_that_is_too_long():
    class Long(LetterTask):
        max_prompt_tokens = 3

    with pytest.raises(ValueError, match="problem 3 of 'train': expected a prompt of at most 3 tokens, got 4"):
        Long().validate()


def test_validation_passes_over_problems_without_solution():
    class Unsolved(LetterTask):
        def problem(self, index, split="train"):
            return Problem("a", "b", "", index)

    Unsolved().validate()


@pytest.fixture(scope="module", params=SOLVED)
def solved(request):
    if request.param == "search":
        pytest.importorskip("reasoning_gym")
    return SOLVED[request.param]()


class TestFirstError:
    @settings(max_examples=60, deadline=None)
    @given(index=st.integers(0, 9_999), data=st.data())
    def test_it_is_where_a_solution_was_corrupted(self, solved, index, data):
        problem = solved.problem(index, "eval")
        right = solved.encode_solution(problem)
        assert solved.first_error(problem, right) == -1
        place = data.draw(st.integers(0, len(right) - 1))
        assert solved.first_error(problem, right[:place]) == -1  # nothing wrong so far
        others = [solved.tokenizer.encode(text) for text in solved.right_responses(problem)]
        taken = {(*other, 0)[place] for other in others if other[:place] == right[:place].tolist()}
        assert right[place] in taken
        other = data.draw(st.sampled_from(sorted(set(range(solved.tokenizer.vocab_size)) - taken)))
        tail = data.draw(st.lists(st.integers(0, solved.tokenizer.vocab_size - 1), max_size=60))
        assert solved.first_error(problem, [*right[:place], other, *tail]) == place

    @settings(max_examples=40, deadline=None)
    @given(index=st.integers(0, 9_999), data=st.data())
    def test_a_wrong_response_that_ended_has_one(self, solved, index, data):
        problem = solved.problem(index, "eval")
        written = solved.encode_solution(problem).tolist()
        place = data.draw(st.integers(0, len(written) - 2))
        written[place] = data.draw(st.integers(1, solved.tokenizer.vocab_size - 1))
        correct = solved.grade(problem, solved.tokenizer.decode(written)).correct
        assert correct or solved.first_error(problem, written) >= place

    def test_writing_on_behind_the_end_is_one(self, letters):
        problem = letters.problem(2)
        assert letters.first_error(problem, [3, 1, 2, 0, 0]) == 4

    def test_it_needs_a_solution(self, letters):
        with pytest.raises(ValueError, match="expected a problem with a reference solution, got none for 'abc'"):
            letters.first_error(Problem("abc", "c"), [1])
