"""What an iteration costs the driver as runners and learners are added, and what that comes to with hundreds.

Run with ``PYTHONPATH=.:tests/support``. Runners and learners are real actors; an engine answers from a table
(``table_engine.py``), so that what is left is ours: plans, calls, pickles, metrics, state, weights.
Each runner writes 16 responses of 64 tokens an iteration. Times are CPU time of the driver's process with all its
threads, medians of the iterations behind the first; its actors' time is not in them. A straight line through the counts
of runners says what 64 and 512 would take.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from coin_task import CoinTask
from ray import cloudpickle
from tiny_models import save_tiny_model

import espo_algo.batches
import espo_algo.espo
from espo_algo import ESPO, ESPOConfig
from espo_algo.evaluation.report import format_table
from espo_algo.local_ray import start_ray
from espo_algo.rollout.plans import Planner
from espo_env.early_stopping import EarlyStoppingState

SUPPORT = str(Path(__file__).parents[1] / "support")
RESPONSES, TOKENS = 16, 64
PARTS: dict[str, tuple[Any, str]] = {
    "plan": (Planner, "plans"),
    "collect": (espo_algo.espo, "collect_from_runners"),
    "metrics": (espo_algo.batches, "log_rollouts"),
    "deal and update": (espo_algo.espo, "update_learners"),
    "state": (EarlyStoppingState, "updated"),
    "sync": (espo_algo.espo, "sync_weights"),
}
REST = "RLlib and the rest"


def make_config(folder: Path, runners: int, learners: int) -> ESPOConfig:
    task = CoinTask(further_symbols=200)
    batch = RESPONSES * runners // learners
    return (
        ESPOConfig()
        .environment("espo_env/TokenGeneration-v0", env_config={"task": "coin_task:CoinTask", "further_symbols": 200})
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=RESPONSES)
        .learners(num_learners=learners)
        .language_model(model=save_tiny_model(folder, task.tokenizer, 8, max_position_embeddings=128))
        .generation(engine="table_engine:ENGINE", engine_options={"tokens": TOKENS}, max_new_tokens=TOKENS)
        .training(train_batch_size_per_learner=batch, minibatch_size=batch, num_epochs=1)
        .early_stopping(rule="never")
        .debugging(seed=0, log_level="ERROR")
    )


@contextmanager
def watched(seconds: dict[str, float]) -> Iterator[None]:
    """Adds the CPU time of each part to ``seconds``."""

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[part] += time.process_time() - start

        return call

    patches = [patch.object(owner, name, timed(part, getattr(owner, name))) for part, (owner, name) in PARTS.items()]
    for each in patches:
        each.start()
    yield
    for each in patches:
        each.stop()


def measure(runners: int, learners: int, iterations: int) -> dict[str, float]:
    """CPU seconds of an iteration by part, and wall seconds of the update."""
    with tempfile.TemporaryDirectory() as folder:
        algo: ESPO = make_config(Path(folder), runners, learners).build_algo()
        rows = []
        for _ in range(1 + iterations):
            seconds: dict[str, float] = defaultdict(float)
            with watched(seconds):
                start = time.process_time()
                result = algo.train()
                whole = time.process_time() - start
            assert result["env_runners"]["num_episodes"] == RESPONSES * runners
            seconds[REST] = whole - sum(seconds.values())
            rows.append([seconds[part] for part in (*PARTS, REST)])
        algo.stop()
    return dict(zip((*PARTS, REST), np.median(rows[1:], axis=0).tolist(), strict=True))


def call_bytes(runners: int) -> tuple[int, int]:
    """What the calls of all runners carry in plans: to each its own, and everybody's to each (as it was)."""
    plans = Planner(lambda i: i, seed=0).plans(range(RESPONSES * runners))
    own = len(cloudpickle.dumps(plans[::runners], protocol=5))
    return runners * own, runners * len(cloudpickle.dumps(plans, protocol=5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--learners", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--iterations", type=int, default=5)
    options = parser.parse_args()
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([SUPPORT, os.environ.get("PYTHONPATH", "")])}
    most = max(options.runners) + max(options.learners)
    start_ray(num_cpus=most, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": environment})
    found = {}
    for runners in options.runners:
        found[runners] = measure(runners, 1, options.iterations)
        print(runners, {part: round(1e3 * s, 1) for part, s in found[runners].items()}, flush=True)
    names = [*PARTS, REST]
    lines = {name: np.polyfit(options.runners, [found[r][name] for r in options.runners], 1) for name in names}
    extrapolated = {
        f"{runners} (line)": {name: max(0.0, float(np.polyval(lines[name], runners))) for name in names}
        for runners in (64, 512)
    }
    rows = []
    for runners, parts in (found | extrapolated).items():
        whole, count = sum(parts.values()), int(str(runners).split()[0])
        each = [f"{1e6 * whole / (RESPONSES * count):.0f}", f"{1e3 * whole / count:.1f}"]
        rows.append([str(runners), *(f"{1e3 * parts[name]:.1f}" for name in names), f"{1e3 * whole:.0f}", *each])
    print(f"\nthe driver's CPU time an iteration, ms; {RESPONSES} responses of {TOKENS} tokens a runner, one learner")
    print(format_table(["runners", *names, "all", "us a response", "ms a runner"], rows))
    slopes = sorted(((float(line[0]), name) for name, line in lines.items()), reverse=True)
    print("with every further runner, ms: " + ", ".join(f"{name} {1e3 * slope:.2f}" for slope, name in slopes))
    print("\nplans that the calls carry, kB, and what they would if every runner got everybody's")
    rows = [[str(runners), *(f"{size / 1e3:.0f}" for size in call_bytes(runners))] for runners in (16, 64, 512)]
    print(format_table(["runners", "each its own", "everybody's to each"], rows), flush=True)
    rows = []
    for learners in options.learners:
        parts = measure(4, learners, options.iterations)
        rows.append(
            [str(learners), *(f"{1e3 * parts[name]:.1f}" for name in names), f"{1e3 * sum(parts.values()):.0f}"]
        )
        print(rows[-1], flush=True)
    print("\nthe same with 4 runners and more learners (gloo), equal batches in all")
    print(format_table(["learners", *names, "all"], rows))


if __name__ == "__main__":
    main()
