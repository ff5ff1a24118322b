"""Long responses: the learner's memory and time, and what a response token weighs on its way to it.

Run with ``PYTHONPATH=.:tests/support``. One micro-batch of one response of each length goes through a tiny model's
update (hidden size 128, two layers, 2,100 tokens), with each way to credit. Memory is the most that the process holds
beyond what it holds in between, with glibc's allocator told to give every block above 64 kB back at once; "a further
token" is what one more than in the line above takes. Time is CPU time, the median of three updates. The share of
attention is what grows with the length in a straight line through the times a token.

A trip's bytes are those that Ray writes into its object store: pickle's own, and the columns beside it, which are
written once for each of the two ways and read in place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from coin_task import CoinTask
from hand_made import build_learner, make_episode, update
from ray import cloudpickle
from tiny_models import save_tiny_model

from espo_algo import ESPOConfig, TokenEpisode
from espo_algo.evaluation.report import format_table
from espo_env.grading import Grade
from espo_env.types import TRACE_COLUMNS

LENGTHS = (512, 1024, 2048, 4096, 8192)
PROMPT, FURTHER_SYMBOLS = 64, 2000
KINDS: dict[str, dict[str, Any]] = {
    "GAE, shared critic": {},
    "GAE, separate critic": {"critic": "separate"},
    "group, no critic in the advantages": {"advantage_estimator": "group"},
    "GAE, prompt computed once": {"share_prompts": True},
}
REPEATS = 3


def make_config(folder: Path, critic: str = "shared", **training: Any) -> ESPOConfig:
    task = CoinTask(further_symbols=FURTHER_SYMBOLS)
    model = save_tiny_model(
        folder, task.tokenizer, 89, hidden_size=128, intermediate_size=512, max_position_embeddings=16_384
    )
    return (
        ESPOConfig()
        .environment(
            "espo_env/TokenGeneration-v0",
            env_config={"task": "coin_task:CoinTask", "further_symbols": FURTHER_SYMBOLS},
        )
        .language_model(model=model, critic=critic)
        .generation(max_new_tokens=max(LENGTHS))
        .training(
            train_batch_size_per_learner=1,
            minibatch_size=None,
            num_epochs=1,
            max_tokens_per_microbatch=10**6,
            **training,
        )
        .debugging(seed=0, log_level="ERROR")
    )


def response(length: int, group: int = 0) -> TokenEpisode:
    """As it comes from an engine, with its problem and grade."""
    rng, task = np.random.default_rng((length, group)), CoinTask()
    traces = {name: rng.exponential(size=length) for name in TRACE_COLUMNS}
    traces["logprobs"] = -traces["logprobs"]
    return make_episode(
        rng.integers(1, FURTHER_SYMBOLS, length),
        prompt=rng.integers(1, FURTHER_SYMBOLS, PROMPT),
        reward=1.0,
        correct=True,
        grade=Grade(True, "a", "first symbol"),
        problem=task.problem(group),
        group=group,
        **traces,
    )


class Watched:
    """The most memory that the process has for itself while this is entered, beyond what it had."""

    def __enter__(self) -> Watched:
        self._over, self.start = threading.Event(), private_bytes()
        self.peak = self.start
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.peak = max(self.peak, private_bytes())


def private_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure(kind: str) -> list[tuple[int, float]]:
    """Peak bytes and CPU seconds of an update, by length."""
    with tempfile.TemporaryDirectory() as folder:
        learner = build_learner(make_config(Path(folder), **KINDS[kind]))
    update(learner, [response(64)])
    found = []
    for length in LENGTHS:
        episodes, seconds = [response(length)], []
        with Watched() as watched:
            for _ in range(REPEATS):
                start = time.process_time()
                update(learner, episodes)
                seconds.append(time.process_time() - start)
        found.append((watched.peak - watched.start, float(np.median(seconds))))
    return found


def weigh(episodes: list[TokenEpisode]) -> tuple[int, int]:
    """Bytes of a pickle, and of the columns beside it."""
    columns: list[Any] = []
    pickled = cloudpickle.dumps(episodes, protocol=5, buffer_callback=columns.append)
    return len(pickled), sum(column.raw().nbytes for column in columns)


def main() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    for kind in KINDS:
        command = [sys.executable, __file__, kind]
        found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
        peaks, seconds = np.array(found).T / LENGTHS
        slope, constant = np.polyfit(LENGTHS, seconds, 1)
        further = np.diff(peaks * LENGTHS, prepend=0) / np.diff(LENGTHS, prepend=0)
        print(f"\n{kind}: a response a micro-batch, with a prompt of {PROMPT} tokens")
        rows = [
            [
                str(length),
                f"{peak * length / 1e6:.0f}",
                f"{peak / 1e3:.1f}",
                f"{one_more / 1e3:.1f}",
                f"{1e6 * second:.0f}",
                f"{second / seconds[0]:.2f}",
                f"{slope * length / (constant + slope * length):.0%}",
            ]
            for length, peak, one_more, second in zip(LENGTHS, peaks, further, seconds, strict=True)
        ]
        columns = ["tokens", "peak, MB", "kB a token", "a further token", "CPU us a token", "ratio", "of it attention"]
        print(format_table(columns, rows), flush=True)
    print("\nbytes of a response token in Ray's object store (pickled / columns), 64 responses at once")
    rows = []
    for length in (12, *LENGTHS):
        written = [response(length, group) for group in range(64)]
        stages = {
            "with all columns": written,
            "runner to driver": [e.without_traces(keep=("logprobs", "regrets")) for e in written],
            "driver to learner": [e.to_learn() for e in written],
        }
        weights = {name: np.array(weigh(episodes)) / (64 * length) for name, episodes in stages.items()}
        whole, *trip = (sum(weight) for weight in weights.values())
        shown = [f"{sum(weight):.1f} ({weight[0]:.1f} / {weight[1]:.1f})" for weight in weights.values()]
        rows.append([str(length), *shown, f"{sum(trip) / (2 * whole):.2f}"])
    print(format_table(["tokens", *stages, "both ways, against all columns"], rows))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
