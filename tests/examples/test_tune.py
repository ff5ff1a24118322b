"""The examples with Ray Tune, shortened."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from espo_algo.experiments.starts import make_start
from espo_algo.tuning.metrics import NAMES
from espo_algo.tuning.search_file import load_search

pytestmark = pytest.mark.usefixtures("ray_session")

SMALL = ["--iterations", 2, "--problems", 8, "--sft-steps", 1]


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starts")
    make_start("arithmetic", folder, sft_steps=1)
    return folder


def run(module: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    __import__(module)
    sys.modules[module].main([str(argument) for argument in arguments])


def test_the_file_of_a_search_is_right_at_the_ends_of_its_ranges(starts):
    search = load_search(Path(__file__).parents[2] / "examples" / "arithmetic_search.yaml")
    content = {**search.content, "language_model": {"model": str(starts / "start-arithmetic"), "critic": "separate"}}
    assert replace(search, content=content).check().check_task().max_new_tokens == 64


def test_a_search_logs_under_readable_names(starts, tmp_path, monkeypatch, capsys):
    loggers = [f"--{name}" for name in ("wandb", "mlflow") if find_spec(name)]
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(
        "tune_search",
        monkeypatch,
        "--samples",
        2,
        "--grace",
        1,
        "--starts",
        starts,
        "--output",
        tmp_path,
        *SMALL,
        *loggers,
    )
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    (header,) = (line for line in table if line[:1] == ["trial"])
    assert set(header[1:5]) == {"target_stop_rate", "fail_reward", "lr", "critic_lr"}
    assert "eval_accuracy" in header
    assert sum(line[:1] != [] and line[0].startswith("trial-") for line in table) == 2
    assert (tmp_path / "trials.png").is_file()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("events.out.tfevents*"))
    assert b"ray/tune/stop_rate" in written
    assert b"env_runners" not in written
    if "--wandb" in loggers:
        runs = [*tmp_path.glob("search/*/wandb/offline-run-*/run-*.wandb")]
        assert len(runs) == 2
        assert all(b"stop_rate" in path.read_bytes() for path in runs)
    if "--mlflow" in loggers:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        logged = client.search_runs([client.get_experiment_by_name("espo").experiment_id])
        assert len(logged) == 2
        for one in logged:
            assert {*one.data.params} == {"target_stop_rate", "fail_reward", "lr", "critic_lr"}
            assert {"accuracy", "stop_rate", "eval_accuracy", "tokens"} <= one.data.metrics.keys()
            assert one.data.metrics.keys() <= {*NAMES, "training_iteration", "time_total_s", "timesteps_total", "done"}
