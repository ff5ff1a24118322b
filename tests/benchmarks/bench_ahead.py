"""What sampling beside learning saves: iterations with ``batches_ahead`` 0 and 1, in alternating turns of one run.

Sampling and learning are two processes with a thread each, so that it takes two cores that do nothing else. ``S`` is
what the slowest runner takes for a batch and ``U`` what the update takes, each with and without the other beside it.
The bound of what can be gained is ``(S + U) / max(S, U)``, from the turns without.

How to run::

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_ahead.py --iterations 20
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from espo_algo import ESPO, ESPOConfig
from espo_algo.local_ray import start_ray
from espo_env.tasks import ArithmeticTask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=96, help="responses of an iteration")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 96], help="horizons; most responses end earlier")
    parser.add_argument("--epochs", type=int, default=1, help="of an update, which makes U longer")
    parser.add_argument("--hidden", type=int, default=128, help="width of the model's four layers")
    parser.add_argument("--iterations", type=int, default=12, help="of each side, after two that warm up")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start_ray(num_cpus=4, log_to_driver=False, logging_level="ERROR")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; ", end="")
    print(f"torch {torch.__version__}, ray {ray.__version__}; {options}")
    print("seconds, medians; S and U alone, then beside each other")
    print(
        f"{'tokens':>7}{'S':>8}{'U':>8}{'S beside':>10}{'U beside':>10}{'0 ahead':>9}{'1 ahead':>9}"
        f"{'ratio':>7}{'bound':>7}"
    )
    for tokens in options.tokens:
        measure(tokens, options)


def measure(tokens: int, options: argparse.Namespace) -> None:
    """Prints a row."""
    with tempfile.TemporaryDirectory() as folder:
        sides = [build(Path(folder), tokens, batches_ahead, options) for batches_ahead in (0, 1)]
        rows: list[list[tuple[float, float, float]]] = [[], []]
        for number in range(options.iterations + 2):
            for side, algo in enumerate(sides):
                row = iteration(algo)
                if number > 1:
                    rows[side].append(row)
        for algo in sides:
            algo.stop()
    (together, sampling, update), (ahead, sampling_beside, update_beside) = (
        [statistics.median(column) for column in zip(*side, strict=True)] for side in rows
    )
    bound = (sampling + update) / max(sampling, update)
    print(
        f"{tokens:>7}{sampling:>8.2f}{update:>8.2f}{sampling_beside:>10.2f}{update_beside:>10.2f}{together:>9.2f}"
        f"{ahead:>9.2f}{together / ahead:>7.2f}{bound:>7.2f}",
        flush=True,
    )


def build(folder: Path, tokens: int, batches_ahead: int, options: argparse.Namespace) -> ESPO:
    """An algorithm with one runner and the learner in this process; responses end at ``tokens`` or at random before."""
    task = ArithmeticTask()
    sizes: dict[str, Any] = {
        "vocab_size": task.tokenizer.vocab_size + 2048,  # rows that are never drawn, as real models have
        "hidden_size": options.hidden,
        "intermediate_size": 3 * options.hidden,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**sizes, eos_token_id=task.tokenizer.eos_token_id))
    model.save_pretrained(folder)
    task.tokenizer.save_pretrained(folder)
    config = (
        ESPOConfig()
        .environment("espo_env/Arithmetic-v0")
        .env_runners(num_env_runners=1, batches_ahead=batches_ahead, num_envs_per_env_runner=options.batch)
        .language_model(model=folder)
        .generation(max_new_tokens=tokens)
        .early_stopping(rule="never")
        # Hardly changes the weights: every iteration does the same.
        .training(lr=1e-9, critic_lr=1e-9, train_batch_size_per_learner=options.batch, num_epochs=options.epochs)
        .training(minibatch_size=options.batch // 4, importance_weight_cap=2.0)
        .debugging(seed=0, log_level="ERROR")
    )
    return config.build_algo()


def iteration(algo: ESPO) -> tuple[float, float, float]:
    """Seconds of an iteration, of its sampling and of its update."""
    start = time.perf_counter()
    result = algo.train()
    seconds, timers = time.perf_counter() - start, result["timers"]
    ahead = result.get("ahead", {}).get("sampling_s", timers["env_runner_sampling_timer"])
    return seconds, ahead, timers["learner_update_timer"]


if __name__ == "__main__":
    main()
