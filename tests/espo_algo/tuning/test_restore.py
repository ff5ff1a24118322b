"""A record that names a checkpoint that is gone, as a killed driver leaves it (tests/faults/kill_tune.py)."""

import shutil
import signal
from pathlib import Path

import pytest
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from ray import tune

from espo_algo import ESPO
from espo_algo.manifest import BrokenCheckpointError
from espo_algo.tuning.restore import mend, restore

pytestmark = pytest.mark.usefixtures("ray_session")


class Interrupted(tune.Callback):
    """Ctrl-C after the third iteration, in the first life of an experiment."""

    lives = 1

    def on_checkpoint(self, iteration, trials, trial, checkpoint, **info):
        if Interrupted.lives and trial.last_result["training_iteration"] == 3:
            Interrupted.lives -= 1
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, coin_config) -> Path:
    """Three iterations of five, the newest two checkpoints kept."""
    folder = tmp_path_factory.mktemp("experiments")
    tune.Tuner(
        "ESPO",
        param_space=coin_config().env_runners(num_env_runners=1),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(folder),
            stop={"training_iteration": 5},
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1),
            callbacks=[Interrupted()],
            verbose=0,
        ),
    ).fit()
    return folder / "run"


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/checkpoint_*"))


def named(folder: Path) -> Path:
    (trial,) = tune.ExperimentAnalysis(str(folder)).trials
    return Path(trial.checkpoint.path)


@pytest.fixture
def experiment(interrupted, tmp_path) -> Path:
    shutil.copytree(interrupted, tmp_path / "run")
    return tmp_path / "run"


def test_what_is_whole_is_left_alone(experiment):
    before = checkpoints(experiment)
    assert len(before) == 2
    assert mend(experiment) == []
    assert checkpoints(experiment) == before


def test_a_trial_without_a_whole_checkpoint_is_named(experiment):
    for checkpoint in checkpoints(experiment):
        (checkpoint / "algorithm_state.pkl").unlink()
    with pytest.raises(BrokenCheckpointError, match=r"expected a whole checkpoint for trial ESPO_.*, got none"):
        mend(experiment)


def test_an_experiment_goes_on_although_the_checkpoint_that_it_names_is_gone(interrupted, caplog):
    gone = named(interrupted)
    shutil.rmtree(gone)
    (left,) = checkpoints(interrupted)
    (result,) = restore(interrupted).fit()
    assert result.error is None
    assert result.metrics["training_iteration"] == 5
    assert left < gone  # so it was the second iteration that it went on from
    assert [int(i) for i in result.metrics_dataframe["training_iteration"]][-3:] == [3, 4, 5]
    assert "Error handling checkpoint" not in caplog.text
    assert "env_runners/early_stopping/stop_rate" in result.metrics_dataframe.columns
    algo = ESPO.from_checkpoint(result.checkpoint.path)
    assert algo.training_iteration == 5
    assert algo.train()["training_iteration"] == 6
    algo.stop()
