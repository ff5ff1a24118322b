"""Training runs that are interrupted (Ctrl-C, SIGTERM) or killed, and go on.

Run with ``PYTHONPATH=.:tests/support``. Starts ``espo train --resume`` again and again, sends it a signal while it
trains, and looks at what it leaves: exit code, log, checkpoints.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml
from coin_task import CoinTask
from tiny_models import save_tiny_model

from espo_algo.commands.checkpoints import choose_checkpoint, iteration_of
from espo_algo.commands.run_log import RunLog

ROOT = Path(__file__).parents[2]
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}


@dataclass(frozen=True)
class Outcome:
    """What an interrupted process left.

    Attributes:
        exit_code: Of the process; negative where a signal ended it.
        message: What it wrote to stderr.
        logged: Iterations in the log.
        saved: Iteration of the newest whole checkpoint; 0 without one.
    """

    exit_code: int
    message: str
    logged: list[int]
    saved: int


def write_config(folder: Path, iterations: int) -> Path:
    """A configuration that trains an iteration in a fraction of a second, with its model."""
    content = {
        "environment": {"env": "espo_env/TokenGeneration-v0", "env_config": {"task": "coin_task:CoinTask"}},
        "env_runners": {"num_envs_per_env_runner": 8},
        "language_model": {"model": str(save_tiny_model(folder / "start", CoinTask().tokenizer, spare_tokens=5))},
        "generation": {"max_new_tokens": 8},
        "training": {"lr": 1e-3, "train_batch_size_per_learner": 16, "minibatch_size": 8},
        "debugging": {"seed": 0},
        "run": {"iterations": iterations, "output": str(folder / "run"), "checkpoint_every": 7},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def interrupt(config: Path, number: signal.Signals, delay: float = 0.0) -> Outcome:
    """Starts or resumes a run in a process, and sends it a signal ``delay`` seconds after its first new iteration."""
    folder = Path(yaml.safe_load(config.read_text())["run"]["output"])
    log = RunLog(folder)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(
        [sys.executable, "-m", "espo_algo.commands.cli", "train", str(config), "--resume"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        process_group=0,
    )
    size = -1
    while process.poll() is None:
        now = log.path.stat().st_size if log.path.is_file() else 0
        if 0 <= size < now:  # it has got smaller or stayed as it was before
            break
        size = now
        time.sleep(0.02)
    time.sleep(delay)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, message = process.communicate(timeout=120)
    checkpoint = choose_checkpoint(folder, skip_broken=False)
    saved = 0 if checkpoint is None else iteration_of(checkpoint)
    return Outcome(process.returncode, message, log.iterations(), saved)


def main() -> None:
    """Prints what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds, counts, lost, started = parser.parse_args().rounds, Counter[str](), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), iterations=1_000_000)
        delays = random.Random(0)
        for _, number in zip(range(rounds), itertools.cycle(EXIT_CODES), strict=False):
            outcome = interrupt(config, number, delays.uniform(0, 0.5))
            counts[number.name] += 1
            lost += outcome.logged[-1] - outcome.saved
            expected = outcome.exit_code == EXIT_CODES[number] and outcome.logged == [
                *range(1, len(outcome.logged) + 1)
            ]
            if not expected or (number != signal.SIGKILL and outcome.saved != outcome.logged[-1]):
                raise SystemExit(f"{number.name}: {outcome}")
    seconds = time.monotonic() - started
    print(f"{rounds} processes in {seconds:.0f} s: {dict(counts)}; every exit code and log as expected")
    print(f"iterations done again after a kill: {lost}")


if __name__ == "__main__":
    main()
