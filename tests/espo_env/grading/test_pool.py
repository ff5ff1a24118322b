from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from espo_env.grading import Grade, GraderPool, default_pool, grade

pytest.importorskip("math_verify", reason="needs the extra espo[math]")

RIGHT = Grade(True, "x(x+1)", "equal")
BOMB = r"\boxed{2^{2^{2^{2^{2^{2}}}}}+\sqrt{2}}"


@pytest.fixture(scope="module")
def pool():
    with GraderPool(wall_seconds=30) as pool:  # CPU seconds are what runs out, also on a busy machine
        yield pool


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"x(x+1)", "x^2+x"),
        (r"3-2i", "-2i+3"),
        (r"\frac{2}{\sqrt{3}}", r"\frac{2\sqrt3}{3}"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"e^{i\pi/3}", r"e^{\frac{\pi i}{3}}"),
        (r"(3,\infty)\cup[0,1]", r"[0,1]\cup(3,\infty)"),
        (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("2x-y+1=0", "y=2x+1"),
        ("2x+3=y", "y=2x+3"),
        ("3<x", "x>3"),
        (r"1.5\pi", r"\frac{3\pi}{2}"),
        (r"\sqrt8, \pi/2", r"\frac\pi2, 2\sqrt2"),
        ("1024", "2^{10}"),
        (r"\frac{4}{2^{100}}", r"2^{-98}"),
    ],
)
def test_equivalent_expressions_are_right(pool, answer, reference):
    assert pool.grade(rf"\boxed{{{answer}}}", reference) == Grade(True, answer, "equal")


