"""Kills, stops and corrupts real processes while a small model trains; counts what was lost and what was counted.

``make faults`` runs it; it fails where anything is lost uncounted. The faults, at random at a given rate:

- kill: a runner's process gets SIGKILL;
- stop: it gets SIGSTOP, and so never answers again;
- corrupt: a number of its weights becomes NaN, until the next weights come.

Besides, a share of the problems has a grader that gives NaN, raises, gives nothing, or hangs (``faulty_task.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from coin_task import CoinTask
from tiny_models import save_tiny_model

from espo_algo import ESPO, ESPOConfig

BATCH = 48
SUPPORT = str(Path(__file__).parents[1] / "support")


@dataclass
class Tally:
    """What was done, and what came of it."""

    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    iterations: int = 0
    planned: int = 0
    answered: int = 0
    missing: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    equal: int = 0
    checks: int = 0
    back: list[float] = field(default_factory=list)
    built: float = 0.0
    alone: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        rate = ", ".join(
            f"{n} {what} ({60 * n / self.seconds:.1f} a minute)" for what, n in sorted(self.faults.items())
        )
        lost = ", ".join(f"{n} {what}" for what, n in self.lost.most_common())
        rows = {
            "faults": rate,
            "iterations": f"{self.iterations} in {self.seconds:.0f} s",
            "responses planned": str(self.planned),
            "trained on": str(self.answered - sum(self.lost.values())),
            "missing with their runners, counted": str(self.missing),
            "lost alone, counted by name": lost,
            "unaccounted for": str(self.planned - self.answered - self.missing),
            "weights equal on every runner and the learner": f"{self.equal} of {self.checks} checks",
            "until all runners served again": _times(self.back),
            "building the algorithm: all runners start": f"{self.built:.1f} s",
            "a runner killed while nothing else happens serves again": _times(self.alone),
        }
        return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _times(seconds: list[float]) -> str:
    return f"after {np.median(seconds):.1f} s in the median, {max(seconds):.1f} s at most" if seconds else "-"


def make_config(folder: Path, runners: int) -> ESPOConfig:
    """A local learner, and limits as short as a small model allows."""
    return (
        ESPOConfig()
        .environment("espo_env/TokenGeneration-v0", env_config={"task": "faulty_task:FaultyTask"})
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=8)
        .language_model(model=save_tiny_model(folder, CoinTask().tokenizer, spare_tokens=5))
        .generation(max_new_tokens=12)
        .early_stopping(beta="auto", target_stop_rate=0.2)
        .training(lr=1e-3, critic_lr=1e-3, train_batch_size_per_learner=BATCH, minibatch_size=16)
        .fault_tolerance(wait_floor_s=5.0, wait_factor=5.0, max_empty_rounds=20)
        .debugging(seed=0, log_level="ERROR")
    )


def runner_processes() -> list[psutil.Process]:
    """The runners of this process's Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ESPOEnvRunner"):
                found.append(process)
    return found


def corrupt(runner: Any) -> None:
    """Makes a number of a runner's weights NaN."""
    runner.module.model.value_head.bias.data.fill_(float("nan"))


class Vandal(threading.Thread):
    """Does a fault at random times, ``per_minute`` on average."""

    def __init__(self, algo: ESPO, per_minute: float, seed: int, tally: Tally) -> None:
        super().__init__(daemon=True)
        self._algo, self._tally, self._rng = algo, tally, random.Random(seed)
        self._per_second = per_minute / 60
        self.ends = threading.Event()

    def run(self) -> None:
        while not self.ends.wait(self._rng.expovariate(self._per_second)):
            what = self._rng.choice(["kill", "stop", "corrupt"])
            if what == "corrupt":
                manager = self._algo.env_runner_group._worker_manager
                healthy = manager.healthy_actor_ids()
                if not healthy:
                    continue
                manager.actors()[self._rng.choice(healthy)].apply.remote(corrupt)
            else:
                processes = runner_processes()
                if not processes:
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._rng.choice(processes).pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            self._tally.faults[what] += 1


def check_weights(algo: ESPO, tally: Tally) -> None:
    """Whether every runner that has served the last sync has the learner's weights."""
    group, newest = algo.env_runner_group, algo.version_sent(algo.env_runner_group)
    expected = algo.learner_group._learner.language_module.get_state(inference_only=True)

    def look(runner: Any) -> tuple[int, dict[str, Any]]:
        return runner.weights_version, runner.module.get_state(inference_only=True)

    for version, state in group.foreach_env_runner(look, local_env_runner=False, timeout_seconds=2.0):
        if version == newest and np.isfinite(state["model.value_head.bias"]).all():  # not the one just corrupted
            tally.checks += 1
            tally.equal += all(np.array_equal(state[name], expected[name]) for name in expected)


def run(seconds: float, per_minute: float, seed: int, folder: Path, runners: int = 3, alone: int = 0) -> Tally:
    """Trains for so long under faults, then without any until every runner is back; then kills ``alone`` runners, one
    after the other has come back. Ray is running.
    """
    tally = Tally()
    start = time.monotonic()
    algo: ESPO = make_config(folder, runners).build_algo()
    tally.built = time.monotonic() - start
    vandal = Vandal(algo, per_minute, seed, tally)
    incomplete_since: float | None = None
    start = time.monotonic()

    def train() -> bool:
        """One iteration; whether all runners took part."""
        nonlocal incomplete_since
        before = tally.missing
        result = algo.train()
        runs = result["env_runners"]
        tally.iterations += 1
        tally.missing = int(result["num_missing_episodes_lifetime"])
        tally.answered = int(runs["num_episodes_lifetime"])
        # RLlib gives NaN for a sum to which nothing was added this time.
        tally.lost.update({name: int(n) for name, n in runs.get("lost_episodes", {}).items() if n == n})
        whole = tally.missing == before and algo.env_runner_group.num_healthy_remote_workers() == runners
        if whole and incomplete_since is not None:
            tally.back.append(time.monotonic() - incomplete_since)
        incomplete_since = None if whole else incomplete_since or time.monotonic()
        check_weights(algo, tally)
        return whole

    def train_until_whole() -> None:
        deadline = time.monotonic() + 200
        while not train():
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected every runner back within 200 s of the last fault, got\n{tally}")

    vandal.start()
    while time.monotonic() - start < seconds:
        train()
    vandal.ends.set()
    vandal.join()
    tally.seconds = time.monotonic() - start
    train_until_whole()
    back, tally.back = tally.back, tally.alone
    for _ in range(alone):
        runner_processes()[0].kill()
        while train():
            pass  # nobody has noticed
        train_until_whole()
    tally.back = back
    tally.planned = algo.batches.num_planned
    algo.stop()
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--per-minute", type=float, default=12.0, help="faults")
    parser.add_argument("--alone", type=int, default=3, help="runners that are killed one by one at the end")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from espo_algo.local_ray import start_ray

    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([SUPPORT, os.environ.get("PYTHONPATH", "")])}
    start_ray(num_cpus=8, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": environment})
    with tempfile.TemporaryDirectory() as folder:
        tally = run(60 * options.minutes, options.per_minute, options.seed, Path(folder), alone=options.alone)
    print(tally)
    assert sum(tally.faults.values()) > 0, "there was no fault"
    assert tally.planned == tally.answered + tally.missing, "responses are unaccounted for"
    assert {"InvalidGrade", "ZeroDivisionError"} <= tally.lost.keys(), "a faulty grader was not counted"
    assert tally.equal == tally.checks > 0, "a runner had other weights than the learner"


if __name__ == "__main__":
    main()
