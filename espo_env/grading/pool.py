"""Isolated worker processes for the answers that only a computer algebra system can compare.

- :class:`GraderPool`: grades in the background; kills and replaces workers that overrun their limits.
- :func:`default_pool`: one for the whole process, started when it is first needed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from espo_env.grading.judge import Grade, Kind, Undecided, judge
from espo_env.grading.symbolic import Equivalence

__all__ = ["GraderPool", "default_pool"]

_WORKER = Path(__file__).with_name("worker.py")
_START_SECONDS = 120.0
_START_ATTEMPTS = 10
_ATTEMPTS = 4
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)


class _Worker:
    """One worker process, replaced whenever it dies or is killed. Used by one thread at a time."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]], wall_seconds: float) -> None:
        self._start = start
        self._wall_seconds = wall_seconds
        self._ready = False
        self.process = start()

    def _read(self, seconds: float) -> bytes | None:
        """One line; empty if the process ended; None if it took too long."""
        assert self.process.stdout is not None
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            part = os.read(self.process.stdout.fileno(), 4096)
            if not part:
                return b""
            line += part
        return line

    def ask(self, request: bytes) -> str:
        """The verdict on a request; ``"timeout"`` or ``"crash"`` if the process did not survive it.

        Raises:
            RuntimeError: If a fresh process does not start.
        """
        # A process that was killed from outside (an operator, the system short of memory) is not the answer's fault.
        for _ in range(_ATTEMPTS):
            self._wait_until_ready()
            verdict = self._ask_once(request)
            if verdict != "killed":
                return verdict
        return "crash"

    def _wait_until_ready(self) -> None:
        for _ in range(_START_ATTEMPTS):
            if self._ready or self._read(_START_SECONDS):
                self._ready = True
                return
            code = self._replace()
            if code not in _KILLED:
                break
        raise RuntimeError(f"expected a grading worker to start, got exit code {code} from {self.process.args!r}")

    def _ask_once(self, request: bytes) -> str:
        assert self.process.stdin is not None
        line: bytes | None = b""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(request)
            line = self._read(self._wall_seconds)
        if line:
            verdict: str = json.loads(line)["verdict"]
            if verdict == "memory":
                self._replace()
            return verdict
        if line == b"":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)  # it is about to end by itself, and its exit code is wanted
        code = self._replace()
        if line is None or code == -signal.SIGXCPU:
            return "timeout"
        return "killed" if code in _KILLED else "crash"

    def _replace(self) -> int:
        """Kills the process if it still lives, starts another; the first one's exit code."""
        code = _end(self.process)
        self._ready = False
        self.process = self._start()
        return code


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kills a process, if it still lives; its exit code."""
    process.kill()
    with process:  # closes the pipes and waits
        pass
    return process.returncode


class GraderPool:
    r"""Grades responses in the background, in worker processes with limits of wall time, CPU time and memory.

    Can be used from any number of threads, from asyncio and in Ray actors. Answers that need no parser never leave
    the calling thread. The workers hold nothing but a parser: no environment variable, no file, no process of theirs.

    Args:
        num_workers: Worker processes; each starts in about a second, in the background. One more is kept in reserve.
        wall_seconds: Longest time for one answer, after which the worker is killed and replaced.
        cpu_seconds: CPU time for one answer, with the same consequence; rounded up by at most a second.
        memory_bytes: Address space of a worker.

    Raises:
        ImportError: If math-verify is not installed.
        ValueError: If an argument is out of range.

    >>> with GraderPool(num_workers=1) as pool:  # doctest: +SKIP
    ...     pool.grade(r"\boxed{x(x+1)}", "x^2+x")
    Grade(correct=True, answer='x(x+1)', reason='equal')
    """

    def __init__(
        self, num_workers: int = 2, wall_seconds: float = 3.0, cpu_seconds: int = 1, memory_bytes: int = 1 << 30
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"expected num_workers >= 1, got {num_workers}")
        if wall_seconds <= 0:
            raise ValueError(f"expected wall_seconds > 0, got {wall_seconds}")
        if cpu_seconds < 1:
            raise ValueError(f"expected cpu_seconds >= 1, got {cpu_seconds}")
        if memory_bytes < 1 << 28:
            raise ValueError(f"expected memory_bytes >= {1 << 28} (256 MiB), got {memory_bytes}")
        if importlib.util.find_spec("math_verify") is None:
            raise ImportError("symbolic grading needs the package math-verify: pip install 'espo[math]'")
        self._command = [sys.executable, "-I", str(_WORKER), str(memory_bytes), str(cpu_seconds)]
        self._spares: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._workers = [_Worker(self._take_process, wall_seconds) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="grader")
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def submit(self, response_text: str, reference: str, kind: Kind = "symbolic", question: str = "") -> Future[Grade]:
        """Starts grading one response; arguments and errors as of :func:`espo_env.grading.grade`."""
        outcome = judge(response_text, reference, kind, question)
        if isinstance(outcome, Undecided):
            return self._threads.submit(self._settle, outcome.answer, outcome.equivalence)
        self._count(outcome.reason)
        future: Future[Grade] = Future()
        future.set_result(outcome)
        return future

    def grade(self, response_text: str, reference: str, kind: Kind = "symbolic", question: str = "") -> Grade:
        """Grades one response and waits for the verdict."""
        return self.submit(response_text, reference, kind, question).result()

    @property
    def counts(self) -> Counter[str]:
        """How often each :attr:`Grade.reason` was given so far."""
        with self._lock:
            return self._counts.copy()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Finishes what was submitted, then ends the workers."""
        self._threads.shutdown()
        for worker in self._workers:
            _end(worker.process)
        while not self._spares.empty():
            _end(self._spares.get())

    def __enter__(self) -> GraderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self, answer: str, equivalence: Equivalence) -> Grade:
        worker = self._idle.get()
        try:
            reason = worker.ask(json.dumps(equivalence._asdict()).encode() + b"\n")
        finally:
            self._idle.put(worker)
        if self._spares.empty():  # so that whoever has to wait for a replacement waits for a kill, not for a start
            self._spares.put(self._start_process())
        self._count(reason)
        return Grade(reason == "equal", answer, reason)

    def _take_process(self) -> subprocess.Popen[bytes]:
        with contextlib.suppress(queue.Empty):
            return self._spares.get_nowait()
        return self._start_process()

    def _start_process(self) -> subprocess.Popen[bytes]:
        # subprocess and not multiprocessing: that forbids children to daemonic processes, and forks or pickles.
        pipe = subprocess.PIPE
        # A process group of its own: Ctrl-C is for this process, which may still have answers to grade.
        return subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env={}, bufsize=0, process_group=0
        )

    def _count(self, reason: str) -> None:
        with self._lock:
            self._counts[reason] += 1


_default: GraderPool | None = None
_default_lock = threading.Lock()


def default_pool() -> GraderPool:
    """The pool of this process, with two workers; started when it is first called.

    Raises:
        ImportError: If math-verify is not installed.
    """
    global _default
    with _default_lock:
        if _default is None:
            _default = GraderPool()
        return _default


def _forget_default() -> None:
    """A forked child has neither the threads of its parent's pool nor a right to its workers."""
    global _default, _default_lock
    _default, _default_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_default)
