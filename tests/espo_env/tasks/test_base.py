from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from letter_task import LetterTask

from espo_env.tasks import Problem


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
