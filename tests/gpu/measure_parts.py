"""What ``measure.py`` measures, a function a part: (model's name, quick) -> rows of its table without that name.

- :func:`engine`, :func:`update`: need torch and transformers alone.
- :func:`vllm`: needs vLLM; :func:`sync`: needs Ray, vLLM and a GPU besides.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_engine import EngineWithoutDetection, NoValue, engine_run, make_requests, run_generate
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.batching import SequenceBatch, pack
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.learning.optimizers import clipped_step, make_adamw
from espo_algo.learning.scoring import score_responses
from espo_algo.learning.update import LossSettings, accumulate_gradients, ppo_loss
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.engine import EngineSettings
from espo_env.early_stopping import DetectorState
from espo_env.types import StopReason

Rows = list[list[str]]

MODELS: dict[str, PretrainedConfig] = {
    "tiny": LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    ),
    "qwen2.5-1.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    ),
}
"""Shapes of SmolLM2-135M and Qwen2.5-1.5B (`config.json` of each), and one for a test."""
PEAKS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "A10G": 70,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""TFLOP/s of dense bfloat16 products by what a device's name contains (NVIDIA's data sheets); the first one counts."""

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPE = torch.bfloat16 if ON_GPU else torch.float32


def generation_sizes(quick: bool) -> tuple[int, int, int]:
    """Responses at a time, their tokens, and rounds."""
    return 64 if ON_GPU and not quick else 8, 128 if ON_GPU and not quick else 16, 1 if quick else 3


def engine(name: str, quick: bool) -> Rows:
    """The embedded engine beside transformers' ``generate``, and beside itself without value, detector and trace."""
    slots, tokens, rounds = generation_sizes(quick)
    policy = AutoModelForCausalLM.from_config(MODELS[name], dtype=DTYPE).eval().to(DEVICE)
    requests = make_requests(slots, [tokens] * slots, policy.config.vocab_size, ragged_prompts=False)
    ours, bare, plain = alternate(
        [
            engine_run(TorchEngine, policy, requests, slots),
            engine_run(EngineWithoutDetection, policy, requests, slots, NoValue),
            lambda: run_generate(policy, [requests]),
        ],
        rounds,
    )
    written, a_step = slots * tokens, 1e3 / tokens
    return [
        [
            f"embedded engine, {slots} responses of {tokens} tokens",
            f"{written / ours:,.0f} tokens/s",
            f"transformers' `generate` {written / plain:,.0f}",
            f"{plain / ours:.2f}",
        ],
        [
            "its stopping, which never fires (value, detector, trace)",
            f"{ours * a_step:.2f} ms a step",
            f"without {bare * a_step:.2f} ms",
            f"{ours / bare:.2f}",
        ],
    ]


