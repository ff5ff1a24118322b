"""``espo tune`` on a real search: folders as ``espo train`` leaves them, interrupted, resumed, reported."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from coin_fixtures import coin_model  # noqa: F401 (fixture)
from ray import tune
from test_cli import espo, rows
from transformers import AutoModelForCausalLM

from espo_algo.commands.run_log import LOG
from espo_algo.tuning.search import _Progress
from espo_algo.tuning.trials import read_trials, trial_folders

pytestmark = pytest.mark.usefixtures("ray_session")

ITERATIONS = 8


def write_search(folder: Path, model: Path, **changes: object) -> Path:
    content = {
        "environment": {
            "env": "espo_env/TokenGeneration-v0",
            # The first two can be learnt; of the last one nothing is to be had.
            "env_config": {"task": "coin_task:CoinTask", "broken_prompts": {"grid_search": [[], [0], [*range(1000)]]}},
        },
        "env_runners": {"num_envs_per_env_runner": 8},
        "language_model": {"model": str(model)},
        "generation": {"max_new_tokens": 8},
        "early_stopping": {"beta": "auto", "target_stop_rate": {"uniform": [0.1, 0.3]}},
        "training": {"lr": {"loguniform": [1e-4, 1e-2]}, "train_batch_size_per_learner": 16, "minibatch_size": 8},
        "evaluation": {"evaluation_interval": 2, "evaluation_duration": 8},
        "debugging": {"seed": 0},
        "run": {"iterations": ITERATIONS, "output": str(folder / "search"), "checkpoint_every": 2, "responses": 6},
        "tune": {"samples": 1, "grace": 2},
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def interrupt(self, iteration: int, trials: list, trial: object, result: dict, **info: object) -> None:
    """What Ctrl-C does, when a trial reports its third iteration."""
    if result["iteration"] == 3:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, coin_model):
    """A search that was interrupted in its first trial, and brought to its end; its last trial fails."""
    folder = tmp_path_factory.mktemp("tune")
    config = write_search(folder, coin_model)
    log = folder / "search" / "trials" / "trial-000" / LOG
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Progress, "on_trial_result", interrupt)
        said = espo("tune", config, "--workers", 1, code=130)
    assert "SIGINT: ends now; trials go on from their newest checkpoints; a second one ends at once" in said
    assert f"interrupted; to go on: espo tune {config} --resume" in said
    assert "TUNE_DISABLE_SIGINT_HANDLER" not in os.environ  # or Ctrl-C would tear a later experiment of Tune's apart
    before = log.read_text().splitlines()
    assert len(trial_folders(folder / "search")) == 1
    said = espo("tune", config, "--resume", code=1)
    assert log.read_text().splitlines()[:2] == before[:2]  # the checkpoint's iterations were not done again
    return folder / "search", config, said


def test_each_trial_is_a_run(searched):
    folder, _, said = searched
    runs = trial_folders(folder)
    assert [run.name for run in runs] == ["trial-000", "trial-001"]
    for run in runs:
        done = [int(row["training_iteration"]) for row in rows(run / LOG)]
        assert done == [*range(1, len(done) + 1)]
        drawn, kept = json.loads((run / "values.json").read_text()), yaml.safe_load((run / "config.yaml").read_text())
        assert kept["training"]["lr"] == drawn["training.lr"]
        assert kept["early_stopping"]["target_stop_rate"] == drawn["early_stopping.target_stop_rate"]
        rate = rows(run / LOG)[-1]["learners"]["default_policy"]["policy_learning_rate"]
        assert rate == pytest.approx(drawn["training.lr"])
        if done[-1] == ITERATIONS:
            assert AutoModelForCausalLM.from_pretrained(run / "model").config.vocab_size == 16
        assert f"{run.name}: eval_accuracy " in said
    assert len({trial.values["training.lr"] for trial in read_trials(folder)}) == 2


def test_a_trial_that_fails_is_named_in_a_line(searched):
    _, _, said = searched
    (line,) = (line for line in said.splitlines() if line.startswith("error:"))
    assert line.startswith("error: failed: trial-002: ")
    assert "expected responses to train on, got none in 3 rounds of 16; lost: 48 to KeyError" in line
    assert "Traceback" not in said


def test_tune_knows_what_the_folders_know(searched):
    folder, _, _ = searched
    results = tune.ExperimentAnalysis(str(folder / "tune"), default_metric="eval_accuracy", default_mode="max")
    done = [trial for trial in results.trials if trial.status == "TERMINATED"]
    for trial, run in zip(sorted(done, key=str), read_trials(folder), strict=True):
        assert str(trial) == run.name
        assert trial.last_result["iteration"] == run.records[-1]["iteration"] == trial.last_result["training_iteration"]
        assert trial.last_result["eval_accuracy"] == run.last("eval_accuracy")
        assert trial.config == run.values


def test_a_trial_goes_on_as_a_run_of_its_own(searched, tmp_path):
    folder, _, _ = searched
    run = tmp_path / "run"
    shutil.copytree(folder / "trials" / "trial-000", run)
    espo("train", run / "config.yaml", "--resume", "--output", run)
    assert len(rows(run / LOG)) == ITERATIONS


def test_report_shows_all_trials(searched, tmp_path):
    folder, _, said = searched
    shown = espo("report", folder, "--output", tmp_path)
    table = [line.split() for line in shown.splitlines() if line.startswith("trial-0")]
    assert sorted(row[0] for row in table) == ["trial-000", "trial-001"]
    best = [float(row[-6]) for row in table]
    assert best == sorted(best, reverse=True)
    assert all(" ".join(row) in " ".join(said.split()) for row in table)
    assert (tmp_path / "curves.png").is_file()


def test_a_search_is_not_started_over_another_one_nor_changed_under_way(searched, tmp_path, coin_model):
    folder, config, _ = searched
    assert "expected an output folder without a search (or --resume)" in espo("tune", config, code=1)
    refused = espo("tune", config, "--resume", "--samples", 9, code=1)
    assert "tune.samples: 1 -> 9" in refused
    changed = write_search(tmp_path, coin_model, generation={"max_new_tokens": 4})
    refused = espo("tune", changed, "--resume", "--output", folder, code=1)
    assert "generation.max_new_tokens: 8 -> 4" in refused


def test_a_dry_run_says_what_would_run_and_leaves_nothing(tmp_path, coin_model):
    shown = espo("tune", write_search(tmp_path, coin_model), "--samples", 5, "--dry-run")
    assert "15 trials of 8 iterations, for the maximum of eval_accuracy; searcher: random; ASHA ends" in shown
    assert "early_stopping.target_stop_rate: uniform [0.1, 0.3]" in shown
    assert "a trial reserves: itself with 1 CPU\n" in shown
    assert "8 iterations of 16 responses" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["search.yaml"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"lr": {"uniform": [1, 0]}}}, "training.lr: uniform: expected two numbers [low, high]"),
        (
            {"env_runners": {"num_env_runners": 8}},
            "expected a cluster with 9 CPU for a trial (itself with 1 CPU; 8 env",
        ),
        (
            {"language_model": {"model": {"choice": ["./none"]}}},
            "model='./none', training.lr=0.0001: .language_model(model): expected a model folder",
        ),
    ],
)
def test_what_cannot_run_ends_with_a_message(tmp_path, coin_model, changes, message):
    output = espo("tune", write_search(tmp_path, coin_model, **changes), code=1)
    assert message in output
    assert len(output.splitlines()) <= 2
