"""A run that goes on: with what it was started with, from a checkpoint that is whole, beside nobody else."""

import gc
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from coin_task import CoinTask
from test_cli import espo, rows, write_config

from espo_algo.commands.config_file import RunOptions
from espo_algo.commands.run_folder import train
from espo_algo.commands.run_log import LOG, RunLog
from espo_algo.commands.run_report import RESPONSES
from espo_algo.evaluation.response_recorder import read_snapshots
from espo_algo.learning.learner import ESPOLearner
from espo_algo.lock import lock

pytestmark = pytest.mark.usefixtures("ray_session")

LENGTH = {"checkpoint_every": 2, "responses": 6, "export": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, coin_model):
    """Three iterations; checkpoints of the second and third."""
    folder = tmp_path_factory.mktemp("runs")
    run = LENGTH | {"iterations": 3, "output": str(folder / "run")}
    espo("train", write_config(folder, coin_model, run=run))
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def resume(run: Path, model: Path, *options: str, iterations: int = 4, code: int = 0, **changes: object) -> str:
    length = LENGTH | {"iterations": iterations, "output": str(run)}
    config = write_config(run.parent, model, run=length, **changes)
    return " ".join(espo("train", config, "--resume", *options, code=code).split())


def iterations(run: Path) -> list[int]:
    return [int(row["training_iteration"]) for row in rows(run / LOG)]


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_harmless_keys_may_change(run, coin_model):
    before = (run / "config.yaml").read_text()
    resume(run, coin_model)
    assert iterations(run) == [1, 2, 3, 4]
    assert (run / "config-until-000003.yaml").read_text() == before
    assert (run / "config.yaml").read_text() == (run.parent / "config.yaml").read_text() != before


def test_another_configuration_is_named_key_by_key(run, coin_model):
    before = (run / "config.yaml").read_text()
    training = {"lr": 1e-2, "train_batch_size_per_learner": 16, "minibatch_size": 8, "weight_decay": 0.5}
    refused = resume(run, coin_model, code=1, training=training)
    assert "training.lr: 0.001 -> 0.01; training.weight_decay: nothing -> 0.5; --accept-changes goes on" in refused
    assert (run / "config.yaml").read_text() == before
    assert iterations(run) == [1, 2, 3]
    resume(run, coin_model, "--accept-changes", training=training)
    rates = [row["learners"]["default_policy"]["policy_learning_rate"] for row in rows(run / LOG)]
    assert rates == [1e-3] * 3 + [1e-2]
    assert (run / "config-until-000003.yaml").read_text() == before


def test_another_number_of_problems_is_named(run, coin_model, monkeypatch):
    monkeypatch.setattr(CoinTask, "num_problems", lambda self, split: 900)
    assert "number of training problems: 1000 -> 900" in resume(run, coin_model, code=1)


def test_a_broken_checkpoint_is_named_and_skipped_when_that_is_meant(run, coin_model):
    inside = "learner_group/learner/rl_module/default_policy/module_state.pkl"
    weights = run / "checkpoints" / "iteration-000003" / inside
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    refused = resume(run, coin_model, code=1)
    assert f"{run / 'checkpoints' / 'iteration-000003'}: expected {inside} with the SHA-256" in refused
    assert "--skip-broken goes on from the newest checkpoint that is whole" in refused
    resume(run, coin_model, "--skip-broken", iterations=3)
    assert iterations(run) == [1, 2, 3]
    assert sorted(path.name for path in (run / RESPONSES).iterdir()) == [f"snapshot-00000{i}.json" for i in (1, 2, 3)]
    assert checkpoints(run) == ["broken-iteration-000003", "iteration-000002", "iteration-000003"]
    resume(run, coin_model)
    assert iterations(run) == [1, 2, 3, 4]


def test_a_log_that_is_gone_is_missed(run, coin_model):
    (run / LOG).unlink()
    refused = resume(run, coin_model, code=1)
    assert f"expected iterations 1 to 3 in {run / LOG}, as there is a checkpoint of iteration 3, got 3 of" in refused
    resume(run, coin_model, "--accept-changes")
    assert iterations(run) == [4]


def test_checkpoints_without_a_log_are_a_run(run, coin_model):
    (run / LOG).unlink()
    config = write_config(run.parent, coin_model)
    assert "expected an output folder without a run (or --resume)" in espo("train", config, code=1)


def test_a_second_writer_is_refused(run, coin_model):
    with lock(run / "lock"):
        assert f"lock held by process {os.getpid()} on {os.uname().nodename}" in resume(run, coin_model, code=1)
    assert iterations(run) == [1, 2, 3]


def test_a_run_without_an_exported_model_can_be_reported(run):
    with (run / LOG).open("a") as file:
        file.write('{"training_iteration": 4.0, "time')  # as a killed process leaves it
    espo("report", run)
    assert f'"name":"{run}"' in (run / "responses.html").read_text()
    snapshots = read_snapshots(run / RESPONSES)
    assert [(s["iteration"], len(s["responses"]), s["total"]) for s in snapshots] == [(i, 6, 16) for i in (1, 2, 3)]
    assert not (run / "model").exists()
    assert json.loads((run / "run.json").read_text()) == {"number of training problems": 1000}


def test_nothing_of_a_learner_stays_in_memory(coin_config, tmp_path):
    gc.collect()  # what earlier tests left
    gc.disable()  # what is left to it may stay for hours
    try:
        train(coin_config(), RunOptions(iterations=1, output=str(tmp_path / "run"), export=False), progress=False)
        assert not [found for found in gc.get_objects() if isinstance(found, ESPOLearner)]
    finally:
        gc.enable()


def test_a_configuration_made_in_python_trains_in_a_folder_too(coin_config, tmp_path, monkeypatch):
    length = RunOptions(iterations=1, output=str(tmp_path / "run"), export=False)
    folder = train(coin_config(), length, progress=False)
    train(coin_config(), replace(length, iterations=2), resume=True, progress=False)
    assert [record["iteration"] for record in RunLog(folder).records()] == [1, 2]
    monkeypatch.setattr(CoinTask, "num_problems", lambda self, split: 900)
    with pytest.raises(ValueError, match="number of training problems: 1000 -> 900"):
        train(coin_config(), length, resume=True)
