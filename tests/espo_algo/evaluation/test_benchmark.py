"""Evaluation on data sets, on a policy whose chances are known."""

from __future__ import annotations

import json

import pytest
import torch

from espo_algo import ESPOConfig, LanguageModelWithCritic
from espo_algo.evaluation import Evaluation
from espo_algo.evaluation.benchmark import DataSet, format_scores, math_data_set, run_benchmark, summarise
from espo_algo.evaluation.scores import majority_at_k, pass_at_k
from espo_algo.learning.sft import small_model
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, RegretStatistics, ToleranceController
from espo_env.grading import Grade
from espo_env.tasks import Problem, Task
from espo_env.tokenizer import Tokenizer
from espo_env.types import StopReason

HORIZON, PROBLEMS, SAMPLES = 5, 10, 4


class VoteTask(Task):
    """The first letter is the answer; right is ``a``. Two levels."""

    def __init__(self):
        super().__init__(Tokenizer.from_symbols("ab"))

    def num_problems(self, split):
        return PROBLEMS

    @property
    def max_prompt_tokens(self):
        return 1

    def problem(self, index, split="train"):
        self.check_index(index, split)
        return Problem("a", "a", index=index, metadata={"level": 1 + index % 2})

    def grade(self, problem, response):
        return Grade(response[:1] == "a", response[:1] or None, "equal" if response[:1] == "a" else "different")


@pytest.fixture(scope="module")
def config():
    return ESPOConfig().env_runners(num_envs_per_env_runner=8).generation(max_new_tokens=HORIZON)


@pytest.fixture(scope="module")
def model():
    policy = small_model(VoteTask(), max_length=16, hidden_size=8, num_layers=1, num_heads=1)
    return LanguageModelWithCritic(policy)


DATA = DataSet("votes", "espo_env/TokenGeneration-v0", {"task": VoteTask()})
FIRES = EarlyStoppingState(
    RegretStatistics(mean=0.0, var=1.0), ToleranceController(beta=0.05), CriticWarmup(done=True), calibrate=False
)


def run(config, model, output, early_stopping=None, data=(DATA,), **options):
    options = {"num_samples": SAMPLES, "progress": False, "source": {"model": "m"}} | options
    return run_benchmark(config, model, early_stopping, list(data), output, **options)


def responses(folder, name="votes"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()][1:]


def scores_by_hand(rows):
    """avg, pass and maj of the written responses."""
    scores = {"avg@4": [], "pass@2": [], "pass@4": [], "maj@2": [], "maj@4": []}
    for row in rows:
        correct = [r["correct"] is True for r in row]
        votes = [r["grade"]["answer"] if r["grade"] else None for r in row]
        scores["avg@4"].append(sum(correct) / 4)
        for k in (2, 4):
            scores[f"pass@{k}"].append(pass_at_k(4, sum(correct), k))
            scores[f"maj@{k}"].append(majority_at_k(votes, correct, k))
    return {name: sum(values) / len(values) for name, values in scores.items()}


