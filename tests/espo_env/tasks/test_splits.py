from __future__ import annotations

import pytest

from espo_env.tasks import Problem
from espo_env.tasks.splits import draw_problem, split_of


def test_a_quarter_of_all_texts_is_for_measuring():
    share = sum(split_of(f"{i}+{i + 1}=") == "eval" for i in range(4000)) / 4000
    assert share == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_problems_are_drawn_until_one_belongs_to_the_split(split):
    problems = [draw_problem(lambda rng: Problem(str(rng.random()), ""), 0, i, split) for i in range(50)]
    assert {split_of(problem.prompt) for problem in problems} == {split}
    assert len(set(problems)) == 50


def test_a_space_without_problems_for_a_split_is_an_error():
    lonely = "train" if split_of("only") == "eval" else "eval"
    with pytest.raises(ValueError, match=f"expected a space of problems large enough for split '{lonely}'"):
        draw_problem(lambda rng: Problem("only", ""), 0, 0, lonely)
