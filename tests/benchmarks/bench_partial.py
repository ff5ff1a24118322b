"""What carrying unfinished responses on saves: iterations with several fractions of them, in turns of one run.

An untrained model ends a response with nearly the same probability at every token, so lengths are geometric: the
longest of a batch is several times the mean. Times are means over the iterations, because one that waits for a response
that was carried as often as is allowed is part of the price. ``S`` is the time of sampling, ``U`` of the update,
``tokens`` those written for an iteration, ``longest`` the longest response of a batch, ``lag`` the updates between a
response's first token and its update, ``ratio`` the seconds without over those with.

How to run::

    OMP_NUM_THREADS=1 PYTHONPATH=.:tests/support python tests/benchmarks/bench_partial.py --iterations 20
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import ray
import torch
from coin_task import CoinTask
from tiny_models import save_tiny_model

from espo_algo import ESPO, ESPOConfig
from espo_algo.local_ray import start_ray

_LETTERS = 11
"""Tokens of the task without further symbols."""
_WARM_UP = 4
"""Iterations until as many responses are carried in as out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="responses of an iteration")
    parser.add_argument("--mean", type=int, default=64, help="tokens of a response, about")
    parser.add_argument("--horizon", type=int, default=512, help="tokens, which few responses reach")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--updates", type=int, default=2, help="over how many a response is carried")
    parser.add_argument("--hidden", type=int, default=128, help="width of the model's four layers")
    parser.add_argument("--iterations", type=int, default=12, help="of each fraction, behind those that warm up")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start_ray(num_cpus=2, log_to_driver=False, logging_level="ERROR")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; ", end="")
    print(f"torch {torch.__version__}, ray {ray.__version__}; {options}")
    with tempfile.TemporaryDirectory() as folder:
        sides = [build(Path(folder), fraction, options) for fraction in options.fractions]
        rows: list[list[tuple[float, ...]]] = [[] for _ in sides]
        for number in range(options.iterations + _WARM_UP):
            for side, algo in enumerate(sides):
                row = iteration(algo)
                if number >= _WARM_UP:
                    rows[side].append(row)
        for algo in sides:
            algo.stop()
    names = ("fraction", "seconds", "S", "U", "tokens", "longest", "lag", "ratio")
    print("".join(f"{name:>10}" for name in names))
    means = [[statistics.mean(column) for column in zip(*side, strict=True)] for side in rows]
    for fraction, mean in zip(options.fractions, means, strict=True):
        print("".join(f"{number:>10.2f}" for number in (fraction, *mean, means[0][0] / mean[0])))


def build(folder: Path, fraction: float, options: argparse.Namespace) -> ESPO:
    """An algorithm in this process, with a slot for every response in flight."""
    symbols = {"further_symbols": max(0, options.mean - _LETTERS)}
    sizes = {"hidden_size": options.hidden, "intermediate_size": 3 * options.hidden, "num_hidden_layers": 4}
    save_tiny_model(folder, CoinTask(**symbols).tokenizer, **sizes, max_position_embeddings=options.horizon + 16)
    return (
        ESPOConfig()
        .environment("espo_env/TokenGeneration-v0", env_config={"task": "coin_task:CoinTask", **symbols})
        .env_runners(num_envs_per_env_runner=2 * options.batch)
        .env_runners(unfinished_fraction=fraction, max_carried_updates=options.updates)
        .language_model(model=folder)
        .generation(max_new_tokens=options.horizon)
        .early_stopping(rule="never")
        # Hardly changes the weights: every iteration does the same.
        .training(lr=1e-9, critic_lr=1e-9, train_batch_size_per_learner=options.batch)
        .training(minibatch_size=options.batch // 4, importance_weight_cap=2.0)
        .debugging(seed=0, log_level="ERROR")
        .build_algo()
    )


def iteration(algo: ESPO) -> tuple[float, ...]:
    """Seconds of an iteration, of its sampling and its update; tokens written, longest response, mean lag."""
    start = time.perf_counter()
    result = algo.train()
    seconds, timers, runners = time.perf_counter() - start, result["timers"], result["env_runners"]
    lag = result.get("carried", {}).get("lag_mean", 0.0)
    return (
        seconds,
        timers["env_runner_sampling_timer"],
        timers["learner_update_timer"],
        runners["num_env_steps_sampled"],
        runners["episode_len_max"],
        lag,
    )


if __name__ == "__main__":
    main()