@pytest.mark.parametrize(
    ("answer", "reference", "reason"),
    [
        ("x(x+2)", "x^2+x", "different"),
        (r"\sqrt{2}+1", r"\sqrt{2}-1", "different"),
        ("1.414214", r"\sqrt{2}", "different"),  # six decimals are no exact root
        (r"2^{-99}", r"2^{-100}", "different"),  # both nearly zero
        (r"e^{-50}", "e^{-60}", "different"),
        (r"x \ge 3", "x>3", "different"),
        ("0=0", "x^2+y^2=4", "different"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", "different"),
        (r"\pi+\pi", r"2\pi", "unevaluated"),
        (r"2\cdot 3\pi", r"6\pi", "unevaluated"),
        (r"(1+1)\pi", r"2\pi", "unevaluated"),
        (r"\sqrt[3]{8}\pi", r"2\pi", "unevaluated"),
        (r"\cos(0)\pi", r"\pi", "unevaluated"),
        ("2x+3x", "5x", "unevaluated"),
        (r"\begin{pmatrix}1+1\\2\end{pmatrix}", r"\begin{pmatrix}2\\2\end{pmatrix}", "unevaluated"),
        (r"\sqrt{2}, 1+1+\pi", r"\sqrt{2}, 2+\pi", "unevaluated"),
        (r"\frac{", r"\pi", "no_answer"),
        (r"\frac{}{}+", r"\pi", "unparsable"),
        ("x", r"\frac{}{}+", "unparsable_reference"),
    ],
)
def test_other_expressions_are_wrong(pool, answer, reference, reason):
    verdict = pool.grade(rf"\boxed{{{answer}}}", reference)
    assert (verdict.correct, verdict.reason) == (False, reason)


def test_an_expression_out_of_the_question_is_no_answer(pool):
    question = r"Factor $x^2 - 49$ completely."
    copied = pool.grade(r"\boxed{x^2-49}", "(x-7)(x+7)", question=question)
    assert copied == Grade(False, "x^2-49", "copied")
    assert pool.grade(r"\boxed{(x+7)(x-7)}", "(x-7)(x+7)", question=question).correct
    assert pool.grade(r"\boxed{(x-7)(x+7)}", "(x-7)(x+7)", question="Is it (x-7)(x+7)?").correct


def test_overruns_are_named_and_counted_and_the_worker_is_replaced(pool):
    pids, before = set(pool.worker_pids), pool.counts["timeout"]
    assert pool.grade(BOMB, r"\pi").reason == "timeout"
    assert pool.counts["timeout"] == before + 1
    assert len(pids & set(pool.worker_pids)) == 1
    assert pool.grade(r"\boxed{x(x+1)}", "x^2+x") == RIGHT


def test_too_much_memory_is_named():
    with GraderPool(num_workers=1, memory_bytes=1 << 28, cpu_seconds=30, wall_seconds=60) as pool:
        assert pool.grade(r"\boxed{2^{10^9}\pi}", r"\pi").reason == "memory"
        assert pool.grade(r"\boxed{x(x+1)}", "x^2+x") == RIGHT


def test_a_crash_is_named_and_a_kill_from_outside_is_survived():
    with GraderPool(num_workers=1, cpu_seconds=20, wall_seconds=60) as pool:
        assert pool.grade(r"\boxed{x(x+1)}", "x^2+x") == RIGHT
        for signal_number, reason in ((signal.SIGSEGV, "crash"), (signal.SIGKILL, "equal")):
            os.kill(pool.worker_pids[0], signal_number)
            assert pool.grade(r"\boxed{x(x+1)}", "x^2+x").reason == reason
        assert pool.counts == {"equal": 2, "crash": 1}


def test_workers_are_isolated(pool):
    pool.grade(r"\boxed{x(x+1)}", "x^2+x")
    for pid in pool.worker_pids:
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    limits = [resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE]
    found = {tuple(resource.prlimit(pid, limit)[0] for limit in limits) for pid in pool.worker_pids}
    assert (1 << 30, 0, 0, 0) in found


def test_closing_finishes_what_was_submitted_and_ends_the_workers():
    with GraderPool(num_workers=1) as pool:
        futures = [pool.submit(r"\boxed{x(x+1)}", "x^2+x") for _ in range(5)]
        pids = pool.worker_pids
    assert [future.result() for future in futures] == [RIGHT] * 5
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_from_asyncio(pool):
    async def main() -> list[Grade]:
        return await asyncio.gather(*(asyncio.wrap_future(pool.submit(r"\boxed{x(x+1)}", "x^2+x")) for _ in range(3)))

    assert asyncio.run(main()) == [RIGHT] * 3


@pytest.mark.usefixtures("ray_session")
def test_from_ray_actors_of_every_kind():
    import ray

    class Sync:
        def grade(self) -> Grade:
            return grade(r"\boxed{x(x+1)}", "x^2+x", kind="symbolic")

    class Async:
        async def grade(self) -> Grade:
            return await asyncio.wrap_future(default_pool().submit(r"\boxed{x(x+1)}", "x^2+x"))

    make = ray.remote(num_cpus=0)
    actors = [make(Sync).remote(), make(Sync).options(max_concurrency=2).remote(), make(Async).remote()]
    for actor in actors:
        verdict = ray.get(actor.grade.remote())
        for _ in range(5):
            if verdict.reason == "timeout":  # three new pools on a busy machine
                verdict = ray.get(actor.grade.remote())
        assert verdict == RIGHT
        ray.kill(actor)


@pytest.mark.faults
def test_four_thousand_grades_from_eight_threads_while_workers_are_killed():
    jobs = []
    for i in range(4_000):
        right = i % 2 == 0
        if i % 20 < 18:
            jobs.append((rf"\boxed{{{i}}}", str(i if right else i + 1), "numeric", right))
        else:
            a, b = 2 + i % 7, i % 11
            expanded = f"x^2+{a + b}x+{a * b if right else a * b + 1}"
            jobs.append((rf"\boxed{{(x+{a})(x+{b})}}", expanded, "symbolic", right))
    stop = threading.Event()
    kills = 0

    with GraderPool(num_workers=2, cpu_seconds=20, wall_seconds=60) as pool:

        def kill_now_and_then() -> None:
            nonlocal kills
            while not stop.wait(0.01):
                if sum(pool.counts.values()) >= 400 * (kills + 1):
                    os.kill(pool.worker_pids[kills % 2], signal.SIGKILL)
                    kills += 1

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            with ThreadPoolExecutor(8) as threads:
                verdicts = list(threads.map(lambda job: pool.grade(*job[:3]), jobs))
        finally:
            stop.set()
            killer.join()
        assert [verdict.correct for verdict in verdicts] == [job[3] for job in jobs]
        assert pool.counts == {"equal": 2000, "different": 2000}
    assert kills >= 9


def test_wrong_arguments_are_named():
    for kwargs in ({"num_workers": 0}, {"wall_seconds": 0}, {"cpu_seconds": 0}, {"memory_bytes": 1 << 20}):
        name, value = next(iter(kwargs.items()))
        with pytest.raises(ValueError, match=rf"expected {name} >.*, got {value}"):
            GraderPool(**kwargs)


def test_an_empty_reference_is_refused(pool):
    with pytest.raises(ValueError, match="expected a reference answer, got ' '"):
        pool.submit(r"\boxed{7}", " ")


def test_a_missing_reference_is_refused(pool):
    with pytest.raises(TypeError, match="expected a reference answer as a string, got None"):
        pool.submit(r"\boxed{7}", None)


def test_without_math_verify_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ImportError, match=r"espo\[math\]"):
        GraderPool()


def test_grading_is_imported_without_math_verify():
    code = "import sys; import espo_env.grading; sys.exit('sympy' in sys.modules or 'math_verify' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_forked_child_starts_its_own_default_pool():
    code = (
        "import os, sys; from espo_env.grading import default_pool, grade\n"
        "pids = default_pool().worker_pids\n"
        "if os.fork() == 0:\n"
        "    right = grade(r'\\boxed{x(x+1)}', 'x^2+x', 'symbolic').correct\n"
        "    os._exit(0 if right and not set(pids) & set(default_pool().worker_pids) else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_workers_end_with_the_process_that_started_them():
    code = (
        "import os; from espo_env.grading import default_pool\n"
        "print(*default_pool().worker_pids, flush=True); os._exit(0)"
    )
    pids = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)
