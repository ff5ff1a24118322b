"""Population-based training: a few runs side by side; the worst take over the best ones' state, and change a setting.

This example
------------
- makes the small transformer that the quickstart's arithmetic chains start from (kept in ``quickstart_output``);
- trains a population of early-stopping PPO with Ray Tune; every few iterations a run of the lower quarter goes on from
  a checkpoint of one of the upper quarter (weights, optimisers, and the state of early stopping: mean and variance of
  the regret, beta, the critic's warm-up), with a target stop rate, fail reward and learning rates of its own;
- prints who took over whose state and with which settings, and a table of the runs.

How to run this script
----------------------
``python examples/tune_population.py``
``python examples/tune_population.py --population 8 --iterations 60 --every 10``

It needs the extra ``tune``.

Results to expect
-----------------
Trial 1, which its learning rate of 9e-4 had brought down to an accuracy of 0.145 (256 problems, standard error 0.02 to
0.03), goes on from trial 3 after 3 iterations, with a learning rate of 1.2e-4 and a target stop rate of 0.228 instead
of 0.171. An iteration later it has an accuracy of 0.520, and beta falls from 27.4 to 23.1, where trial 3's is, too
(28.2 before): the state came along. After 6 iterations: 0.543 (trial 3), 0.531 (trial 1), 0.402, 0.129. 4 minutes on
2 cores of an AMD EPYC without a GPU, which others used, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import ray
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from espo_algo import ESPOConfig
from espo_algo.experiments.config import OUTPUT, build_config
from espo_algo.local_ray import start_ray
from espo_algo.tuning.loggers import TensorBoardLogger
from espo_algo.tuning.placement import trials_at_once
from espo_algo.tuning.summary import summarize

NAME = "population"
RANGES = {
    "target_stop_rate": tune.uniform(0.05, 0.35),
    "fail_reward": tune.uniform(-1.0, 0.0),
    "lr": tune.loguniform(1e-5, 1e-3),
    "critic_lr": tune.loguniform(1e-4, 5e-3),
}


def with_ranges(config: ESPOConfig) -> ESPOConfig:
    """What each run of the population begins with."""
    for name, values in RANGES.items():
        setattr(config, name, values)
    return config


def make_tuner(config: ESPOConfig, options: argparse.Namespace) -> tune.Tuner:
    """All runs wait for each other before the worst take over: no checkpoint is deleted before it is taken."""
    population = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=options.every,
        hyperparam_mutations=RANGES,
        quantile_fraction=0.25 if options.population >= 4 else 0.5,
        synch=True,
    )
    return tune.Tuner(
        "ESPO",
        param_space=with_ranges(config),
        tune_config=tune.TuneConfig(
            metric="evaluation/env_runners/accuracy",
            mode="max",
            num_samples=options.population,
            scheduler=population,
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=str(options.output),
            stop={"training_iteration": options.iterations},
            checkpoint_config=tune.CheckpointConfig(num_to_keep=3),
            callbacks=[TensorBoardLogger()],
            verbose=0,  # 1 prints every setting of every trial
        ),
    )


def takeovers(folder: Path) -> list[str]:
    """A line for each run that took over another one's state, from Tune's own log of them."""
    log = folder / "pbt_global.txt"
    lines = []
    for row in map(json.loads, log.read_text().splitlines() if log.is_file() else ()):
        loser, winner, *_, settings = row
        loser, winner = (tag.partition("_")[0] for tag in (loser, winner))
        drawn = ", ".join(f"{name}={settings[name]:.3g}" for name in RANGES)
        lines.append(f"trial {loser} goes on from trial {winner}, with {drawn}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=int, default=4, help="runs side by side, 2 or more")
    parser.add_argument("--iterations", type=int, default=6, help="of a run")
    parser.add_argument("--every", type=int, default=3, help="iterations between take-overs")
    parser.add_argument("--problems", type=int, default=256, help="of an evaluation")
    parser.add_argument(
        "--starts", default=OUTPUT, help="folder of the model to start from, made where it is not there"
    )
    parser.add_argument("--sft-steps", type=int, help="of that model's supervised fine-tuning, at most")
    parser.add_argument("--output", type=Path, default=Path("tune_output"))
    options = parser.parse_args(arguments)
    options.output = options.output.resolve()  # trials have working folders of their own
    config = build_config(
        iterations=options.iterations, output=Path(options.starts).resolve(), sft_steps=options.sft_steps
    ).evaluation(evaluation_interval=1, evaluation_duration=options.problems)
    config.validate()
    if not ray.is_initialized():
        start_ray(log_to_driver=False, logging_level="ERROR")
    trials_at_once(config)  # or an error that says what a run needs
    results = make_tuner(config, options).fit()
    print("\n".join(takeovers(options.output / NAME)))
    print(summarize(results, options.output / NAME))


if __name__ == "__main__":
    main()
