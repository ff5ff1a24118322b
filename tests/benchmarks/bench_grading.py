"""How fast one grading worker is, and how long the worst answers take.

This example: grades published outputs on GSM8K and MATH (``labelled_responses.jsonl`` of $ESPO_DATA) as a training run
would, then every reference answer of MATH in another way of writing it, so that each goes to the parser, then the
adversarial inputs of the tests one by one.

How to run: ``OMP_NUM_THREADS=1 python tests/benchmarks/bench_grading.py``

Results to expect: at least 300 answers/s for each source, all but the mislabelled row right, and no answer over 5 s.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from espo_env.grading import Grade, GraderPool
from espo_env.grading.judge import Undecided, judge

TESTS = Path(__file__).parents[1] / "espo_env"
sys.path += [str(TESTS), str(TESTS / "grading")]

import test_adversarial as adversarial  # noqa: E402
from math_data import DATA  # noqa: E402


def read(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def timed(pool: GraderPool, pairs: list[tuple[str, str, str]]) -> tuple[list[Grade], float]:
    start = time.perf_counter()
    futures = [pool.submit(response, reference, question=question) for response, reference, question in pairs]
    return [future.result() for future in futures], time.perf_counter() - start


def labelled(pool: GraderPool) -> None:
    rows = read("labelled_responses.jsonl")
    print(f"{'source':<16}{'answers':>8}{'parsed':>8}{'TP':>6}{'FN':>6}{'FP':>6}{'TN':>6}{'answers/s':>11}")
    for source in dict.fromkeys(row["src"] for row in rows):
        part = [row for row in rows if row["src"] == source]
        parsed = sum(isinstance(judge(row["pred"], row["ref"], "symbolic"), Undecided) for row in part)
        grades, seconds = timed(pool, [(row["pred"], row["ref"], row["question"] or "") for row in part])
        table = Counter((bool(row["label"]), grade.correct) for row, grade in zip(part, grades, strict=True))
        cells = [table[cell] for cell in ((True, True), (True, False), (False, True), (False, False))]
        counts = "".join(f"{count:>6}" for count in cells)
        print(f"{source:<16}{len(part):>8}{parsed:>8}{counts}{len(part) / seconds:>11.0f}")


def parser_only(pool: GraderPool) -> None:
    # A factor of one changes the text, not the value: nothing is decided by comparing strings.
    references = sorted({row["answer"] for row in read("math500.jsonl") if "," not in row["answer"]})
    pairs = [(rf"\boxed{{{reference}\times 1}}", reference, "") for reference in references]
    pairs = [pair for pair in pairs if isinstance(judge(pair[0], pair[1], "symbolic"), Undecided)]
    grades, seconds = timed(pool, pairs)
    reasons = dict(Counter(grade.reason for grade in grades))
    print(f"\nparser only: {len(pairs)} answers, {len(pairs) / seconds:.0f} answers/s, {reasons}")


def worst(pool: GraderPool) -> None:
    texts = [*adversarial.CODE, *adversarial.BOMBS, *adversarial.NESTED, *adversarial.BROKEN]
    responses = [*(rf"\boxed{{{text}}}" for text in texts), *adversarial.HUGE]
    seconds = []
    for response in responses:
        for reference, kind in adversarial.REFERENCES:
            start = time.perf_counter()
            pool.grade(response, reference, kind)
            seconds.append(time.perf_counter() - start)
    over = sum(value > 1 for value in seconds)
    print(
        f"\nadversarial: {len(responses)} inputs, {len(seconds)} answers, {over} over 1 s, slowest {max(seconds):.2f} s"
    )


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, one worker\n")
    with GraderPool(num_workers=1) as pool:
        pool.grade(r"\boxed{x+y}", "y+x")  # the worker has started
        labelled(pool)
        parser_only(pool)
        worst(pool)
        print(f"reasons: {dict(pool.counts)}")


if __name__ == "__main__":
    main()
