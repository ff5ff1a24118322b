"""Early-stopping PPO beside plain PPO, on one machine, in minutes.

This example
------------
- makes a small transformer and fine-tunes it on a task's own solutions until it is mediocre (kept in the output folder
  for the next time);
- trains it with plain PPO and with early-stopping PPO (ESPO, arXiv 2605.29860): the same start, problems and sampling
  seeds; the latter goes on until it has used as many rollout tokens;
- answers evaluation problems with both, sampled and greedily, at equal tokens and at equal updates; the failure
  detector's stops are only marked there, so that one sees how many of the marked responses would have been right;
- writes a table, curves (PNG), a page of responses (HTML) and all numbers (JSON).

How to run this script
----------------------
``python examples/quickstart.py``                                   chains of 8 to 14 numbers, working written out
``python examples/quickstart.py --task arithmetic``                 short ones: the hard case
``python examples/quickstart.py --task reasoning_gym:chain_sum``    problems of reasoning-gym (extra ``tasks``)
``python examples/quickstart.py --task cycle``                      a task built in favour of stopping early
``python examples/quickstart.py --rule random``                     an ablation of the paper: stop at random
``python examples/quickstart.py --help``                            all options

To start from its settings in Python::

    from espo_algo.experiments.config import build_config

    algo = build_config(task="walk", iterations=100).build_algo()

Results to expect
-----------------
About 12 minutes of a core: supervised fine-tuning, two runs and their evaluations. On the long chains (seed 0) early
stopping wrote 13 % fewer rollout tokens than PPO in as many updates, with sampled accuracy -0.3 and greedy accuracy
-0.5 points; over five seeds (``espo reproduce``) 12 % fewer, +2.1 and -0.1. The README has the table and says why.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import ray
import torch
from transformers.utils.logging import disable_progress_bar

from espo_algo.atomic import write_text
from espo_algo.evaluation.report import plot_curves
from espo_algo.evaluation.response_recorder import read_snapshots
from espo_algo.evaluation.responses_page import PageRun, write_page
from espo_algo.evaluation.snapshots import take_snapshot
from espo_algo.experiments.arms import FAMILIES
from espo_algo.experiments.comparison import measure_start, table, verdict
from espo_algo.experiments.config import OUTPUT, build_config, with_settings
from espo_algo.experiments.run import NUM_RECORDED, Run, Schedule, numbers, train
from espo_algo.experiments.settings import SETTINGS, get_setting, measure_task
from espo_algo.experiments.starts import make_start, num_heads
from espo_algo.local_ray import start_ray
from espo_algo.lock import lock
from espo_algo.rollout.engines import ENGINES
from espo_env.early_stopping import STOP_RULES
from espo_env.tokenizer import Tokenizer

TASK = "long_chains"
RULE_NAMES = {"never": "PPO", "regret_value": "early-stopping PPO"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; ends with a message where it does not make sense."""
    parser = argparse.ArgumentParser(description="Early-stopping PPO beside plain PPO on a small language model.")
    parser.add_argument(
        "--task", default=TASK, help=f"{', '.join(SETTINGS)} or reasoning_gym:<generator> (default: {TASK})"
    )
    parser.add_argument("--engine", choices=list(ENGINES), default="torch", help="what writes the responses")
    parser.add_argument("--rule", choices=list(STOP_RULES), default="regret_value", help="stop rule; never: PPO alone")
    parser.add_argument("--fail-reward", type=float, default=0.0, help="reward of a stop (default: 0; the paper's: -1)")
    parser.add_argument("--seed", type=int, default=0, help="of problems, samples and minibatches (default: 0)")
    parser.add_argument("--iterations", type=int, default=50, help="PPO iterations of each run (default: 50)")
    parser.add_argument("--problems", type=int, default=1024, help="evaluation problems (default: 1024)")
    parser.add_argument("--sft-steps", type=int, help="supervised updates at most (default: the task's own number)")
    parser.add_argument("--model", type=Path, help="model folder to start from, instead of the small transformer")
    parser.add_argument("--output", type=Path, default=Path(OUTPUT), help=f"folder of the results (default: {OUTPUT})")
    options = parser.parse_args(arguments)
    for name, least in (("seed", 0), ("iterations", 1), ("problems", 2), ("sft_steps", 1)):
        if (got := getattr(options, name)) is not None and got < least:
            parser.error(f"expected --{name.replace('_', '-')} of at least {least}, got {got}")
    if options.model is not None and not (options.model / "config.json").is_file():
        parser.error(f"expected --model with a config.json in it, got {str(options.model)!r}")
    try:
        measure_task(get_setting(options.task))
    except (ImportError, ValueError) as error:
        parser.error(f"--task {options.task}: {error}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    options = parse_arguments(arguments)
    try:
        with lock(options.output / "lock"):
            compare(options)
    except BlockingIOError as error:
        raise SystemExit(f"error: {error}") from error


def compare(options: argparse.Namespace) -> None:
    """Trains, measures, writes the files and prints the table."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    disable_progress_bar()  # transformers' own, for each file it loads
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    start_ray(num_cpus=2, logging_level=logging.ERROR, log_to_driver=False)
    shared = {name: getattr(options, name) for name in ("task", "engine", "fail_reward", "iterations", "seed")}
    model = options.model or make_start(options.task, options.output, options.sft_steps, num_heads(options.engine))

    names = {rule: RULE_NAMES.get(rule, f"PPO, {rule} stops") for rule in ("never", options.rule)}
    found = FAMILIES[options.task].settings if options.task in FAMILIES else {}
    configs = {
        name: with_settings(build_config(model=model, rule=rule, **shared), found) for rule, name in names.items()
    }
    start = measure_start(configs["PPO"], options.problems)
    runs: list[Run] = []
    for name, config in configs.items():
        budget = runs[0].at_updates.tokens if runs else None
        schedule = Schedule(options.iterations, options.problems, token_budget=budget)
        runs.append(train(config, name, schedule, responses=options.output / "responses" / config.rule))
    ray.shutdown()

    tokenizer = configs["PPO"].check_task().task.tokenizer
    page = [page_run(run, options.output / "responses" / run.config.rule, tokenizer) for run in reversed(runs)]
    files = {
        "numbers": options.output / "results.json",
        "curves": plot_curves({run.name: run.history for run in runs}, options.output / "curves.png"),
        "responses": write_page(page, options.output / "responses.html", f"{options.task}: responses"),
    }
    seconds = time.perf_counter() - started
    results = {"options": {**vars(options), "model": str(model), "output": str(options.output)}, "seconds": seconds}
    results |= {"start": start.numbers(), "runs": {run.name: numbers(run) for run in runs}}
    write_text(files["numbers"], json.dumps(results, indent=2) + "\n")

    print(f"\n{options.task}, {options.problems} evaluation problems, ± one standard error, {seconds:.0f} s altogether")
    print(f"\n{table(start, runs)}\n")
    for run in runs[1:]:
        print(verdict(run, runs[0]))
    print("[95 % intervals over the problems; seeds differ by more: espo reproduce.] Stop rate and wrong stops (marked")
    print("responses that were right) are measured on responses that run on.")
    if options.task == "cycle":
        print("The task 'cycle' is built in favour of stopping early.")
    for what, path in files.items():
        print(f"{what:>10}: {path}")


def page_run(run: Run, responses: Path, tokenizer: Tokenizer) -> PageRun:
    """A run on the page: responses of its training, and of the evaluation behind it."""
    iteration = run.at_updates.iteration
    label = f"evaluation after iteration {iteration}, stops only marked"
    evaluation = take_snapshot(run.at_updates.sampled.episodes, run.config, tokenizer, NUM_RECORDED, iteration, label)
    return PageRun(run.name, run.history, [*read_snapshots(responses), evaluation])


if __name__ == "__main__":
    main()
