from __future__ import annotations

import pytest

from espo_env.tasks.math_presets import PRESETS, Preset, Record

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\nHow many\n\nare two?\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


@pytest.mark.parametrize(
    ("preset", "row", "record"),
    [
        (
            "gsm8k",
            {"question": "Q?", "answer": "He has 5*200=<<5*200=1000>>1000.\n#### 1,000"},
            Record("Q?", "1,000", "He has 5*200=1000.\n#### 1,000", None),
        ),
        ("math", {"problem": "Q?", "solution": r"So \boxed{\frac12}.", "level": "Level 5"}, 0),
        ("math", {"problem": "Q?", "answer": r"\frac12", "difficulty": 5.0}, Record("Q?", r"\frac12", "", "5")),
        ("math", {"problem": "Q?", "answer": None}, Record("Q?", None, "", None)),
        ("math-500", {"problem": "Q?", "answer": "7", "solution": "S", "level": 2}, Record("Q?", "7", "S", "2")),
        ("aime-2024", {"problem": "Q?", "answer": "025"}, Record("Q?", "25", "", None)),
        ("aime-2024", {"problem": "Q?", "answer": "000"}, Record("Q?", "0", "", None)),
        ("amc-2023", {"question": "Q?", "answer": 27.0}, Record("Q?", "27", "", None)),
        ("amc-2023", {"problem": "Q?", "answer": 0.5}, Record("Q?", "0.5", "", None)),
        (
            "dapo-math-17k",
            {"prompt": [{"content": DAPO, "role": "user"}], "label": "34"},
            Record("How many\n\nare two?", "34", "", None),
        ),
        (
            "dapo-math-17k",
            {"prompt": [{"content": "Q?", "role": "user"}], "reward_model": {"ground_truth": "34", "style": "rule"}},
            Record("Q?", "34", "", None),
        ),
        (
            "default",
            {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q?"}], "ground_truth": "x"},
            Record("Q?", "x", "", None),
        ),
    ],
)
def test_rows_as_each_data_set_writes_them(preset, row, record):
    expected = record or Record("Q?", r"\frac12", r"So \boxed{\frac12}.", "Level 5")
    assert PRESETS[preset].read(row) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 1}, r"expected a field 'problem' or 'question' or 'prompt', got \['answer'\]"),
        ({"problem": "Q?"}, r"expected a field 'answer' or 'label' or 'ground_truth', got \['problem'\]"),
        ({"problem": " ", "answer": 1}, "expected a text or messages as the problem, got ' '"),
        ({"problem": 3, "answer": 1}, "expected a text or messages as the problem, got 3"),
        ({"problem": [{"role": "user"}], "answer": 1}, "expected messages with one user message, got 0 of them"),
        ({"problem": "Q?", "answer": [1]}, r"expected a text or a number as the answer, got \[1\]"),
        ({"problem": "Q?", "answer": True}, "expected a text or a number as the answer, got True"),
        ({"problem": "Q?", "answer": 1, "solution": 2}, "expected a text as the solution, got 2"),
    ],
)
def test_rows_that_cannot_be_read(row, message):
    with pytest.raises(ValueError, match=message):
        Preset().read(row)
