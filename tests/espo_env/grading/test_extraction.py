from __future__ import annotations

import pytest

from espo_env.grading.extraction import TAIL_CHARS, extract_answer, last_number, nesting_depth


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}.", "7"),
        (r"\boxed{3} and then \boxed{7}", "7"),
        (r"\boxed{\frac{1}{2}} ok", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{ 7 }", "7"),
        (r"\boxed{3} \boxed{7", "3"),  # the last one was cut off
        (r"\boxed{3} } } \boxed{7}", "7"),  # stray braces
        (r"{ \boxed{7}", "7"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),  # a line break before a group is no escaped brace
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{ \boxed{ 7 } }", "7"),
        (r"\boxed{x = \boxed{7}}", r"x = \boxed{7}"),
        (r"\boxed{\text{if } \boxed{7}", "7"),  # the outer one is not complete
        (r"\boxed{7} #### 8 Answer: 9", "7"),
        ("working\n#### 18", "18"),
        ("#### 17\n#### 18\n", "18"),
        ("#### 18\nThank you", "18"),
        ("Answer: 5\n#### 18", "18"),
        ("Answer: 5\nAnswer: 18\n", "18"),
        ("**Answer:** 18", "18"),
        ("Answer: **18**\nbye", "18"),
        ("answer : 18", "18"),
        ("The final answer is 18", "18"),
        ("The answer is: 18", "18"),
        ("Answer:\n18", "18"),
        ("so it is\nA: 18", "18"),
        ("A is 5, plan A: 18", None),
        ("the answer isolated", None),
        ("Answer:", None),
        (r"\boxed{}", None),
        ("18", None),
        ("", None),
        ("\x00", None),
    ],
)
def test_finds_the_final_answer(text, answer):
    assert extract_answer(text) == answer


def test_only_the_end_of_a_response_is_looked_at():
    assert extract_answer(r"\boxed{7}" + " " * (TAIL_CHARS - 9)) == "7"
    assert extract_answer(r"\boxed{7}" + " " * (TAIL_CHARS - 8)) is None


def test_nesting_depth_counts_open_brackets():
    assert [nesting_depth(text) for text in ("7", "(7)", "([7]) {}", "((", "))((")] == [0, 1, 2, 2, 0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 7.", "7"),
        ("7 - 3 = 4", "4"),
        ("5 - 9 = -4.", "-4"),
        ("7-3", "3"),  # a minus between numbers is no sign
        ("it costs $1,234.50!", "1,234.50"),
        ("2,3", "3"),
        ("x2 and y", None),
        ("none", None),
        ("9" * (TAIL_CHARS + 5) + " 4", "4"),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number
