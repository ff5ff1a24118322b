"""Responses as JSON Lines: nothing is lost on the way, and a killed run can go on."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from espo_algo.episodes import TokenEpisode
from espo_algo.evaluation.response_log import ResponseLog, to_episode, to_record
from espo_env.grading import Grade
from espo_env.tasks import ArithmeticTask
from espo_env.types import StopReason

TASK = ArithmeticTask()
SOURCE = {"model": "m", "samples": 2}


def response(index: int = 3, **changes: object) -> TokenEpisode:
    problem = TASK.problem(index)
    tokens = TASK.encode_solution(problem)
    columns = {name: np.linspace(0, 1, len(tokens), dtype=np.float32) for name in ("regrets", "values", "z")}
    return TokenEpisode(
        prompt_tokens=TASK.encode_prompt(problem),
        response_tokens=tokens,
        stop_reason=StopReason.EOS,
        reward=1.0,
        correct=True,
        grade=Grade(True, problem.answer, "equal"),
        problem=problem,
        mark=1,
        seed=2**62 + 1,
        thresholds=np.full(len(tokens), np.inf, np.float32),
        **columns,
        **changes,
    )


def open_log(path, source=SOURCE, columns=True):
    return ResponseLog(path, source, TASK.tokenizer, columns)


def test_a_response_comes_back_from_json():
    before = response()
    record = to_record(before, TASK.tokenizer, columns=True)
    after = to_episode(json.loads(json.dumps(record, allow_nan=False)))
    for name in ("stop_reason", "reward", "correct", "grade", "mark", "seed", "error"):
        assert getattr(after, name) == getattr(before, name)
    assert (after.problem.prompt, after.problem.answer, after.problem.index) == (
        before.problem.prompt,
        before.problem.answer,
        3,
    )
    for name in ("prompt_tokens", "response_tokens"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name in ("regrets", "values", "z", "thresholds"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-3)
    assert math.isinf(after.thresholds[0])


def test_a_lost_response_and_one_without_columns_come_back():
    nothing = np.zeros(0, np.int32)
    lost = to_episode(to_record(TokenEpisode(nothing, nothing, StopReason.ERROR, error="X"), TASK.tokenizer, True))
    assert (lost.stop_reason, lost.error, lost.problem, lost.grade, len(lost)) == (StopReason.ERROR, "X", None, None, 0)
    assert len(to_episode(to_record(response(), TASK.tokenizer, columns=False)).regrets) == 0


def test_what_was_appended_is_there_after_opening_again(tmp_path):
    path = tmp_path / "new" / "r.jsonl"
    with open_log(path) as log:
        assert log.episodes == {}
        log.append(5, response(3))
        log.append(0, response(4))
    with open_log(path) as log:
        assert sorted(log.episodes) == [0, 5]
        assert log.episodes[0].problem.index == 4
        log.append(1, response(6))
    assert len(path.read_text("utf-8").splitlines()) == 4


def test_every_response_is_in_the_file_before_the_next_one(tmp_path):
    log = open_log(tmp_path / "r.jsonl")
    log.append(0, response())
    assert len((tmp_path / "r.jsonl").read_text("utf-8").splitlines()) == 2
    log.close()


@pytest.mark.parametrize("kept", [0.5, 0.999, 1.0])
def test_a_half_written_line_is_cut_off(tmp_path, kept):
    path = tmp_path / "r.jsonl"
    with open_log(path) as log:
        log.append(0, response(3))
        whole = path.stat().st_size
        log.append(1, response(4))
    content = path.read_bytes()
    path.write_bytes(content[: whole + int(kept * (len(content) - whole))])
    with open_log(path) as log:
        assert sorted(log.episodes) == ([0, 1] if kept == 1.0 else [0])
        log.append(2, response(5))
    with open_log(path) as log:
        assert 2 in log.episodes


def test_responses_of_something_else_are_refused(tmp_path):
    open_log(tmp_path / "r.jsonl").close()
    with pytest.raises(ValueError, match=r"r\.jsonl: .* samples 2 \(now 3\); choose another output"):
        open_log(tmp_path / "r.jsonl", SOURCE | {"samples": 3})


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"problem": "1+1"}\n')
    with pytest.raises(ValueError, match=r"model None \(now 'm'\)"):
        open_log(tmp_path / "r.jsonl")


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    open_log(tmp_path / "r.jsonl").close()
    with (tmp_path / "r.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ValueError, match=r"r\.jsonl:2: expected one JSON object"):
        open_log(tmp_path / "r.jsonl")