def test_scores_are_those_of_the_written_responses(config, model, tmp_path):
    results = run(config, model, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == results
    written = sorted(responses(tmp_path), key=lambda r: r["number"])
    assert [r["number"] for r in written] == list(range(PROBLEMS * SAMPLES))
    assert [r["index"] for r in written] == [n // SAMPLES for n in range(PROBLEMS * SAMPLES)]
    rows = [written[i : i + SAMPLES] for i in range(0, len(written), SAMPLES)]
    entry = results["data_sets"]["votes"]
    assert {name: s["value"] for name, s in entry["scores"].items()} == pytest.approx(scores_by_hand(rows))
    assert 0.0 < entry["accuracy"] < 1.0
    for level in (1, 2):
        part = entry["levels"][str(level)]
        assert part["problems"] == 5
        of_level = rows[level - 1 :: 2]
        assert {name: s["value"] for name, s in part["scores"].items()} == pytest.approx(scores_by_hand(of_level))
    assert all(s["low"] <= s["value"] <= s["high"] for s in entry["scores"].values())
    assert entry["tokens"] == sum(len(r["response_tokens"]) for r in written)
    assert sum(entry["grades"].values()) == sum(r["stop_reason"] == "eos" for r in written)
    assert "regrets" not in written[0]
    assert "with_stops" not in entry


def test_a_run_that_ended_early_goes_on_with_what_is_missing(config, model, tmp_path, monkeypatch):
    whole = run(config, model, tmp_path / "whole")
    run(config, model, tmp_path / "part")
    path = tmp_path / "part" / "votes.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:14]) + lines[14][:20], "utf-8")
    asked = []
    submit = TorchEngine.submit
    monkeypatch.setattr(TorchEngine, "submit", lambda self, requests: asked.extend(requests) or submit(self, requests))
    resumed = run(config, model, tmp_path / "part")
    wanted = PROBLEMS * SAMPLES - 13
    assert len([r for r in asked if r.max_new_tokens == HORIZON]) == wanted
    asked.clear()
    again = run(config, model, tmp_path / "part")
    assert asked == []  # no engine is built
    for results in (resumed, again):
        assert without_time(results) == without_time(whole)


def without_time(results):
    return {name: {k: v for k, v in entry.items() if k != "seconds"} for name, entry in results["data_sets"].items()}


def test_marks_give_both_figures(config, model, tmp_path):
    plain = run(config, model, tmp_path / "plain")["data_sets"]["votes"]
    both = run(config, model, tmp_path / "both", FIRES)
    entry, stopped = both["data_sets"]["votes"], both["data_sets"]["votes"]["with_stops"]
    # Marking changes no response.
    for name in ("scores", "tokens", "stop_reason", "levels"):
        assert entry[name] == plain[name]
    written = responses(tmp_path / "both")
    marked = [r for r in written if r["mark"] >= 0]
    assert 0 < len(marked) < len(written)
    assert entry["stop_rate"] == stopped["stop_rate"] == len(marked) / len(written)
    assert stopped["stop_reason"]["regret"] == len(marked) / len(written)
    right = sum(r["correct"] is True and r["mark"] < 0 for r in written)
    assert stopped["accuracy"] == both["mean_accuracy_with_stops"] == right / len(written)
    expected = sum(len(r["response_tokens"]) if r["mark"] < 0 else r["mark"] + 1 for r in written)
    assert stopped["tokens"] == expected < entry["tokens"]
    assert len(written[0]["regrets"]) == len(written[0]["response_tokens"])


def test_several_data_sets_have_files_and_a_mean_of_their_own(config, model, tmp_path):
    other = DataSet("other", DATA.env, DATA.env_config)
    results = run(config, model, tmp_path, data=(DATA, other), num_problems=3, num_samples=1)
    assert len(responses(tmp_path, "other")) == 3
    accuracies = [results["data_sets"][name]["accuracy"] for name in ("votes", "other")]
    assert results["mean_accuracy"] == pytest.approx(sum(accuracies) / 2)
    table = format_scores(results)
    assert [line.split()[0] for line in table.splitlines()[2:]] == [
        "votes",
        "level",
        "level",
        "other",
        "level",
        "level",
    ]
    with pytest.raises(ValueError, match="different names, got"):
        run(config, model, tmp_path, data=(DATA, DATA))


def test_another_policy_or_setting_needs_another_folder(config, model, tmp_path):
    run(config, model, tmp_path, num_problems=1)
    with pytest.raises(ValueError, match="samples 4 \\(now 2\\)"):
        run(config, model, tmp_path, num_problems=1, num_samples=2)
    with pytest.raises(ValueError, match="model 'm' \\(now 'n'\\)"):
        run(config, model, tmp_path, num_problems=1, source={"model": "n"})
    # The same task in another process is another object.
    again = DataSet("votes", DATA.env, {"task": VoteTask()})
    assert run(config, model, tmp_path, data=(again,), num_problems=1)["data_sets"]["votes"]["problems"] == 1
    # More problems are more of the same.
    assert run(config, model, tmp_path, num_problems=2)["data_sets"]["votes"]["problems"] == 2


def test_answers_that_are_the_same_number_vote_together(config, model):
    from espo_algo.episodes import TokenEpisode

    def answered(answer, correct):
        empty = torch.zeros(1, dtype=torch.int32).numpy()
        grade = Grade(correct, answer, "equal" if correct else "different")
        return TokenEpisode(empty, empty, StopReason.EOS, correct=correct, grade=grade, problem=Problem("p", "1"))

    row = [answered("1000", True), answered("1,000", True), answered("7", False), answered(r"\frac{7}{1}", False)]
    summary = summarise(Evaluation([*row, answered("7.0", False)], 5))
    assert summary["scores"]["maj@5"]["value"] == 0.0  # three sevens, two thousands
    assert summary["scores"]["avg@5"]["value"] == 0.4


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("data/test.jsonl", "test", {"preset": "default", "eval": "data/test.jsonl"}),
        ("gsm8k=data/g.jsonl", "g", {"preset": "gsm8k", "eval": "data/g.jsonl"}),
        ("gsm8k", "gsm8k", {"preset": "gsm8k"}),
    ],
)
def test_data_sets_by_short_names(spec, name, options):
    data = math_data_set(spec, "model", "chat", 50)
    assert (data.name, data.env) == (name, "espo_env/Math-v0")
    assert data.env_config == {"model": "model", "template": "chat", "max_prompt_tokens": 50} | options
