"""Right answers in another form than the reference's, and wrong ones that look like them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_env.grading import GraderPool
from espo_env.grading.judge import judge

pytest.importorskip("math_verify", reason="needs the extra espo[math]")

FORMS = Path(__file__).parents[2] / "data" / "answer_forms.txt"


class Form(NamedTuple):
    category: str
    label: str
    reference: str
    answer: str


def read_forms() -> list[Form]:
    forms, category, label = [], "", ""
    for line in FORMS.read_text("utf-8").splitlines():
        if line.startswith("== "):
            category = line.removeprefix("== ")
        elif line in ("right", "wrong", "missed"):
            label = line
        elif line and not line.startswith("# "):
            reference, answer = line.split(" vs ")
            forms.append(Form(category, label, reference, answer))
    return forms


ALL = read_forms()
CATEGORIES = list(dict.fromkeys(form.category for form in ALL))


@pytest.fixture(scope="module")
def pool():
    with GraderPool(num_workers=1, wall_seconds=30) as pool:
        yield pool


def test_every_category_has_twenty_of_each():
    counts = Counter((form.category, form.label) for form in ALL)
    assert len(CATEGORIES) >= 12
    assert all(counts[category, label] >= 20 for category in CATEGORIES[:-1] for label in ("right", "wrong"))
    assert len(set(ALL)) == len(ALL)


@pytest.mark.parametrize("category", CATEGORIES)
def test_forms_are_told_apart(pool, category):
    forms = [form for form in ALL if form.category == category]
    futures = [pool.submit(rf"\boxed{{{form.answer}}}", form.reference) for form in forms]
    correct = [future.result().correct for future in futures]
    mistaken = [form for form, right in zip(forms, correct, strict=True) if right != (form.label == "right")]
    assert mistaken == []


def test_every_reference_is_right_for_itself(pool):
    references = list(dict.fromkeys(form.reference for form in ALL))
    futures = [pool.submit(rf"\boxed{{{reference}}}", reference) for reference in references]
    assert [r for r, future in zip(references, futures, strict=True) if not future.result().correct] == []


@pytest.mark.parametrize(
    ("answer", "reference", "question", "correct"),
    [
        ("2^{10}", "1024", "How many subsets does a set of 10 elements have?", True),
        ("2^{10}", "1024", "Compute $2^{10}$.", False),
        (r"5 \cdot 3^4", "405", r"What is $3^4 \cdot 5$?", False),
        (r"1.2 \times 10^{-3}", "0.0012", r"Write $1.2 \times 10^{-3}$ as a decimal.", False),
        (r"1.2 \times 10^{-3}", r"1.20 \times 10^{-3}", r"Round $1.2 \times 10^{-3}$.", True),
        ("2^{10}", "1024", "", True),
    ],
)
def test_powers_out_of_the_question_are_no_answer(pool, answer, reference, question, correct):
    verdict = pool.grade(rf"\boxed{{{answer}}}", reference, question=question)
    assert (verdict.correct, verdict.reason) == (correct, "equal" if correct else "copied")


PIECES = sorted({text for form in ALL for text in (form.reference, form.answer)})


@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), min_size=1, max_size=4), st.sampled_from(PIECES)
)
@settings(max_examples=300, deadline=1000)
def test_nothing_raises_and_nothing_takes_long(parts, reference):
    for answer in ("".join(parts), " ".join(parts), ", ".join(parts), ("".join(parts) * 400)[:400]):
        judge(f"Answer: {answer}", reference, "symbolic")
        judge(f"Answer: {reference}", answer.strip() or "7", "symbolic")
