"""What ``espo train --dry-run`` says of memory, beside the peaks of real processes: a runner's and a learner's.

Run with ``PYTHONPATH=.:tests/support``. Each process's libraries are measured with a model of next to no size, and
added to what the dry run computes. glibc's allocator is told to give every block above 64 kB back at once
(``MALLOC_MMAP_THRESHOLD_``); by itself it keeps holes, and the peak of a small model's learner is up to a third higher.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from coin_task import CoinTask
from tiny_models import save_tiny_model

from espo_algo import ESPO, ESPOConfig
from espo_algo.commands.dry_run import learner_memory, runner_memory
from espo_algo.evaluation.report import format_table
from espo_algo.local_ray import start_ray

SUPPORT = str(Path(__file__).parents[1] / "support")
SIZES = ((256, 8, 8_192), (512, 8, 32_000), (768, 10, 49_152))
"""Hidden size, layers, vocabulary."""
LORA = {"r": 16}
"""Of a last run, with the largest size."""
HORIZON, RESPONSES = 128, 8


def make_config(folder: Path, hidden: int, layers: int, vocabulary: int, lora: dict[str, int] | None) -> ESPOConfig:
    """A runner and a learner in processes of their own; nearly all responses run on to the horizon."""
    task = CoinTask(further_symbols=2000)
    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    model = save_tiny_model(
        folder, task.tokenizer, vocabulary - task.tokenizer.vocab_size, max_position_embeddings=512, **sizes
    )
    return (
        ESPOConfig()
        .environment("espo_env/TokenGeneration-v0", env_config={"task": "coin_task:CoinTask", "further_symbols": 2000})
        .env_runners(num_env_runners=1, num_envs_per_env_runner=RESPONSES)
        .learners(num_learners=1)
        .language_model(model=model, critic="separate", lora=lora)
        .generation(max_new_tokens=HORIZON)
        .training(train_batch_size_per_learner=RESPONSES, minibatch_size=RESPONSES, num_epochs=1)
        .early_stopping(rule="never")
        .debugging(seed=0, log_level="ERROR")
    )


def watch(actor: Any) -> None:
    """Notes the most memory that the actor's process has for itself, the object store's left out."""

    def look() -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            kept = sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile")))
            actor.most_memory = max(getattr(actor, "most_memory", 0), 1024 * kept)
            time.sleep(0.002)

    threading.Thread(target=look, daemon=True).start()


def peaks(config: ESPOConfig) -> tuple[int, int]:
    """Peak bytes of the runner's and the learner's process in two iterations."""
    algo: ESPO = config.build_algo()
    algo.env_runner_group.foreach_env_runner(watch, local_env_runner=False)
    algo.learner_group.foreach_learner(watch)
    for _ in range(2):
        algo.train()
    (runner,) = algo.env_runner_group.foreach_env_runner(lambda actor: actor.most_memory, local_env_runner=False)
    (learner,) = (result.get() for result in algo.learner_group.foreach_learner(lambda actor: actor.most_memory))
    algo.stop()
    return runner, learner


def main() -> None:
    environment = {
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "PYTHONPATH": os.pathsep.join([SUPPORT, os.environ.get("PYTHONPATH", "")]),
    }
    start_ray(num_cpus=4, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": environment})
    rows = []
    with tempfile.TemporaryDirectory() as name:
        libraries = peaks(make_config(Path(name) / "none", 16, 1, 2_100, LORA))
        for size, lora in [*((size, None) for size in SIZES), (SIZES[-1], LORA)]:
            config = make_config(Path(name) / f"{size}{lora}", *size, lora)
            mdp = config.check_task()
            expected = runner_memory(config, mdp), learner_memory(config, mdp)
            for process, base, (held, passing), got in zip(
                ("runner", "learner"), libraries, expected, peaks(config), strict=True
            ):
                said = base + sum(held.values()) + max(passing.values())
                shown = [f"{number / 1e9:.2f}" for number in (base, said, got)]
                model = "{} x {}, {} tokens".format(*size) + (", LoRA" if lora else "")
                rows.append([model, process, *shown, f"{said / got:.2f}"])
                print(rows[-1], flush=True)
    print(format_table(["model", "process", "libraries, GB", "dry run, GB", "measured, GB", "ratio"], rows))


if __name__ == "__main__":
    main()
