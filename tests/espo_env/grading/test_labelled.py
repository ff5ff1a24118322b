from __future__ import annotations

from collections import Counter

import pytest
from math_data import data_rows

from espo_env.grading import GraderPool

pytest.importorskip("math_verify", reason="needs the extra espo[math]")

# Labelled wrong in the source, though 10000 is 10{,}000.
WRONG_LABELS = {("qwen_rm_maj", "10000", "10{,}000")}


def test_published_outputs_are_graded_as_they_are_labelled():
    rows = data_rows("labelled_responses.jsonl")
    with GraderPool(num_workers=1, wall_seconds=30) as pool:
        futures = [pool.submit(row["pred"], row["ref"], question=row["question"] or "") for row in rows]
        grades = [future.result() for future in futures]
    table = Counter((row["src"], row["label"], grade.correct) for row, grade in zip(rows, grades, strict=True))
    print(f"\n{'source':<14}{'TP':>6}{'FN':>6}{'FP':>6}{'TN':>6}")
    for source in dict.fromkeys(row["src"] for row in rows):
        cells = [table[source, *cell] for cell in ((True, True), (True, False), (False, True), (False, False))]
        print(f"{source:<14}" + "".join(f"{count:>6}" for count in cells))
    wrong = {
        (row["src"], grade.answer, row["ref"])
        for row, grade in zip(rows, grades, strict=True)
        if grade.correct != row["label"]
    }
    assert wrong == WRONG_LABELS
