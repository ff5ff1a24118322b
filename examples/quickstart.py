"""Early-stopping PPO beside plain PPO, on one machine, in minutes.

This example
------------
- makes a small transformer and fine-tunes it on a task's own solutions until it is mediocre (kept in the output folder
  for the next time);
- trains it with plain PPO and with early-stopping PPO (ESPO, arXiv 2605.29860): the same start, problems and sampling
  seeds;
- answers evaluation problems with both, sampled and greedily; the failure detector's stops are only marked there, so
  that one sees how many of the marked responses would have been right;
- writes a table, curves (PNG), a page of responses (HTML) and all numbers (JSON).

How to run this script
----------------------
``python examples/quickstart.py``                                   chains such as ``17+25-8=``, working written out
``python examples/quickstart.py --task reasoning_gym:chain_sum``    problems of reasoning-gym (extra ``tasks``)
``python examples/quickstart.py --task cycle``                      a task built in favour of stopping early
``python examples/quickstart.py --rule random``                     an ablation of the paper: stop at random
``python examples/quickstart.py --help``                            all options

To start from its settings in Python::

    from examples.quickstart import build_config

    algo = build_config(task="walk", iterations=100).build_algo()

Results to expect
-----------------
On 2 cores about 3 minutes, the supervised warm-up included; ``cycle`` and ``walk`` need about 2 more for theirs. On the
arithmetic chains (seeds 0, 1 and 2) early stopping wrote 11 to 12 % fewer rollout tokens than PPO in as many updates;
sampled accuracy differed by -1.6 to +1.4 points, greedy accuracy by -4.6 to -0.9; about one marked response in ten
would have been right. The README has the table and says why.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import ray
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from espo_algo import ESPOConfig, LanguageModelWithCritic
from espo_algo.config import EngineName
from espo_algo.evaluation import Evaluation, evaluate_policy
from espo_algo.evaluation.report import choose_responses, format_table, iteration_record, plot_curves, write_responses
from espo_algo.learning.sft import Demonstrate, save_model, small_model, supervised_warmup
from espo_algo.rollout.engine import SamplingSettings
from espo_algo.weight_sync.packing import first_result
from espo_env.early_stopping import STOP_RULES
from espo_env.tasks import CycleTask, Task

OUTPUT = "quickstart_output"
EVALUATION_SLOTS = 256
THREADS = 1
# vLLM's attention on a CPU knows no heads of less than 32.
NUM_HEADS = {"torch": 4, "vllm": 2}
GREEDY = SamplingSettings(greedy=True)
RULE_NAMES = {"never": "PPO", "regret_value": "early-stopping PPO"}


@dataclass(frozen=True)
class Setting:
    """What is posed, and how a start for it is made.

    Attributes:
        env: Gymnasium id.
        env_config: Options of its task.
        max_new_tokens: Horizon; None for a quarter more than the longest of 256 reference solutions.
        accuracy: Sampled accuracy at which the supervised warm-up stops.
        steps: Its updates, at most.
        lr: Its learning rate.
        batch_size: Problems in an update.
        first: The task whose start this one's warm-up goes on from; empty for fresh weights.
        slip_rate: Slips in the demonstrations of a second phase; 0 for none.
        slip_steps: Updates of that phase, at a tenth of the learning rate.
    """

    env: str
    env_config: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int | None = None
    accuracy: float = 0.45
    steps: int = 1500
    lr: float = 4e-3
    batch_size: int = 64
    first: str = ""
    slip_rate: float = 0.0
    slip_steps: int = 0


SETTINGS = {
    "arithmetic": Setting("espo_env/Arithmetic-v0", {"min_terms": 3, "max_terms": 6, "max_digits": 1}, 64),
    "walk": Setting("espo_env/Walk-v0", {}, 40, accuracy=0.38, steps=2000, lr=3e-3, batch_size=96),
    # Its tables are among the walk's, and are hard to learn alone.
    "cycle": Setting(
        "espo_env/Cycle-v0",
        {},
        40,
        accuracy=0.5,
        steps=400,
        lr=3e-3,
        batch_size=96,
        first="walk",
        slip_rate=0.06,
        slip_steps=45,
    ),
}
GENERATORS: dict[str, dict[str, Any]] = {
    "chain_sum": {"prompt": "compact", "min_terms": 3, "max_terms": 6, "min_digits": 1, "max_digits": 1},
}


def get_setting(task: str) -> Setting:
    """The setting of ``arithmetic``, ``walk``, ``cycle`` or ``reasoning_gym:<generator>``.

    Raises:
        ValueError: If it is none of these.
    """
    kind, _, generator = task.partition(":")
    if task in SETTINGS:
        return SETTINGS[task]
    if kind != "reasoning_gym" or not generator:
        raise ValueError(f"expected a task out of {sorted(SETTINGS)} or 'reasoning_gym:<generator>', got {task!r}")
    return Setting("espo_env/ReasoningGym-v0", {"generator": generator, **GENERATORS.get(generator, {})})


def build_config(
    *,
    task: str = "arithmetic",
    model: str | Path | None = None,
    rule: str = "regret_value",
    engine: str = "torch",
    fail_reward: float = -1.0,
    iterations: int = 60,
    seed: int = 0,
    output: str | Path = OUTPUT,
    warmup_steps: int | None = None,
) -> ESPOConfig:
    """The quickstart's training configuration.

    Args:
        task: ``arithmetic``, ``walk``, ``cycle`` or ``reasoning_gym:<generator>``.
        model: Folder to start from; None for the small transformer, made under ``output`` where it is not there yet.
        rule: Stop rule; ``"never"`` is plain PPO.
        fail_reward: Reward of a stop; -1 in the paper, beside 0 for a wrong answer.
        engine: What writes the responses.
        iterations: Planned training iterations.
        seed: Of problems, samples and minibatches.
        output: Folder in which the small transformer is kept.
        warmup_steps: Updates of its supervised warm-up, at most; None for the task's own number.
    """
    setting = get_setting(task)
    if model is not None and setting.env == "espo_env/ReasoningGym-v0":
        setting = replace(setting, env_config={**setting.env_config, "tokenizer": str(model)})
    horizon, _ = measure_task(setting)
    return (
        ESPOConfig()
        .environment(setting.env, env_config=setting.env_config)
        # The embedded engine runs beside the learner; vLLM takes a process, and the GPU where there is one.
        .env_runners(
            num_env_runners=0 if engine == "torch" else 1,
            num_gpus_per_env_runner=0 if engine == "torch" else int(torch.cuda.is_available()),
            num_envs_per_env_runner=96,
        )
        .language_model(model=model or make_start(task, output, warmup_steps, NUM_HEADS[engine]), critic="separate")
        .generation(engine=engine, max_new_tokens=horizon)
        .early_stopping(
            rule=rule,
            fail_reward=fail_reward,
            # The paper's constants belong to its models; these find their scale in the warm-up's rollouts.
            beta="auto",
            target_stop_rate=0.25,
            tolerance_update="multiplicative",
            tolerance_rate=0.2,
            warmup_min_explained_variance=0.05,
            planned_iterations=iterations,
        )
        .training(
            lr=5e-5,
            critic_lr=5e-4,
            lambda_=0.95,
            train_batch_size_per_learner=96,
            minibatch_size=24,
            num_epochs=1,
        )
        .debugging(seed=seed, log_level="ERROR")
    )


def measure_task(setting: Setting) -> tuple[int, Task]:
    """Horizon and task of a setting."""
    # The horizon is not known yet, and the task does not depend on it.
    task: Task = gym.make(setting.env, max_new_tokens=1, **setting.env_config).unwrapped.task
    if setting.max_new_tokens is not None:
        return setting.max_new_tokens, task
    longest = max(len(task.encode_solution(task.problem(index))) for index in range(256))
    return longest + longest // 4, task


def make_start(name: str, output: str | Path, warmup_steps: int | None = None, num_heads: int = 4) -> Path:
    """Makes the small transformer, or takes the one that is there with the same setting."""
    setting = get_setting(name)
    if warmup_steps is not None:
        setting = replace(setting, steps=warmup_steps, slip_steps=min(setting.slip_steps, warmup_steps))
    heads = "" if num_heads == 4 else f"-{num_heads}-heads"
    folder = Path(output) / f"start-{name.replace(':', '-')}{heads}"
    record, wanted = folder / "warmup.json", json.loads(json.dumps(asdict(setting)))
    if record.is_file() and json.loads(record.read_text("utf-8"))["setting"] == wanted:
        return folder
    horizon, task = measure_task(setting)
    if setting.first:
        model = AutoModelForCausalLM.from_pretrained(make_start(setting.first, output, warmup_steps, num_heads))
    else:
        model = small_model(task, max_length=task.max_prompt_tokens + horizon, num_heads=num_heads)
    points = supervised_warmup(
        model,
        task,
        max_new_tokens=horizon,
        steps=setting.steps,
        lr=setting.lr,
        batch_size=setting.batch_size,
        until=setting.accuracy,
    )
    if setting.slip_steps and isinstance(task, CycleTask):
        points += supervised_warmup(
            model,
            task,
            max_new_tokens=horizon,
            steps=setting.slip_steps,
            lr=setting.lr / 10,
            demonstrate=slips(task, setting.slip_rate, horizon),
            evaluate_every=setting.slip_steps,
        )
    if folder.exists():
        shutil.rmtree(folder)
    save_model(model, task, folder)
    # Last, so that a folder that was left half-way is not taken.
    record.write_text(json.dumps({"setting": wanted, "points": [asdict(p) for p in points]}, indent=2) + "\n", "utf-8")
    return folder


def slips(task: CycleTask, rate: float, max_new_tokens: int) -> Demonstrate:
    """Demonstrations that slip now and then and walk on: what teaches a model to ramble."""
    return lambda problem, rng: task.slipped_demonstration(problem, rng, rate, max_new_tokens)


@dataclass
class Run:
    """One policy with what was measured on it.

    Attributes:
        name: As the table says.
        history: A record for each training iteration.
        sampled: Evaluation at the training temperature; the detector's stops are only marked.
        greedy: Evaluation with the likeliest tokens.
        stopping: A few responses with the stops taken.
    """

    name: str
    history: list[dict[str, float]]
    sampled: Evaluation
    greedy: Evaluation
    stopping: Evaluation | None = None

    @property
    def tokens(self) -> float:
        """Rollout tokens of the training."""
        return self.history[-1]["tokens"] if self.history else 0.0


def measure_start(config: ESPOConfig, num_problems: int) -> Run:
    """Measures the policy that training starts from."""
    policy = AutoModelForCausalLM.from_pretrained(config.model_name)
    model = LanguageModelWithCritic(policy, vocab_size=config.check_task().vocab_size)
    config = for_evaluation(config)
    sampled = evaluate_policy(config, model, num_problems=num_problems, stops="off")
    greedy = evaluate_policy(config, model, num_problems=num_problems, sampling=GREEDY, stops="off")
    return Run("start", [], sampled, greedy)


def train(config: ESPOConfig, name: str, iterations: int, num_problems: int) -> Run:
    """Trains with a progress bar, then measures."""
    algo = config.build_algo()
    history = []
    with tqdm(range(iterations), desc=name) as bar:
        for _ in bar:
            history.append(iteration_record(algo.train()))
            now = history[-1]
            bar.set_postfix(
                accuracy=f"{now['accuracy']:.2f}", tokens=f"{now['tokens'] / 1e3:.1f}k", stops=f"{now['stop_rate']:.2f}"
            )
    learned = first_result(algo.learner_group.foreach_learner(lambda learner: learner.language_module))
    model, control = learned.model, learned.regret_control
    algo.stop()
    config = for_evaluation(config)
    return Run(
        name,
        history,
        sampled=evaluate_policy(config, model, control, num_problems=num_problems, stops="mark"),
        greedy=evaluate_policy(config, model, num_problems=num_problems, sampling=GREEDY, stops="off"),
        stopping=evaluate_policy(config, model, control, num_problems=min(64, num_problems), stops="stop"),
    )


def for_evaluation(config: ESPOConfig) -> ESPOConfig:
    """The same on the embedded engine, with more slots."""
    config = config.copy(copy_frozen=False).generation(engine="torch")
    return config.env_runners(num_env_runners=0, num_gpus_per_env_runner=0, num_envs_per_env_runner=EVALUATION_SLOTS)


def table(runs: Sequence[Run], baseline: Run) -> str:
    """The runs beside each other; the saving is against ``baseline``."""
    header = ["", "sampled acc.", "greedy acc.", "rollout tokens", "saving", "stop rate", "false positives"]
    rows = []
    for run in runs:
        stopped = run.sampled.stop_rate > 0
        rows.append(
            [
                run.name,
                *(f"{e.accuracy:.3f} ± {e.accuracy_error:.3f}" for e in (run.sampled, run.greedy)),
                f"{run.tokens / 1e3:.1f}k" if run.history else "-",
                f"{1 - run.tokens / baseline.tokens:.1%}" if run.history and run is not baseline else "-",
                f"{run.sampled.stop_rate:.3f}" if stopped else "-",
                f"{run.sampled.false_positive_rate:.3f}" if stopped else "-",
            ]
        )
    return format_table(header, rows)


def verdict(run: Run, baseline: Run) -> str:
    """What the numbers say, for the method or against it."""
    differences = []
    for kind in ("sampled", "greedy"):
        mean, error = paired_difference(getattr(run, kind), getattr(baseline, kind))
        clear = "" if abs(mean) > 2 * error else ", within two standard errors"
        differences.append(f"{kind} accuracy {100 * mean:+.1f} ± {100 * error:.1f} points{clear}")
    saving = 1 - run.tokens / baseline.tokens
    return (
        f"{run.name} wrote {abs(saving):.1%} {'fewer' if saving > 0 else 'more'} rollout tokens than {baseline.name} "
        f"in as many updates; {'; '.join(differences)}."
    )


def paired_difference(left: Evaluation, right: Evaluation) -> tuple[float, float]:
    """Difference of two accuracies on the same problems, and its standard error."""
    a, b = (np.array([e.correct is True for e in x.episodes], float) for x in (left, right))
    return float((a - b).mean()), float((a - b).std(ddof=1) / np.sqrt(len(a)))


def numbers(run: Run) -> dict[str, Any]:
    """A run's numbers for the JSON file; None where nothing was measured."""
    measured = {
        "sampled_accuracy": run.sampled.accuracy,
        "sampled_accuracy_error": run.sampled.accuracy_error,
        "greedy_accuracy": run.greedy.accuracy,
        "greedy_accuracy_error": run.greedy.accuracy_error,
        "rollout_tokens": run.tokens,
        "stop_rate": run.sampled.stop_rate,
        "false_positive_rate": run.sampled.false_positive_rate,
        "evaluation_tokens": run.sampled.num_tokens,
    }
    clean = {name: None if np.isnan(number) else number for name, number in measured.items()}
    history = [{k: None if np.isnan(v) else v for k, v in record.items()} for record in run.history]
    return {**clean, "history": history}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; ends with a message where it does not make sense."""
    parser = argparse.ArgumentParser(description="Early-stopping PPO beside plain PPO on a small language model.")
    parser.add_argument(
        "--task", default="arithmetic", help=f"{', '.join(SETTINGS)} or reasoning_gym:<generator> (default: arithmetic)"
    )
    parser.add_argument("--engine", choices=get_args(EngineName), default="torch", help="what writes the responses")
    parser.add_argument("--rule", choices=list(STOP_RULES), default="regret_value", help="stop rule; never: PPO alone")
    parser.add_argument("--fail-reward", type=float, default=-1.0, help="reward of a stop (default: the paper's -1)")
    parser.add_argument("--seed", type=int, default=0, help="of problems, samples and minibatches (default: 0)")
    parser.add_argument("--iterations", type=int, default=60, help="PPO iterations of each run (default: 60)")
    parser.add_argument("--problems", type=int, default=2048, help="evaluation problems (default: 2048)")
    parser.add_argument("--warmup-steps", type=int, help="supervised updates at most (default: the task's own number)")
    parser.add_argument("--model", type=Path, help="model folder to start from, instead of the small transformer")
    parser.add_argument("--output", type=Path, default=Path(OUTPUT), help=f"folder of the results (default: {OUTPUT})")
    options = parser.parse_args(arguments)
    for name, least in (("seed", 0), ("iterations", 1), ("problems", 2), ("warmup_steps", 1)):
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
    started = time.perf_counter()
    torch.set_num_threads(THREADS)
    disable_progress_bar()  # transformers' own, for each file it loads
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    options.output.mkdir(parents=True, exist_ok=True)
    shared = {name: getattr(options, name) for name in ("task", "engine", "fail_reward", "iterations", "seed")}
    heads = NUM_HEADS[options.engine]
    model = options.model or make_start(options.task, options.output, options.warmup_steps, heads)

    names = {rule: RULE_NAMES.get(rule, f"PPO, {rule} stops") for rule in ("never", options.rule)}
    configs = {name: build_config(model=model, rule=rule, **shared) for rule, name in names.items()}
    start = measure_start(configs["PPO"], options.problems)
    runs = [train(config, name, options.iterations, options.problems) for name, config in configs.items()]
    ray.shutdown()

    tokenizer = measure_task(get_setting(options.task))[1].tokenizer
    page = choose_responses([*runs[-1].stopping.episodes, *runs[-1].sampled.episodes], count=24)
    files = {
        "numbers": options.output / "results.json",
        "curves": plot_curves({run.name: run.history for run in runs}, options.output / "curves.png"),
        "responses": write_responses(page, tokenizer, options.output / "responses.html", f"{runs[-1].name}: responses"),
    }
    seconds = time.perf_counter() - started
    results = {"options": {**vars(options), "model": str(model), "output": str(options.output)}, "seconds": seconds}
    results["runs"] = {run.name: numbers(run) for run in (start, *runs)}
    files["numbers"].write_text(json.dumps(results, indent=2) + "\n", "utf-8")

    print(f"\n{options.task}, {options.problems} evaluation problems, ± one standard error, {seconds:.0f} s altogether")
    print(f"\n{table([start, *runs], runs[0])}\n")
    for run in runs[1:]:
        print(verdict(run, runs[0]))
    print("Stop rate and false positives (marked responses that were right): stops only marked, the responses run on.")
    if options.task == "cycle":
        print("The task 'cycle' is built in favour of stopping early.")
    for what, path in files.items():
        print(f"{what:>10}: {path}")


if __name__ == "__main__":
    main()
