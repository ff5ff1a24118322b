"""Speed of the vector environment with the failure detector, a step at 256 slots.

This example: steps ``VectorRegretTermination(TokenGenerationVectorEnv)`` with random tokens that now and then end a
response, beside Gymnasium's ``SyncVectorEnv`` of the same environments one by one; and completes whole responses.

How to run: ``python tests/benchmarks/bench_vector_env.py [--slots 256] [--max-new-tokens 256] [--steps 600]``

Results to expect: about 0.3 ms a step at 256 slots, and about two orders of magnitude over the loop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from espo_env import (
    RegretTermination,
    StopReason,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    VectorRegretTermination,
)
from espo_env.tasks import WalkTask


def actions(rng: np.random.Generator, slots: int, end_rate: float) -> dict[str, Any]:
    tokens = rng.integers(1, 13, size=slots)
    tokens[rng.random(slots) < end_rate] = 0
    return {
        "token": tokens,
        "regret": rng.exponential(0.3, size=slots).astype(np.float32),
        "value": rng.uniform(0, 1, size=slots).astype(np.float32),
    }


def seconds_a_step(step: Callable[[Any], Any], inputs: list[dict[str, Any]]) -> list[float]:
    times = []
    for given in inputs:
        start = time.perf_counter()
        step(given)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    task, options = WalkTask(), {"max_new_tokens": args.max_new_tokens}
    print(f"{args.slots} slots, max_new_tokens {args.max_new_tokens}, {args.steps} steps; median (mean) ms a step")

    for end_rate in (0.0, 1 / 100):
        inputs = [actions(rng, args.slots, end_rate) for _ in range(args.steps)]
        rows = {
            "vector environment": lambda env: (env, lambda given: env.step(given["token"])),
            "with detector": lambda env: ((wrapped := VectorRegretTermination(env, beta=1e6)), wrapped.step),
        }
        for copy in (True, False):
            for name, build in rows.items():
                base = TokenGenerationVectorEnv(
                    task, args.slots, autoreset_mode=AutoresetMode.NEXT_STEP, copy=copy, **options
                )
                env, step = build(base)
                env.reset(seed=0)
                times = [1e3 * t for t in seconds_a_step(step, inputs)]
                print(
                    f"  {name:20} ends/token {end_rate:.2f} copy={copy!s:5} "
                    f"{statistics.median(times):7.3f} ({statistics.fmean(times):7.3f})"
                )
    sync = SyncVectorEnv([lambda: RegretTermination(TokenGenerationEnv(task, **options), beta=1e6)] * args.slots)
    sync.reset(seed=0)
    times = [1e3 * t for t in seconds_a_step(sync.step, inputs[:20])]
    print(f"  {'one by one (Sync)':20} ends/token {end_rate:.2f}            {statistics.median(times):7.3f}")

    env = TokenGenerationVectorEnv(task, args.slots, autoreset_mode=AutoresetMode.DISABLED, **options)
    env.reset(seed=0)
    responses = [np.append(rng.integers(1, 13, size=30), 0).astype(np.int32) for _ in range(args.slots)]
    start = time.perf_counter()
    env.complete(np.arange(args.slots), responses, [StopReason.EOS] * args.slots)
    spent = time.perf_counter() - start
    start = time.perf_counter()
    env.reset()
    print(
        f"  complete, grading included: {1e6 * spent / args.slots:.1f} us a response, "
        f"{1e6 * spent / sum(map(len, responses)):.2f} us a token; "
        f"reset: {1e6 * (time.perf_counter() - start) / args.slots:.1f} us a slot"
    )


if __name__ == "__main__":
    main()
