"""Drivers of Ray Tune that are killed while ESPO trains and keeps two checkpoints, and restored.

Run with ``PYTHONPATH=.:tests/support``. Kills the driver again and again, at random times after a few new checkpoints;
looks at what Tune's newest record of the experiment says to go on from, and whether it is there; and restores with
:func:`espo_algo.tuning.restore.mend`. Last, the run is brought to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from coin_task import CoinTask
from ray import tune
from tiny_models import save_tiny_model

ROOT = Path(__file__).parents[2]
DRIVER = """
import json, sys
from pathlib import Path
from ray import tune
from espo_algo import ESPOConfig
from espo_algo.local_ray import start_ray
from espo_algo.tuning.restore import mend

folder, model, iterations = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = (
    ESPOConfig()
    .environment("espo_env/TokenGeneration-v0", env_config={"task": "coin_task:CoinTask"})
    .env_runners(num_envs_per_env_runner=8)
    .language_model(model=model)
    .generation(max_new_tokens=8)
    .training(lr=1e-3, critic_lr=1e-3, train_batch_size_per_learner=16, minibatch_size=8)
    .debugging(seed=0, log_level="ERROR")
)
start_ray(num_cpus=2, logging_level="ERROR", log_to_driver=False)
if tune.Tuner.can_restore(str(folder / "run")):
    print(json.dumps(mend(folder / "run")), flush=True)
    tuner = tune.Tuner.restore(str(folder / "run"), "ESPO", param_space=config, resume_errored=True)
else:
    tuner = tune.Tuner(
        "ESPO",
        param_space=config,
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(folder),
            stop={"training_iteration": iterations},
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1),
            verbose=0,
        ),
    )
(result,) = tuner.fit()
print(json.dumps({"iteration": result.metrics["training_iteration"], "error": str(result.error)}), flush=True)
"""


def start(folder: Path, model: Path, iterations: int) -> subprocess.Popen[str]:
    """Starts or restores the driver."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    environment |= {"RAY_AIR_NEW_OUTPUT": "0"}  # which prints boxes
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), str(model), str(iterations)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def newest(folder: Path) -> int:
    """Number of the newest checkpoint folder; -1 without one."""
    return max((int(path.name.rpartition("_")[2]) for path in folder.glob("run/*/checkpoint_*")), default=-1)


def named(folder: Path) -> Path | None:
    """The checkpoint that Tune's newest record of the experiment says to go on from."""
    (trial,) = tune.ExperimentAnalysis(str(folder / "run")).trials
    return None if trial.checkpoint is None else Path(trial.checkpoint.path)


def kill(folder: Path, model: Path, iterations: int, choice: random.Random) -> str:
    """Starts or restores the driver, kills it a while after a few new checkpoints, and says what is left."""
    process, first = start(folder, model, iterations), newest(folder)
    while process.poll() is None and newest(folder) < first + 4 + choice.randrange(4):
        time.sleep(0.01)
    time.sleep(0.5 * choice.random())
    process.kill()
    said, _ = process.communicate()
    time.sleep(1.0)  # until the trial's process has noticed
    checkpoint = named(folder)
    there = "there" if checkpoint is not None and checkpoint.is_dir() else "gone"
    have = sorted(path.name for path in folder.glob("run/*/checkpoint_*"))
    return f"mended {said.strip() or []}; names {checkpoint and checkpoint.name} ({there}) of {have}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    choice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_tiny_model(folder / "model", CoinTask().tokenizer, spare_tokens=5)
        iterations = 20 * options.kills
        for number in range(options.kills):
            print(f"kill {number}: {kill(folder, model, iterations, choice)}", flush=True)
        end, _ = start(folder, model, iterations).communicate(timeout=300)
        print(end)
        if json.loads(end.splitlines()[-1]) != {"iteration": iterations, "error": "None"}:
            raise SystemExit(f"expected the run to come to its end after {iterations} iterations")


if __name__ == "__main__":
    main()