def update(name: str, quick: bool) -> Rows:
    """One optimiser step of two micro-batches: seconds, use of the device, memory."""
    sequences, length, prompt = (16, 1024, 128) if ON_GPU and not quick else (4, 48, 8)
    checkpointing = MODELS[name].hidden_size > 1000
    check_memory(16 * parameters(MODELS[name]))
    before = _memory()
    model = LanguageModelWithCritic(AutoModelForCausalLM.from_config(MODELS[name], dtype=torch.float32)).to(DEVICE)
    model.train()
    if checkpointing:
        model.trunk.gradient_checkpointing_enable({"use_reentrant": False})
    optimizers = [make_adamw(p, 0.0, "float32") for p in (model.policy_parameters(), model.critic_parameters())]
    batches = make_batches(sequences, length, prompt, model.vocab_size)
    settings = LossSettings(clip_param=0.2, clip_param_high=None, vf_clip_param=10.0, vf_loss_coeff=0.5)
    autocast = DTYPE if ON_GPU else None

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        accumulate_gradients(
            batches,
            lambda batch: ppo_loss(score_responses(model, batch, autocast=autocast), batch, settings)[0],
            1 / sum(map(len, batches)),
        )
        norms, finite = clipped_step(optimizers, [1.0, 1.0])
        assert finite, f"expected finite gradients, got norms {norms.tolist()}"

    (seconds,) = alternate([step], 1 if quick else 3)
    used = _memory(peak=True) - before
    flops = update_flops(MODELS[name], sequences, length, prompt)
    peak, of_what = peak_flops(quick)
    return [
        [
            f"update: a step on {sequences} x {length} tokens{', gradient checkpointing' if checkpointing else ''}",
            f"{seconds:.3f} s",
            f"{sequences * length / seconds:,.0f} tokens/s",
            "",
        ],
        [
            "its floating-point operations (MFU)",
            f"{flops / seconds / 1e12:.3g} TFLOP/s",
            f"{of_what} {peak / 1e12:.3g}",
            f"{flops / seconds / peak:.2f}",
        ],
        [
            "its peak memory",
            f"{used / 1e9:.3g} GB",
            *predicted(name, checkpointing, sequences // 2, length, prompt, used),
        ],
    ]


def check_memory(needed: int) -> None:
    """Ends this part where weights, gradients and moments do not fit: a machine without memory kills what it likes."""
    if ON_GPU:
        free, _ = torch.cuda.mem_get_info()
    else:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    if needed > free:
        raise SystemExit(f"needs {needed / 1e9:.0f} GB and more, {free / 1e9:.0f} GB are free")


def parameters(config: PretrainedConfig) -> int:
    """Weights of a language model; a tied embedding counts once."""
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def make_batches(sequences: int, length: int, prompt: int, vocabulary: int) -> list[SequenceBatch]:
    """Two micro-batches of responses that are all equally long, with what a learner would have worked out of them."""
    rng = np.random.default_rng(0)
    episodes = [
        TokenEpisode(
            rng.integers(0, vocabulary, prompt).astype(np.int32),
            rng.integers(0, vocabulary, length - prompt).astype(np.int32),
            StopReason.EOS,
        )
        for _ in range(sequences)
    ]
    groups = pack(np.full(sequences, length), sequences // 2 * length)

    def column(scale: float, count: int) -> list[np.ndarray]:
        return [rng.normal(scale, 1, length - prompt).astype(np.float32) for _ in range(count)]

    return [
        SequenceBatch.from_episodes(
            [episodes[i] for i in group],
            DEVICE,
            action_logp=column(-np.log(vocabulary), len(group)),
            advantages=column(0, len(group)),
            targets=column(0, len(group)),
        )
        for group in groups
    ]


def update_flops(config: PretrainedConfig, sequences: int, length: int, prompt: int) -> float:
    """Of one step: six for each weight and token, causal attention, and logits of response tokens alone.

    What is computed again in the backward pass does not count.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = (
        sum(p.numel() for p in model.base_model.parameters() if p.ndim > 1) - config.vocab_size * config.hidden_size
    )
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * head * length  # half of the square
    logits = 6 * config.vocab_size * config.hidden_size * (length - prompt)
    return sequences * (length * (6 * matrices + attention) + logits)


def peak_flops(quick: bool) -> tuple[float, str]:
    """Operations a second of the device, and where the number is from."""
    name = torch.cuda.get_device_name() if ON_GPU else ""
    for part, tera in PEAKS.items():
        if part in name:
            return tera * 1e12, f"{part}'s data sheet"
    size = 512 if quick else 8192 if ON_GPU else 2048
    a, b = torch.randn(2, size, size, device=DEVICE, dtype=DTYPE)
    (seconds,) = alternate([lambda: torch.mm(a, b)], 5)
    return 2 * size**3 / seconds, f"a product of {size} x {size} matrices"


def predicted(name: str, checkpointing: bool, sequences: int, length: int, prompt: int, used: int) -> list[str]:
    """The dry run's peak for the same step, and what was used over it."""
    try:
        from espo_algo.memory import update_peak
    except ModuleNotFoundError as error:
        return [f"dry run not made: {error}", ""]
    config = MODELS[name]
    total = update_peak(
        config, "shared", config.vocab_size, DTYPE, checkpointing, sequences, length, prompt, accumulates=True
    ).total
    return [f"dry run {total / 1e9:.3g} GB", f"{used / total:.2f}"]


def vllm(name: str, quick: bool, overlapped: bool = False) -> Rows:
    """vLLM with stopping inside, which never fires, beside a plain one with as many slots and the same cache."""
    import bench_vllm

    slots, tokens, rounds = generation_sizes(quick)
    model = LanguageModelWithCritic(AutoModelForCausalLM.from_config(MODELS[name], dtype=DTYPE).eval())
    requests = bench_vllm.make_requests(slots, tokens)  # their tokens are among the first 8,192
    for request in requests:
        request.prompt_tokens %= model.vocab_size
    options = {"gpu_memory_utilization": 0.4} if ON_GPU else {"kv_cache_memory_bytes": 1 << 28}
    own_options = options | {"async_scheduling": overlapped}
    ours = bench_vllm.VLLMEngine(model, EngineSettings(slots, 16 + tokens, bench_vllm.END, options=own_options))
    ours.set_detector_state(DetectorState(beta=1e9))

    def with_stopping() -> None:
        ours.submit(requests)
        written = 0
        while ours.num_unfinished:
            written += sum(map(len, ours.step()))
        assert written == slots * tokens, f"expected {slots * tokens} tokens, got {written}"

    with tempfile.TemporaryDirectory() as folder:
        llm = bench_vllm.start_plain(
            model, folder, max_num_seqs=slots, max_model_len=16 + tokens, enforce_eager=not ON_GPU, **options
        )
    with_us, plain = alternate([with_stopping, lambda: bench_vllm.plain(llm, requests)], rounds)
    return [
        [
            f"vLLM with stopping, which never fires{', asynchronous' if overlapped else ''}, {slots} x {tokens} tokens",
            f"{slots * tokens / with_us:,.0f} tokens/s",
            f"`LLM.generate` {slots * tokens / plain:,.0f}",
            f"{plain / with_us:.2f}",
        ]
    ]


def sync(name: str, quick: bool, transfer: str | None) -> Rows:
    """Seconds until one vLLM engine has the learner's new weights."""
    from coin_task import CoinTask
    from tiny_models import save_tiny_model

    from espo_algo import ESPOConfig
    from espo_algo.local_ray import start_ray
    from espo_algo.weight_sync.sync import sync_weights

    config, share = MODELS[name], 1 if transfer == "nccl" else 0.5
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    task = CoinTask()
    start_ray(log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {key: getattr(config, key) for key in kept}
        spare = config.vocab_size - task.tokenizer.vocab_size
        algo = (
            ESPOConfig()
            .environment("espo_env/TokenGeneration-v0", env_config={"task": "coin_task:CoinTask"})
            .language_model(model=save_tiny_model(Path(folder), task.tokenizer, spare, **sizes), dtype="bfloat16")
            .generation(
                max_new_tokens=12,
                engine="vllm",
                engine_options={"gpu_memory_utilization": 0.3, "enforce_eager": True},
                weight_transfer=transfer,
            )
            .env_runners(num_env_runners=1, num_envs_per_env_runner=8, num_gpus_per_env_runner=share)
            .learners(num_learners=1, num_gpus_per_learner=share)
            .training(train_batch_size_per_learner=32, minibatch_size=16)
            .debugging(seed=0, log_level="ERROR")
            .build_algo()
        )
        algo.train()
        parties = algo.learner_group, algo.env_runner_group, algo.config
        (seconds,) = alternate([lambda: sync_weights(*parties, timeout=120.0)], 1 if quick else 5)
        size = parameters(config) * DTYPE.itemsize
        algo.stop()
    return [
        [
            f"weights to one vLLM engine, {transfer or 'object store'}",
            f"{seconds:.3f} s",
            f"{size / seconds / 1e9:.2f} GB/s",
            "",
        ]
    ]


PARTS: dict[str, Callable[[str, bool], Rows]] = {
    "engine": engine,
    "update": update,
    "vllm": vllm,
    "vllm_async": functools.partial(vllm, overlapped=True),
    "object_store": functools.partial(sync, transfer=None),
    "ipc": functools.partial(sync, transfer="ipc"),
    "nccl": functools.partial(sync, transfer="nccl"),
}


def alternate(runs: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median seconds of each, after one run of each that does not count; the rounds change who goes first."""
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(rounds):
        for index in range(len(runs))[:: -1 if number % 2 else 1]:
            _wait()
            start = time.perf_counter()
            runs[index]()
            _wait()
            seconds[index].append(time.perf_counter() - start)
    return [statistics.median(each) for each in seconds]


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def _memory(peak: bool = False) -> int:
    """Bytes in use now, or at most so far: the GPU's by torch's tensors, or this process's own."""
    if ON_GPU:
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    line = "VmHWM:" if peak else "VmRSS:"
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(text.split()[1]) for text in status if text.startswith(line))
