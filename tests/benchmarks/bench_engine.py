"""The embedded engine beside transformers' ``generate``, and what detection costs.

Three measurements a model, each in alternating rounds within one process, wall and process CPU time:

1. equal lengths: as many prompts as slots, every response as long as the others;
2. ragged lengths: 96 prompts, 32 slots; the engine refills, ``generate`` runs static batches to their longest;
3. detection: the engine against the same engine without value, detector and trace.

How to run::

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_engine.py --rounds 5

``generate`` is given what it needs and no more: sampling on, no end token, no scores returned. Ratios are medians
over rounds; both sides draw the same number of tokens from the same weights and prompts.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.embedded.slots import ResponseSlots
from espo_algo.rollout.engine import EngineSettings, GenerationRequest
from espo_algo.rollout.sampling import draw
from espo_env.early_stopping import DetectorState

MODELS: dict[str, PretrainedConfig] = {
    "llama-0.8M": LlamaConfig(
        vocab_size=19,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1024,
    ),
    "qwen2-11M": Qwen2Config(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    ),
}
MAX_LENGTH = 320


class SlotsWithoutDetection(ResponseSlots):
    """Writes tokens and log-probabilities only: what any PPO sampler has to do."""

    def write(self, tokens, logprobs):
        positions = self.positions
        rows = self._rows[: len(positions)]
        self._trace[0, rows, positions] = logprobs
        self._tokens[rows, positions] = tokens.int()
        self.inputs.copy_(tokens)
        positions += 1


class EngineWithoutDetection(TorchEngine):
    """The same loop without value and detector."""

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self._slots = SlotsWithoutDetection(self.num_slots, self.max_length, model.policy.device)

    @torch.no_grad()
    def step(self):
        self._admit()
        if not self._num_live:
            return []
        drawn = draw(self._forward()[0], self._slots.uniforms, self._sampling)
        self._slots.write(drawn.tokens, drawn.logprobs)
        return self._finish((drawn.tokens == self._eos_token_id).long())


class NoValue(LanguageModelWithCritic):
    """Leaves the value out."""

    def value(self, critic_hidden):
        return critic_hidden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--new-tokens", type=int, default=128, help="length of the equal responses")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(f"device {arguments.device}; {arguments.rounds} rounds; python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'model':<12}{'measurement':<34}{'baseline':>12}{'engine':>12}{'CPU ratio':>11}{'wall ratio':>11}")
    for name in arguments.models:
        torch.manual_seed(0)
        policy = AutoModelForCausalLM.from_config(MODELS[name]).eval().to(arguments.device)
        equal_lengths(name, policy, arguments)
        ragged_lengths(name, policy, arguments, "geometric")
        ragged_lengths(name, policy, arguments, "uniform")
        detection_share(name, policy, arguments)


def equal_lengths(name, policy, arguments) -> None:
    """As many prompts as slots: what the loop itself costs."""
    requests = make_requests(32, [arguments.new_tokens] * 32, policy.config.vocab_size, ragged_prompts=False)
    tokens = 32 * arguments.new_tokens
    rounds = alternate(
        lambda: run_generate(policy, [requests]), engine_run(TorchEngine, policy, requests), arguments.rounds
    )
    report(name, f"equal: 32 x {arguments.new_tokens}, tokens/s", rounds, tokens)


def ragged_lengths(name, policy, arguments, shape: str) -> None:
    """96 prompts of 8 to 64 tokens on 32 slots."""
    rng = np.random.default_rng(0)
    lengths = rng.geometric(1 / 48, 96).clip(1, 256) if shape == "geometric" else rng.integers(1, 257, 96)
    requests = make_requests(96, lengths.tolist(), policy.config.vocab_size, ragged_prompts=True)
    batches = [requests[start : start + 32] for start in range(0, 96, 32)]
    rounds = alternate(
        lambda: run_generate(policy, batches), engine_run(TorchEngine, policy, requests), arguments.rounds
    )
    report(name, f"ragged: {shape}, mean {lengths.mean():.0f} max {lengths.max()}", rounds, int(lengths.sum()))


def detection_share(name, policy, arguments) -> None:
    """Value, detector and trace against the same loop without them."""
    for slots in (32, 64):
        requests = make_requests(slots, [arguments.new_tokens] * slots, policy.config.vocab_size, ragged_prompts=True)
        rounds = alternate(
            engine_run(EngineWithoutDetection, policy, requests, slots, NoValue),
            engine_run(TorchEngine, policy, requests, slots),
            3 * arguments.rounds,
        )
        report(name, f"detection + value, {slots} slots, tokens/s", rounds, slots * arguments.new_tokens)
        cpu = statistics.median(engine[0] / bare[0] - 1 for bare, engine in rounds)
        step = statistics.median(engine[0] for _, engine in rounds) / arguments.new_tokens
        print(f"{'':<12}{'':<34}share of the step {cpu / (1 + cpu):.1%} of {step * 1e3:.2f} ms (CPU time)")


def make_requests(count: int, lengths: list[int], vocabulary: int, ragged_prompts: bool) -> list[GenerationRequest]:
    """Random prompts; response lengths are forced by the horizon."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(8, 65, count) if ragged_prompts else np.full(count, 32)
    prompts = [rng.integers(0, vocabulary, size).astype(np.int32) for size in sizes]
    return [GenerationRequest(i, prompts[i], seed=i, max_new_tokens=lengths[i]) for i in range(count)]


