"""vLLM with stopping inside the engine, beside plain vLLM.

Measured in one process, in alternating rounds, wall and process CPU time:

1. equal lengths: as many prompts as slots, all responses equally long; the engine with detector, values and trace,
   against ``LLM.generate`` of a plain vLLM with a model of the same size, the same cache and as many slots;
2. half of the responses stopped halfway, so that a quarter of the tokens is saved: ``--waves`` prompts a slot; the
   engine against itself without stops. Printed: how many times faster, and time saved divided by tokens saved. The most
   that can be had is 1.33 times where a token costs the same wherever it stands, and 1.6 times where attention is all
   the cost, because the second half of a response costs three times the first (``--length`` moves it that way). At the
   end of a rollout slots run empty in either case, but more raggedly with stops;
3. start-up: how long importing vLLM takes, how long its engine, and what is added here (models with critics, sampler,
   first weights).

How to run::

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_vllm.py --rounds 5

Ratios are medians over rounds. On a machine with GPUs the same command measures there, in bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.engine import EngineSettings, GenerationRequest
from espo_algo.rollout.noise import request_noise
from espo_algo.rollout.vllm.engine import VLLMEngine
from espo_env.early_stopping import DetectorSettings, DetectorState, register_stop_rule

MODELS = {
    "qwen2-3M": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6},
    "qwen2-30M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8},
}
END = 0
VOCABULARY = 8192
CACHE = 1 << 30
"""Bytes of each engine's cache on the CPU."""
T = TypeVar("T")


def halfway(x):  # a stop rule: half of the responses, by their draw, are stopped after `beta` steps
    return x.steps * (x.draws > np.log(2)), x.values * 0 + 1


def make_model(name: str) -> LanguageModelWithCritic:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        **MODELS[name],
    )
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return LanguageModelWithCritic(AutoModelForCausalLM.from_config(config, dtype=dtype).eval())


def make_requests(count: int, length: int) -> list[GenerationRequest]:
    """With seeds that never draw the end token, and of which every second one draws that it is stopped."""
    rng = np.random.default_rng(0)
    seeds = itertools.count()

    def fits(seed: int, stopped: bool) -> bool:
        uniforms, draw = request_noise(seed, length)
        # The end token is the first one, which the smallest uniforms draw.
        return bool(uniforms.min() > 4 / VOCABULARY and (draw > np.log(2)) == stopped)

    return [
        GenerationRequest(
            request_id=i,
            prompt_tokens=rng.integers(1, VOCABULARY, 16).astype(np.int32),
            seed=next(seed for seed in seeds if fits(seed, i % 2 == 0)),
            max_new_tokens=length,
        )
        for i in range(count)
    ]


def early_stopping(engine: VLLMEngine, requests: list[GenerationRequest], stop: bool) -> int:
    engine.set_detector_state(DetectorState(beta=requests[0].max_new_tokens / 2 - 1, enabled=stop))
    engine.submit(requests)
    written = 0
    while engine.num_unfinished:
        written += sum(len(episode) for episode in engine.step())
    return written


def start_plain(model: LanguageModelWithCritic, folder: str, **options: Any) -> Any:
    """vLLM as it comes, with random weights."""
    from vllm import LLM

    config = copy.deepcopy(model.config)
    config.architectures = [type(model.policy).__name__]
    config.save_pretrained(folder)
    return LLM(
        folder,
        dtype=str(model.policy.dtype).removeprefix("torch."),
        load_format="dummy",
        skip_tokenizer_init=True,
        generation_config="vllm",
        **options,
    )


def plain(llm: Any, requests: list[GenerationRequest]) -> int:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": request.prompt_tokens.tolist()} for request in requests]
    params = [SamplingParams(max_tokens=r.max_new_tokens, ignore_eos=True, detokenize=False) for r in requests]
    return sum(len(output.outputs[0].token_ids) for output in llm.generate(prompts, params, use_tqdm=False))


def measure(work: Callable[[], T]) -> tuple[T, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="qwen2-3M")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--waves", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = make_model(arguments.model)
    register_stop_rule("halfway", halfway)

    start, cpu = time.perf_counter(), time.process_time()
    import vllm

    imported, imported_cpu = time.perf_counter() - start, time.process_time() - cpu
    plain_start, from_vllm = vllm.LLMEngine.from_engine_args, []
    vllm.LLMEngine.from_engine_args = lambda *args: (
        from_vllm.append(measure(lambda: plain_start(*args))) or from_vllm[0][0]
    )
    start, cpu = time.perf_counter(), time.process_time()
    max_length = 16 + arguments.length
    # Two engines side by side have to share a GPU's memory.
    memory = {"gpu_memory_utilization": 0.4} if torch.cuda.is_available() else {"kv_cache_memory_bytes": CACHE}
    detector = DetectorSettings(rule="halfway")
    engine = VLLMEngine(model, EngineSettings(arguments.slots, max_length, END, detector, options=memory))
    vllm.LLMEngine.from_engine_args = plain_start
    started, started_cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    engine.weights_changed(1)
    synced = time.perf_counter() - start
    print(
        f"vLLM {vllm.__version__}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), "
        f"{'cuda' if torch.cuda.is_available() else 'cpu'}, {arguments.model} "
        f"({sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters), {arguments.slots} slots"
    )
    _, vllms, vllms_cpu = from_vllm[0]
    print(
        f"start-up: import {imported:.1f} s (CPU {imported_cpu:.1f}), "
        f"vLLM's engine {vllms:.1f} s (CPU {vllms_cpu:.1f}), "
        f"ours with vLLM's modules {started - vllms:.1f} s (CPU {started_cpu - vllms_cpu:.1f})"
    )
    print(f"weight sync: {synced * 1e3:.0f} ms")

    equal, many = (make_requests(count * arguments.slots, arguments.length) for count in (1, arguments.waves))
    with tempfile.TemporaryDirectory() as folder:
        llm = start_plain(
            model,
            folder,
            max_num_seqs=arguments.slots,
            max_model_len=max_length,
            enforce_eager=not torch.cuda.is_available(),
            **memory,
        )
    early_stopping(engine, equal, stop=False)
    plain(llm, equal)
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        ours, theirs = measure(lambda: early_stopping(engine, equal, stop=False)), measure(lambda: plain(llm, equal))
        full, stopped = (measure(lambda stop=stop: early_stopping(engine, many, stop)) for stop in (False, True))
        for name, clock in (("CPU", 2), ("wall", 1)):
            ratios[f"equal, {name}"].append((ours[0] / ours[clock]) / (theirs[0] / theirs[clock]))
            ratios[f"speed-up, {name}"].append(full[clock] / stopped[clock])
            ratios[f"saved / tokens saved, {name}"].append(
                (1 - stopped[clock] / full[clock]) / (1 - stopped[0] / full[0])
            )
        print(
            f"  equal: {ours[0] / ours[2]:.0f} tokens/CPU-s, plain {theirs[0] / theirs[2]:.0f}; "
            f"refilled: {full[0]} tokens in {full[1]:.1f} s, with stops {stopped[0]} in {stopped[1]:.1f} s"
        )
    for name, numbers in ratios.items():
        print(f"{name}: {statistics.median(numbers):.2f} (from {min(numbers):.2f} to {max(numbers):.2f})")
    engine.shutdown()


if __name__ == "__main__":
    main()
