"""Recording beside training: bounded, and nothing that happens to it is training's business."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_responses import TASK, one_of_each, response

from espo_algo import ESPOConfig
from espo_algo.evaluation.response_recorder import ResponseRecorder, forget_after, kept_iterations, read_snapshots


def recorder(folder, count=8):
    return ResponseRecorder(folder, count, ESPOConfig(), TASK.tokenizer)


def recorded(folder):
    return [snapshot["iteration"] for snapshot in read_snapshots(folder)]


def test_what_was_recorded_is_read_again(tmp_path):
    with recorder(tmp_path / "new" / "responses") as recording:
        recording.record(1, one_of_each())
        recording.record(2, [response(5)])
    first, second = read_snapshots(tmp_path / "new" / "responses")
    assert (first["iteration"], len(first["responses"]), first["lost_iterations"]) == (1, 8, 0)
    assert second["responses"][0]["group"] == 5
    forget_after(tmp_path / "new" / "responses", 1)
    assert recorded(tmp_path / "new" / "responses") == [1]


def test_nothing_is_written_where_nothing_is_wanted(tmp_path):
    with recorder(tmp_path / "responses", count=0) as recording:
        recording.record(1, one_of_each())
    assert read_snapshots(tmp_path / "responses") == []


def test_sixteen_snapshots_stay_at_most(tmp_path):
    with recorder(tmp_path, count=1) as recording:
        for iteration in range(1, 41):
            recording.record(iteration, [response()])
            recording._queue.join()  # slower than training ever is, so that none is left out
    assert recorded(tmp_path) == [1, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40]


@given(st.sets(st.integers(1, 5000), min_size=1), st.integers(3, 20))
def test_the_first_and_the_newest_stay(iterations, most):
    kept = kept_iterations([*iterations], most)
    assert {min(iterations), max(iterations)} <= kept <= iterations
    assert len(kept) <= most
    assert max(iterations) > most - 2 or kept == iterations


def test_a_full_disk_is_counted_and_logged_once(tmp_path, caplog):
    for iteration in (1, 2):
        (tmp_path / f"snapshot-{iteration:06d}.json.half").symlink_to("/dev/full")
    with recorder(tmp_path) as recording:
        for iteration in (1, 2, 3):
            recording.record(iteration, one_of_each())
            recording._queue.join()
    assert recording.num_lost == 2
    assert recorded(tmp_path) == [3]
    assert read_snapshots(tmp_path)[0]["lost_iterations"] == 2
    assert caplog.text.count("No space left on device") == 1
    assert "2 iterations are not recorded" in caplog.text


def test_a_folder_that_cannot_be_made_is_counted(tmp_path):
    (tmp_path / "file").touch()
    with recorder(tmp_path / "file" / "responses") as recording:
        recording.record(1, one_of_each())
    assert recording.num_lost == 1


def test_a_response_of_another_kind_is_counted(tmp_path):
    with recorder(tmp_path) as recording:
        recording.record(1, ["no response"])  # type: ignore[list-item]
    assert recording.num_lost == 1


def test_a_disk_that_hangs_holds_nobody_up(tmp_path, caplog):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "snapshot-000001.json.half").symlink_to(pipe)  # opening it waits for a reader
    with recorder(tmp_path) as recording:
        recording.record(1, one_of_each())
        while recording._queue.qsize():
            time.sleep(0.01)
        for iteration in range(2, 9):
            recording.record(iteration, [response()])
        assert recording.num_lost == 3  # one is being written, four wait
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.close(reader)
    assert "the disk is too slow" in caplog.text
    assert recorded(tmp_path)[-2:] == [4, 5]


def test_a_file_that_is_no_snapshot_is_named(tmp_path):
    (tmp_path / "snapshot-000001.json").write_text("{}")
    with pytest.raises(ValueError, match=r"snapshot-000001\.json: expected a snapshot as JSON, got '{}'"):
        read_snapshots(tmp_path)
