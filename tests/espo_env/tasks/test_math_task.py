from __future__ import annotations

import json
import pickle
from pathlib import Path

import gymnasium as gym
import pytest
from math_data import data_file

import espo_env
from espo_env.grading import Grade
from espo_env.tasks.math import MathTask
from espo_env.tokenizer import Tokenizer

SAMPLES = Path(__file__).parents[2] / "data"
BYTES = Tokenizer.from_bytes()


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def assert_references_are_right(task: MathTask, split: espo_env.tasks.Split) -> None:
    for index in range(task.num_problems(split)):
        problem = task.problem(index, split)
        assert task.grade(problem, rf"\boxed{{{problem.answer}}}").correct, problem
        assert not task.grade(problem, r"\boxed{-98765}").correct, problem


@pytest.mark.parametrize(("preset", "file"), [("gsm8k", "gsm8k_sample.jsonl"), ("math-500", "math500_sample.jsonl")])
def test_samples_are_read_whole_and_their_solutions_are_right(preset, file):
    task = MathTask(BYTES, eval=SAMPLES / file, preset=preset, max_prompt_tokens=4000)
    report = task.reports["eval"]
    assert report.rows == report.kept == task.num_problems("eval") >= 15
    assert all(task.problem(i, "eval").solution for i in range(report.kept))
    task.validate(split="eval")
    assert_references_are_right(task, "eval")


@pytest.mark.parametrize(
    ("preset", "split", "file", "kept"),
    [
        ("gsm8k", "train", "gsm8k_train_first1500.jsonl", 1500),
        ("gsm8k", "eval", "gsm8k_test.jsonl", 1319),
        ("math", "train", "math_train_7474.jsonl", 7469),  # 4 rows have no answer, 1 is there twice
        ("math-500", "eval", "math500.jsonl", 500),
        ("aime-2024", "eval", "aime24.jsonl", 30),
        ("amc-2023", "eval", "amc23.jsonl", 40),
        ("dapo-math-17k", "train", "dapo_math_17k_sample8.jsonl", 8),
        ("default", "train", "deepmath_roll_sample1000.jsonl", 1000),
    ],
)
def test_every_reference_of_the_whole_data_sets_grades_itself_as_right(preset, split, file, kept):
    task = MathTask(BYTES, **{split: data_file(file)}, preset=preset, max_prompt_tokens=10_000)
    assert task.num_problems(split) == kept
    task.validate(kept, split)
    assert_references_are_right(task, split)


def test_prompt_solution_and_metadata_of_gsm8k():
    task = MathTask(BYTES, train=SAMPLES / "gsm8k_sample.jsonl", preset="gsm8k")
    problem = task.problem(1)
    assert problem.prompt.startswith("A robe takes 2 bolts")
    assert problem.prompt.endswith("\nPlease reason step by step, and put your final answer within \\boxed{}.\n")
    assert problem.answer == "3"
    assert problem.index == 1
    assert (
        problem.solution
        == "It takes 2/2=1 bolt of white fiber\nSo the total amount of fabric is 2+1=3 bolts of fabric\n#### 3"
    )
    assert problem.metadata["location"].endswith("gsm8k_sample.jsonl:2")
    assert task.max_prompt_tokens == max(len(task.encode_prompt(task.problem(i))) for i in range(15))


def test_duplicates_overlap_long_prompts_and_missing_answers_are_left_out_and_counted(tmp_path):
    def row(problem, answer="1"):
        return {"problem": problem, "answer": answer}

    train = write(
        tmp_path / "train.jsonl",
        *(
            row("One?"),
            row("one?  "),
            row("Two?"),
            row("Three?" * 40),
            row("Four?", None),
            row("Five?", " "),
            row("Six?"),
        ),
    )
    task = MathTask(
        *(BYTES, train, write(tmp_path / "eval.jsonl", row("two?"))), template="plain", max_prompt_tokens=100
    )
    report = task.reports["train"]
    assert [task.problem(i).metadata["text"] for i in range(2)] == ["One?", "Six?"]
    assert task.problem(1).index == 1
    assert (report.rows, report.kept, report.no_answer, report.duplicates, report.overlap, report.too_long) == (
        *(7, 2, 2, 1, 1, 1),
    )
    assert str(report).endswith(
        "2 of 7 problems kept; left out 2 without an answer, 1 duplicates, 1 of the eval split, 1 too long"
    )


