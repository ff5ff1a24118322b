from __future__ import annotations

import math

import pytest
from hand_made import make_episode

from espo_algo.evaluation.tails import failure_tails
from espo_env.tasks import Problem, WalkTask
from espo_env.types import StopReason

TASK = WalkTask()
# 0 -> 3 -> 4 -> 6: increments 3 1 2.
PROBLEM = Problem("311121111111>6:0", "331426", "331426")


def written(text, reason=StopReason.EOS, correct=False):
    """A response; ``$`` is the end-of-sequence token."""
    tokens = [TASK.tokenizer.eos_token_id if c == "$" else TASK.tokenizer.encode(c)[0] for c in text]
    return make_episode(tokens, reason, correct=correct, problem=PROBLEM)


RIGHT = written("331426$", correct=True)
EARLY = written("4433221100", StopReason.LENGTH)  # wrong at once: nine tokens behind it
LATE = written("33142$")  # wrong where it ends: none behind it
ON_ITS_WAY = written("3314", StopReason.LENGTH)  # cut before anything was wrong


def test_tokens_behind_the_first_errors_are_counted_by_hand():
    tails = failure_tails(TASK, [RIGHT, EARLY, LATE, ON_ITS_WAY])
    assert tails.right_length == 7
    assert tails.failed_length == (10 + 6 + 4) / 3
    assert tails.first_error == (0 + 5) / 2
    assert tails.oracle_saving == 9 / (7 + 10 + 6 + 4)
    assert tails.half_saving == tails.oracle_saving / 2


def test_responses_of_one_kind():
    tails = failure_tails(TASK, [RIGHT])
    assert (tails.right_length, tails.oracle_saving) == (7, 0)
    assert math.isnan(tails.failed_length)
    assert math.isnan(tails.first_error)
    assert math.isnan(failure_tails(TASK, [LATE]).right_length)


def test_lost_responses_are_left_out():
    lost = make_episode([1, 2], StopReason.ERROR)
    assert failure_tails(TASK, [RIGHT, EARLY, lost]) == failure_tails(TASK, [RIGHT, EARLY])
    with pytest.raises(ValueError, match="expected at least one finished response, got none among 1"):
        failure_tails(TASK, [lost])


def test_stopped_responses_have_no_tail_to_measure():
    with pytest.raises(ValueError, match="expected responses that ran on, got 1 that were stopped"):
        failure_tails(TASK, [RIGHT, make_episode([1, 2], StopReason.REGRET)])


def test_the_problem_has_to_be_there():
    with pytest.raises(ValueError, match="expected responses with their problems, got one without"):
        failure_tails(TASK, [make_episode([1, 2], correct=False)])
