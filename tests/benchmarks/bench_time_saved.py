"""What fewer tokens save in time: PPO beside the same with half of the responses stopped, sampling and update.

Both write real responses with the same weights, prompts and seeds; lengths are forced by the horizon, drawn uniformly
from ``--lengths``. On the stopping side every second response is cut at a random place. Each is sampled by the embedded
engine and then learnt from, in alternating rounds within one process; process CPU time. The last column is what counts:
the share of the time that is saved, divided by the share of the tokens.

How to run::

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_time_saved.py --rounds 3

``--models`` takes 0.1M, 11M and 30M; ``--responses`` is the number of responses to a prompt, with and without
``share_prompts``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, Qwen2Config

from espo_algo import ESPOConfig
from espo_algo.learning.training_data import WholeEpisodeTrainingData
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.engine import EngineSettings, GenerationRequest
from espo_env.early_stopping import DetectorState
from espo_env.tasks import ArithmeticTask

SIZES = {
    "0.1M": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 64},
    "11M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "vocab_size": 8192},
    "30M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab_size": 8192},
}
PROMPT = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["0.1M", "11M"], choices=list(SIZES))
    parser.add_argument("--responses", nargs="+", type=int, default=[1, 8], help="to a prompt")
    parser.add_argument("--batch", type=int, default=96, help="responses of an iteration")
    parser.add_argument("--slots", type=int, help="engine slots (default: the batch)")
    parser.add_argument("--lengths", nargs=2, type=int, default=[32, 96], help="shortest and longest response")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread; ", end="")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; {options}")
    print("CPU seconds an iteration, PPO and with stops, medians; saved, and time saved / tokens saved")
    print(
        f"{'model':<7}{'a prompt':>9}{'shared':>8}{'tokens':>8}{'sampling':>24}{'update':>24}"
        f"{'together':>10}{'ratio':>7}"
    )
    for size in options.models:
        for responses in options.responses:
            for share_prompts in (False, True):
                measure(size, responses, share_prompts, options)


def measure(size: str, responses: int, share_prompts: bool, options: argparse.Namespace) -> None:
    """Prints a row."""
    learner = make_learner(size, share_prompts, options)
    model, slots = learner.language_module.model, options.slots or options.batch
    engine = TorchEngine(model, EngineSettings(slots, PROMPT + options.lengths[1], eos_token_id=None))
    engine.set_detector_state(DetectorState(beta=1e9))  # decides at every step, and never to stop
    sides = [requests_of(model.vocab_size, responses, stops, options) for stops in (False, True)]
    saved = 1 - sum(r.max_new_tokens for r in sides[1]) / sum(r.max_new_tokens for r in sides[0])
    seconds: list[list[tuple[float, float]]] = [[], []]
    for number in range(options.rounds + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            took = iteration(learner, engine, sides[side], responses)
            if number:  # the first one warms up
                seconds[side].append(took)
    medians = np.array([[statistics.median(part) for part in zip(*side, strict=True)] for side in seconds])
    parts = "".join(f"{f'{ppo:.2f} {stopped:.2f} s {1 - stopped / ppo:>5.0%}':>24}" for ppo, stopped in medians.T)
    together = 1 - medians[1].sum() / medians[0].sum()
    print(
        f"{size:<7}{responses:>9}{'yes' if share_prompts else 'no':>8}{saved:>8.0%}{parts}"
        f"{together:>10.0%}{together / saved:>7.2f}",
        flush=True,
    )


def make_learner(size: str, share_prompts: bool, options: argparse.Namespace):
    """As RLlib builds a local one, for a fresh model of this size."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = ArithmeticTask().tokenizer
        torch.manual_seed(0)
        sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024}
        config = Qwen2Config(**SIZES[size], **sizes, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made = (
            ESPOConfig()
            .environment("espo_env/Arithmetic-v0")
            .env_runners(num_envs_per_env_runner=options.batch)
            .language_model(model=Path(folder))
            .generation(max_new_tokens=options.lengths[1])
            # Hardly changes the weights: every round does the same.
            .training(lr=1e-9, critic_lr=1e-9, minibatch_size=options.batch // 4, share_prompts=share_prompts)
            .training(train_batch_size_per_learner=options.batch, num_epochs=1)
            .debugging(seed=0, log_level="ERROR")
        )
        mdp = made.check_task()
        learner = made.build_learner(spaces={"default_policy": (mdp.observation_space(), mdp.action_space())})
    return learner


def requests_of(vocab_size: int, responses: int, stops: bool, options: argparse.Namespace) -> list[GenerationRequest]:
    """The requests of an iteration; with stops every second response is cut at a random place."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(1, vocab_size, (-(-options.batch // responses), PROMPT)).astype(np.int32)
    lengths = rng.integers(options.lengths[0], options.lengths[1] + 1, options.batch)
    cut = rng.integers(1, lengths + 1)
    if stops:
        lengths[::2] = cut[::2]
    return [GenerationRequest(i, prompts[i // responses], i, int(lengths[i])) for i in range(options.batch)]


def iteration(learner, engine: TorchEngine, requests: list[GenerationRequest], responses: int) -> tuple[float, float]:
    """CPU seconds of sampling and update."""
    start = time.process_time()
    engine.submit(requests)
    episodes = []
    while engine.num_unfinished:
        episodes += engine.step()
    sampled = time.process_time()
    for episode in episodes:
        episode.group, episode.reward = episode.request_id // responses, float(episode.request_id % 3 == 0)
    episodes.sort(key=lambda episode: episode.request_id)
    learner.update(
        training_data=WholeEpisodeTrainingData(episodes=episodes),
        timesteps={"num_env_steps_sampled_lifetime": 0},
        num_epochs=1,
        minibatch_size=learner.config.minibatch_size,
        shuffle_batch_per_epoch=True,
    )
    return sampled - start, time.process_time() - sampled


if __name__ == "__main__":
    main()