def test_a_copy_of_the_question_is_not_right(tmp_path):
    pytest.importorskip("math_verify", reason="needs the extra espo[math]")
    file = write(tmp_path / "data.jsonl", {"problem": "Factor $x^2-49$.", "answer": "(x-7)(x+7)"})
    task = MathTask(BYTES, train=file)
    problem = task.problem(0)
    assert task.grade(problem, r"\boxed{x^2 - 49}") == Grade(False, "x^2 - 49", "copied")
    assert task.submit(problem, r"\boxed{(x+7)(x-7)}").result() == Grade(True, "(x+7)(x-7)", "equal")


def test_the_task_is_picklable():
    task = pickle.loads(pickle.dumps(MathTask(BYTES, train=SAMPLES / "gsm8k_sample.jsonl", preset="gsm8k")))
    assert task.grade(task.problem(0), "#### 18").correct


def test_fields_of_ones_own(tmp_path):
    file = write(tmp_path / "data.jsonl", {"q": "1+1?", "meta": {"truth": 2, "grade": "easy"}})
    preset = {
        "problem": "q",
        "answer": ["meta.truth"],
        "level": "meta.grade",
        "kind": "numeric",
        "template": "question",
    }
    problem = MathTask(BYTES, train=file, preset=preset).problem(0)
    assert (problem.prompt, problem.answer) == ("Question: 1+1?\nAnswer:", "2")
    assert problem.metadata["level"] == "easy"


def test_environment_by_its_id(tmp_path):
    BYTES.save_pretrained(tmp_path)
    file = write(tmp_path / "eval.jsonl", {"problem": "1+1?", "answer": "02"})
    kwargs = {"model": tmp_path, "eval": file, "preset": "aime-2024", "template": "plain", "split": "eval"}
    env = gym.make("espo_env/Math-v0", **kwargs)
    observation, _ = env.reset(seed=0)
    assert BYTES.decode(observation["tokens"][: observation["length"].item()]) == "1+1?"
    steps = [env.step(token) for token in (*BYTES.encode("Answer: 2"), BYTES.eos_token_id)]
    assert [step[1] for step in steps] == [0.0] * 9 + [1.0]
    assert steps[-1][2]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "expected a data set as train or eval, got none, and preset 'default' names none"),
        ({"train": "data.jsonl", "preset": "gsm9k"}, "expected a preset out of .*'gsm8k'.*got 'gsm9k'"),
        (
            {"train": "data.jsonl", "preset": {"question": "q"}},
            r"expected attributes of a preset out of .*got \['question'\]",
        ),
        ({"train": "data.jsonl", "template": "boxd"}, "expected a template out of .*'boxed'.*got 'boxd'"),
        ({"train": "empty.jsonl"}, r"expected problems for split 'train', got none: .*0 of 0 problems"),
        ({"train": "data.jsonl", "max_prompt_tokens": 1}, "got none: .*1 too long"),
        (
            {"train": "data.jsonl", "preset": "gsm8k"},
            r"data.jsonl:1: expected a field 'question', got \['answer', 'problem'\]",
        ),
        (
            {"train": "words.jsonl", "preset": "aime-2024"},
            r"words.jsonl:1: expected a number as the answer, got 'many'",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, kwargs, message):
    write(tmp_path / "data.jsonl", {"problem": "1+1?", "answer": 2})
    write(tmp_path / "words.jsonl", {"problem": "1+1?", "answer": "many"})
    write(tmp_path / "empty.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        MathTask(BYTES, **kwargs)


def test_a_split_without_a_data_set_is_an_error():
    task = MathTask(BYTES, eval=SAMPLES / "gsm8k_sample.jsonl", preset="gsm8k")
    with pytest.raises(ValueError, match=r"expected a data set for split 'train', got sources for \['eval'\] only"):
        task.problem(0)


def test_a_tokenizer_without_the_tasks_characters_is_refused_with_those_that_it_lacks():
    digits = Tokenizer.from_symbols("0123456789+=")
    with pytest.raises(ValueError, match=r"vocabulary of 13 tokens can express, got 'J', .* in 'Janet"):
        MathTask(digits, eval=SAMPLES / "gsm8k_sample.jsonl", preset="gsm8k")
