"""A search for target stop rate, fail reward and learning rates: Optuna proposes, ASHA ends what falls behind.

This example
------------
- makes the small transformer that the quickstart's arithmetic chains start from (kept in ``quickstart_output``);
- trains trials of early-stopping PPO with Ray Tune, as many at once as fit;
- logs metrics under readable names, for TensorBoard and, with ``--wandb`` and ``--mlflow`` (extra ``loggers``), for
  Weights & Biases (offline) and MLflow (in an SQLite file);
- prints a table of the trials, and draws what each setting did.

``espo tune`` does the same from a file; this is for those who want Ray Tune itself.

How to run this script
----------------------
``python examples/tune_search.py``                         8 trials of at most 9 iterations
``python examples/tune_search.py --samples 40 --iterations 60``
``python examples/tune_search.py --resume``                goes on where it was interrupted or killed

It needs the extra ``tune``.

Results to expect
-----------------
ASHA ended 4 of the 8 trials after 3 iterations, with accuracies of 0.42 to 0.48 on 256 problems (standard error
0.03); the best of the others came to 0.559 after 26,300 tokens (target stop rate 0.177, fail reward -1, lr 1.2e-4,
critic_lr 1.3e-3), the second to 0.531. So short a search shows how it is done, and not which settings are best.
8 minutes on 2 cores of an AMD EPYC without a GPU, which others used, too. Trials end in another order elsewhere, and
then other settings are proposed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import ray
from ray import tune
from ray.tune.logger import LoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from espo_algo import ESPOConfig
from espo_algo.experiments.config import OUTPUT, build_config
from espo_algo.local_ray import start_ray
from espo_algo.tuning.loggers import MLflowLogger, TensorBoardLogger, WandbLogger
from espo_algo.tuning.placement import trials_at_once
from espo_algo.tuning.restore import restore
from espo_algo.tuning.summary import summarize

NAME = "search"
METRIC = "evaluation/env_runners/accuracy"
"""Training's own accuracy counts stopped responses as wrong: a search for it would find that one should not stop."""


def with_ranges(config: ESPOConfig) -> ESPOConfig:
    """Ranges stand where values do."""
    return config.early_stopping(
        target_stop_rate=tune.uniform(0.05, 0.35),
        fail_reward=tune.choice([-1.0, -0.5, 0.0]),
    ).training(lr=tune.loguniform(1e-5, 1e-3), critic_lr=tune.loguniform(1e-4, 5e-3))


def make_tuner(config: ESPOConfig, options: argparse.Namespace, at_once: int) -> tune.Tuner:
    """Optuna's TPE proposes; ASHA lets one of three go on at each rung."""
    loggers: list[LoggerCallback] = [TensorBoardLogger()]
    if options.wandb:
        os.environ["WANDB_MODE"] = "offline"  # `wandb sync` sends it
        loggers.append(WandbLogger(project="espo", mode="offline"))
    if options.mlflow:
        loggers.append(MLflowLogger(tracking_uri=f"sqlite:///{options.output}/mlflow.db", experiment_name="espo"))
    return tune.Tuner(
        "ESPO",
        param_space=with_ranges(config),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=options.samples,
            max_concurrent_trials=at_once,
            search_alg=OptunaSearch(seed=0),
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            scheduler=ASHAScheduler(max_t=options.iterations, grace_period=options.grace, reduction_factor=3),
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=str(options.output),
            stop={"training_iteration": options.iterations},
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=2, checkpoint_at_end=True),
            callbacks=loggers,
            verbose=0,  # 1 prints every setting of every trial
        ),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8, help="trials")
    parser.add_argument("--iterations", type=int, default=9, help="of a trial, at most")
    parser.add_argument("--grace", type=int, default=3, help="iterations before ASHA ends a trial")
    parser.add_argument("--problems", type=int, default=256, help="of an evaluation")
    parser.add_argument(
        "--starts", default=OUTPUT, help="folder of the model to start from, made where it is not there"
    )
    parser.add_argument("--sft-steps", type=int, help="of that model's supervised fine-tuning, at most")
    parser.add_argument("--output", type=Path, default=Path("tune_output"))
    parser.add_argument("--resume", action="store_true", help="go on where it was interrupted or killed")
    parser.add_argument("--wandb", action="store_true", help="log for Weights & Biases, too, offline")
    parser.add_argument("--mlflow", action="store_true", help="log to MLflow, too, in a file")
    options = parser.parse_args(arguments)
    options.output = options.output.resolve()  # trials have working folders of their own
    options.output.mkdir(parents=True, exist_ok=True)
    config = build_config(
        iterations=options.iterations, output=Path(options.starts).resolve(), sft_steps=options.sft_steps
    ).evaluation(evaluation_interval=1, evaluation_duration=options.problems)
    config.validate()
    if not ray.is_initialized():
        start_ray(log_to_driver=False, logging_level="ERROR")
    # What a trial reserves; one that does not fit would wait for ever.
    at_once = trials_at_once(config)
    tuner = restore(options.output / NAME) if options.resume else make_tuner(config, options, at_once)
    results = tuner.fit()
    print(summarize(results, options.output))


if __name__ == "__main__":
    main()
