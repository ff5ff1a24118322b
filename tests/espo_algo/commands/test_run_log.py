"""The log of a run, line by line."""

import math

import pytest

from espo_algo.commands.run_log import LOG, RunLog


def result(iteration):
    return {"training_iteration": iteration, "config": {"lr": 1.0}, "env_runners": {"accuracy": math.nan, "name": "x"}}


def test_later_lines_are_dropped_by_their_number(tmp_path):
    log = RunLog(tmp_path)
    assert log.iterations() == []
    for iteration in (1, 3, 4, 5):  # the second one is missing
        log.append(result(iteration))
    assert log.iterations() == [1, 3, 4, 5]
    with log.path.open("a") as file:
        file.write('{"training_iteration": 6, "env')  # killed while it wrote
    log.forget_after(3)
    assert log.iterations() == [1, 3]
    assert log.path.read_text().splitlines()[0] == '{"training_iteration": 1.0, "env_runners": {"accuracy": null}}'
    log.append(result(4))
    assert log.iterations() == [1, 3, 4]


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / LOG).write_text('{"training_iteration": 1}\n{"training_iter\n')
    with pytest.raises(ValueError, match=f"{LOG}:2: expected an iteration as JSON, got '{{\"training_iter'"):
        RunLog(tmp_path).forget_after(1)
