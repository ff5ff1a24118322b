from __future__ import annotations

import threading
import time

import pytest

from espo_env.grading.background import Background


def test_calls_are_made_one_after_the_other_in_another_thread() -> None:
    background, seen = Background(), []
    for number in range(50):
        background.submit(lambda number=number: seen.append((number, threading.current_thread())), 5.0)
    assert background.submit(lambda: "done", 5.0).result(5) == "done"
    numbers, threads = zip(*seen, strict=True)
    assert numbers == tuple(range(50))
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        background.submit(lambda: 1 / 0, 5.0).result(5)


def test_a_call_that_hangs_is_left_behind_and_the_others_go_on() -> None:
    others = set(threading.enumerate())
    background, ends = Background(), threading.Event()
    hangs = [background.submit(lambda: ends.wait(60), 0.3) for _ in range(2)]
    behind = background.submit(lambda: "after", 5.0)
    start = time.monotonic()
    assert behind.result(5) == "after"
    assert time.monotonic() - start < 4
    for call in hangs:
        with pytest.raises(TimeoutError, match=r"expected a grade within 0.3 s, got none"):
            call.result(0)
    # What it brings in the end is not wanted any more, and its thread ends.
    ends.set()
    assert background.submit(lambda: "again", 5.0).result(5) == "again"
    deadline = time.monotonic() + 5

    def grading() -> int:
        return sum(thread.name == "grading" for thread in set(threading.enumerate()) - others)

    while grading() > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert grading() == 1
