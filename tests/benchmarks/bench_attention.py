"""Decoding with query heads that share keys and values: the embedded engine beside itself with transformers' attention.

A model of SmolLM2-135M's sizes (9 query heads on 3 key/value heads), random weights.
Alternating rounds within one process; ratios are medians over rounds, of process CPU time.

How to run::

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_attention.py --rounds 3
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, Qwen2Config

from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.engine import EngineSettings, GenerationRequest

MODEL = Qwen2Config(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, device {options.device}; ", end="")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; {options.rounds} rounds")
    print(f"{'slots':>6}{'ms/step, copied':>18}{'grouped':>10}{'ratio':>8}")
    torch.manual_seed(0)
    model = LanguageModelWithCritic(AutoModelForCausalLM.from_config(MODEL).eval().to(options.device))
    for slots in options.slots:
        settings = EngineSettings(num_slots=slots, max_length=options.prompt + options.new_tokens, eos_token_id=None)
        grouped, copied = TorchEngine(model, settings), TorchEngine(model, settings)
        copied._grouped_decoding = contextlib.nullcontext()
        rounds = [[run(engine, options) for engine in (copied, grouped)] for _ in range(options.rounds + 1)][1:]
        before, after = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for b, a in rounds)
        print(f"{slots:>6}{before * 1e3:>18.1f}{after * 1e3:>10.1f}{ratio:>8.2f}", flush=True)


def run(engine: TorchEngine, options: argparse.Namespace) -> float:
    """Seconds of a decode step."""
    rng = np.random.default_rng(0)
    engine.submit(
        [
            GenerationRequest(i, rng.integers(0, 1000, options.prompt).astype(np.int32), i, options.new_tokens)
            for i in range(engine.num_slots)
        ]
    )
    engine.step()  # and the prompts
    started = time.process_time() if options.device == "cpu" else time.perf_counter()
    while engine.num_unfinished:
        engine.step()
    seconds = time.process_time() if options.device == "cpu" else time.perf_counter()
    return (seconds - started) / (options.new_tokens - 1)


if __name__ == "__main__":
    main()
