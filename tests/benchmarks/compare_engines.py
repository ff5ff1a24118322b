"""Training on vLLM beside training on the embedded engine: the quickstart's task, several seeds.

The same start, problems and sampling seeds for both; the starts' heads are as wide as vLLM wants them on a CPU. Printed
for each run: accuracy of the first and the last five iterations' rollouts, stop rate of the last five, tokens of all
iterations, and the learnt policy's sampled accuracy on evaluation problems (on the embedded engine for both). In the
first run on vLLM its only runner is killed in the middle: what it was writing is lost and counted, and the run goes on.

How to run::

    OMP_NUM_THREADS=1 python tests/benchmarks/compare_engines.py --iterations 20 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path

import ray

sys.path.insert(0, str(Path(__file__).parents[2]))
from espo_algo import ESPO
from espo_algo.evaluation import evaluate_policy
from espo_algo.evaluation.report import format_table, iteration_record
from espo_algo.experiments.config import build_config
from espo_algo.experiments.run import for_evaluation

COLUMNS = ("first", "last", "stop rate", "tokens", "evaluation", "missing", "mismatch", "seconds")


def kill_soon(algo: ESPO, seconds: float) -> None:
    """Kills the only runner while it writes."""
    actor = algo.env_runner_group._worker_manager._actors[1]
    threading.Timer(seconds, lambda: ray.kill(actor, no_restart=False)).start()


def train(engine: str, seed: int, iterations: int, problems: int, kill_at: int | None) -> list[float]:
    """One run; its numbers in the order of ``COLUMNS``."""
    config = build_config(engine="vllm", seed=seed, iterations=iterations)
    config.fault_tolerance(delay_between_env_runner_restarts_s=0.0)
    if engine == "torch":
        config.generation(engine="torch").env_runners(num_env_runners=0, num_gpus_per_env_runner=0)
    start = time.perf_counter()
    algo = config.build_algo()
    results, records = [], []
    for iteration in range(iterations):
        if iteration == kill_at:
            kill_soon(algo, records[-1]["sampling_s"] / 2)
        results.append(algo.train())
        records.append(iteration_record(results[-1]))
    seconds = time.perf_counter() - start
    measured = evaluate_policy(for_evaluation(config), algo.policy().model, num_problems=problems, stops="off")
    algo.stop()
    return [
        statistics.mean(record["accuracy"] for record in records[:5]),
        statistics.mean(record["accuracy"] for record in records[-5:]),
        statistics.mean(record["stop_rate"] for record in records[-5:]),
        records[-1]["tokens"],
        measured.accuracy,
        results[-1]["num_missing_episodes_lifetime"],
        max(result["mismatch"]["kl"] for result in results),
        seconds,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--problems", type=int, default=1024)
    arguments = parser.parse_args()
    ray.init(log_to_driver=False, include_dashboard=False)
    rows: list[list[str]] = []
    for number, seed in enumerate(arguments.seeds):
        for engine in ("torch", "vllm"):
            kill_at = arguments.iterations // 2 if engine == "vllm" and number == 0 else None
            run = train(engine, seed, arguments.iterations, arguments.problems, kill_at)
            rows.append([engine, str(seed), *(f"{x:.3g}" if x < 10 else f"{x:.0f}" for x in run)])
            print(f"{engine}, seed {seed}: done in {run[-1]:.0f} s", flush=True)
    print(format_table(["engine", "seed", *COLUMNS], rows))
    ray.shutdown()


if __name__ == "__main__":
    main()