def engine_run(kind, policy, requests, slots=32, module=LanguageModelWithCritic) -> Callable[[], None]:
    """A round of the engine. Building it is not timed: it lives as long as the sampler."""
    torch.manual_seed(0)
    model = module(policy)
    torch.nn.init.normal_(model.value_head.weight, std=0.02)
    model.to(policy.device)
    engine = kind(model, EngineSettings(slots, max_length=MAX_LENGTH, eos_token_id=None))
    engine.set_detector_state(DetectorState(beta=1e9))  # decides at every step, and never to stop

    def run() -> None:
        engine.submit(requests)
        written = 0
        while engine.num_unfinished:
            written += sum(len(episode) for episode in engine.step())
        assert written == sum(request.max_new_tokens for request in requests)

    return run


def run_generate(policy, batches: list[list[GenerationRequest]]) -> None:
    """Static batches, left-padded, each to its longest response."""
    for batch in batches:
        width = max(len(request.prompt_tokens) for request in batch)
        tokens = np.zeros((len(batch), width), np.int64)
        mask = np.zeros_like(tokens)
        for row, request in enumerate(batch):
            tokens[row, width - len(request.prompt_tokens) :] = request.prompt_tokens
            mask[row, width - len(request.prompt_tokens) :] = 1
        policy.generate(
            torch.from_numpy(tokens).to(policy.device),
            attention_mask=torch.from_numpy(mask).to(policy.device),
            do_sample=True,
            top_k=0,
            max_new_tokens=max(request.max_new_tokens for request in batch),
            eos_token_id=None,
            pad_token_id=0,
        )


Seconds = tuple[float, float]  # CPU, wall


def alternate(baseline: Callable[[], None], engine: Callable[[], None], rounds: int) -> list[tuple[Seconds, Seconds]]:
    """One warm-up of each, then rounds that change who goes first."""
    timed(baseline), timed(engine)
    results = []
    for number in range(rounds):
        if number % 2:
            second, first = timed(engine), timed(baseline)
        else:
            first, second = timed(baseline), timed(engine)
        results.append((first, second))
    return results


def timed(run: Callable[[], None]) -> Seconds:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def report(name: str, what: str, rounds: list[tuple[Seconds, Seconds]], tokens: int) -> None:
    """Tokens a CPU second of both, and the engine's speed over the baseline's."""
    speeds = [tokens / statistics.median(side[0] for side in column) for column in zip(*rounds, strict=True)]
    ratios = [statistics.median(base[clock] / engine[clock] for base, engine in rounds) for clock in (0, 1)]
    print(f"{name:<12}{what:<34}{speeds[0]:>12.0f}{speeds[1]:>12.0f}{ratios[0]:>11.2f}{ratios[1]:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
