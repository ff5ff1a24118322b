"""What RLlib and our data handling cost, and what an update needs of memory.

Prints, with hardware and versions:

1. RLlib's own overhead an iteration: wall time less sampling, update and weight sync (local runner and learner).
2. Weight sync to two runners against stock RLlib's path, in one run, alternating.
3. Episode handling: microseconds a token to build, pickle and unpickle an episode, beside RLlib's.
4. Peak memory of one PPO update on 16 sequences of 512 tokens (in a process of its own).

Run with: ``python tests/benchmarks/bench_rllib.py [--only overhead sync episodes memory] [--model 135m]``
"""

from __future__ import annotations

import argparse
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import torch
import transformers
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from espo_algo import ESPOConfig, TokenEpisode
from espo_algo.learning.rl_module import LanguageModelRLModule
from espo_algo.learning.training_data import WholeEpisodeTrainingData
from espo_algo.weight_sync.object_store import broadcast_weights
from espo_env.tasks import ArithmeticTask
from espo_env.types import StopReason

SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 64},
    # The shape of SmolLM2-135M.
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152},
}


class StockModule(LanguageModelRLModule):
    """The same module with RLlib's own state conversion."""

    get_state = TorchRLModule.get_state
    set_state = TorchRLModule.set_state


def make_model(size: str, folder: Path) -> Path:
    tokenizer = ArithmeticTask().tokenizer
    heads = 9 if size == "135m" else 4
    config = transformers.LlamaConfig(
        **SIZES[size],
        num_attention_heads=heads,
        num_key_value_heads=3 if size == "135m" else 2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_config(model: Path, runners: int = 0) -> ESPOConfig:
    return (
        ESPOConfig()
        .environment("espo_env/Arithmetic-v0")
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=16)
        .language_model(model=model)
        .generation(max_new_tokens=24)
        .training(lr=1e-5, train_batch_size_per_learner=16, minibatch_size=16)
        .debugging(seed=0, log_level="ERROR")
    )


def bench_overhead(folder: Path) -> None:
    algo = make_config(make_model("tiny", folder / "tiny")).build_algo()
    overheads = []
    for _ in range(12):
        start = time.perf_counter()
        timers = algo.train()["timers"]
        own = sum(timers[name] for name in ("env_runner_sampling_timer", "learner_update_timer", "synch_weights"))
        overheads.append(time.perf_counter() - start - own)
    algo.stop()
    print(f"1. RLlib overhead an iteration: median {1e3 * statistics.median(overheads[2:]):.1f} ms (target: 50 ms)")


def bench_sync(folder: Path, size: str) -> None:
    model = make_model(size, folder / size)
    ours = make_config(model, runners=2).build_algo()
    stock = make_config(model, runners=2).rl_module(rl_module_spec=RLModuleSpec(module_class=StockModule))
    stock = stock.build_algo()
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    for _ in range(3):
        start = time.perf_counter()
        broadcast_weights(ours.learner_group, ours.env_runner_group, timeout=600)
        times["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        stock.env_runner_group.sync_weights(
            from_worker_or_learner_group=stock.learner_group, timeout=600, inference_only=True
        )
        times["stock"].append(time.perf_counter() - start)
    ours.stop()
    stock.stop()
    own, other = statistics.median(times["ours"]), statistics.median(times["stock"])
    print(
        f"2. weight sync, {size} float32, 2 runners: ours {own:.2f} s, stock RLlib {other:.2f} s, "
        f"ratio {own / other:.2f} (target: 0.5)"
    )


def bench_episodes() -> None:
    length, count = 1024, 200
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 1000, length).astype(np.int32)
    column = rng.random(length).astype(np.float32)

    def build() -> TokenEpisode:
        return TokenEpisode(tokens, tokens, StopReason.EOS, 1.0, column, column, column, column, column)

    start = time.perf_counter()
    for _ in range(count):
        pickle.loads(pickle.dumps(build(), protocol=5))
    ours = (time.perf_counter() - start) / count / length
    start = time.perf_counter()
    episode = SingleAgentEpisode(observations=[0])
    for i in range(length):
        episode.add_env_step(0, int(tokens[i]), 0.0, extra_model_outputs={"logp": column[i], "vf": column[i]})
    pickle.loads(pickle.dumps(episode, protocol=5))
    stock = (time.perf_counter() - start) / length
    print(
        f"3. episode handling (build, pickle, unpickle, {length} tokens): ours {1e6 * ours:.3f} us a token, "
        f"SingleAgentEpisode {1e6 * stock:.1f} us, ratio {ours / stock:.4f} (target: 1 us)"
    )


def bench_memory(size: str) -> None:
    code = f"import bench_rllib; bench_rllib.one_update({size!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def one_update(size: str) -> None:
    """One update in this process; prints its peak resident memory."""
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(make_model(size, Path(folder))).generation(max_new_tokens=504)
        mdp = config.check_task()
        spaces = {"default_policy": (mdp.observation_space(), mdp.action_space())}
        spec = config.get_multi_rl_module_spec(spaces=spaces, inference_only=False)
        learner = config.get_default_learner_class()(config=config, module_spec=spec)
        learner.build()
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(16):
        prompt, response = (rng.integers(1, 10, n).astype(np.int32) for n in (8, 504))
        column = np.full(504, -1.0, np.float32)
        reward, group = float(rng.random() < 0.5), len(episodes)
        episodes.append(TokenEpisode(prompt, response, StopReason.EOS, reward, logprobs=column, group=group))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    learner.update(training_data=WholeEpisodeTrainingData(episodes=episodes), minibatch_size=16, num_epochs=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"4. one PPO update, {size}, 16 x 512 tokens, micro-batches of {config.max_tokens_per_microbatch}: "
        f"peak {peak:.2f} GiB, {before:.2f} GiB before it, {time.perf_counter() - start:.0f} s (target: 8 GiB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["overhead", "sync", "episodes", "memory"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--model", choices=sorted(SIZES), default="135m", help="model of parts 2 and 4")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__} with {torch.get_num_threads()} "
        f"threads, ray {ray.__version__}, transformers {transformers.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        if {"overhead", "sync"} & set(options.only):
            ray.init(num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        if "overhead" in options.only:
            bench_overhead(Path(folder))
        if "sync" in options.only:
            bench_sync(Path(folder), options.model)
        if "episodes" in options.only:
            bench_episodes()
    if "memory" in options.only:
        bench_memory(options.model)


if __name__ == "__main__":
    main()
