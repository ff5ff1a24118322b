"""Grading in a thread, for graders that are quick and may hang all the same.

- :class:`Background`: makes calls one after the other in a thread, each with a time limit.
- :func:`default_background`: the one of this process.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Background", "default_background"]

_LOOK_EVERY = 0.2  # seconds


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    seconds: float
    answer: Future[Any] = field(default_factory=Future)


class Background:
    """Makes calls one after the other in a daemon thread; one that outlasts its limit is left behind.

    A thread cannot be ended from outside: the one that hangs stays until its call returns, and another one goes on with
    the calls behind it. For what takes its time or memory as a rule, use processes
    (:class:`~espo_env.grading.pool.GraderPool`).
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._current: tuple[_Call, float] | None = None

    def submit(self, function: Callable[[], Any], seconds: float) -> Future[Any]:
        """Queues a call.

        Args:
            function: What to call.
            seconds: How long it may take, counted from its begin.

        Returns:
            What it gives back or raises; a TimeoutError where it took too long.
        """
        with self._lock:
            if self._worker is None:
                threading.Thread(target=self._watch, name="grading-watch", daemon=True).start()
                self._replace_worker()
        call = _Call(function, seconds)
        self._waiting.put(call)
        self._busy.set()
        return call.answer

    def _replace_worker(self) -> None:
        self._current = None
        self._worker = threading.Thread(target=self._work, name="grading", daemon=True)
        self._worker.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            call = self._waiting.get()
            with self._lock:
                self._current = (call, time.monotonic() + call.seconds)
            result, error = None, None
            try:
                result = call.function()
            except BaseException as raised:
                error = raised
            with self._lock:
                if self._worker is not me:  # too late: the answer has been given, and another thread goes on
                    return
                self._current = None
            if error is None:
                call.answer.set_result(result)
            else:
                call.answer.set_exception(error)

    def _watch(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(_LOOK_EVERY)
            with self._lock:
                if self._current is None:
                    if self._waiting.empty():
                        self._busy.clear()
                    continue
                call, deadline = self._current
                if time.monotonic() < deadline:
                    continue
                self._replace_worker()
            call.answer.set_exception(TimeoutError(f"expected a grade within {call.seconds:g} s, got none"))


_default = Background()


def default_background() -> Background:
    """The one of this process."""
    return _default


def _forget_default() -> None:
    """A forked child has none of its parent's threads."""
    global _default
    _default = Background()


os.register_at_fork(after_in_child=_forget_default)
