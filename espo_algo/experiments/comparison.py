"""Comparisons of runs: trained from the same start, on the same problems with the same seeds.

- :class:`Run`: one policy with what was measured on it.
- :func:`train`, :func:`measure_start`: make a run, by training or of the start itself.
- :func:`table`, :func:`verdict`, :func:`numbers`: runs as a text table, a sentence, and numbers for a JSON file.
- :func:`paired_difference`: two accuracies on the same problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from espo_algo.config import ESPOConfig
from espo_algo.evaluation import Evaluation, evaluate_policy
from espo_algo.evaluation.report import format_table, iteration_record
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.engine import SamplingSettings

__all__ = ["Run", "for_evaluation", "measure_start", "numbers", "paired_difference", "table", "train", "verdict"]

GREEDY = SamplingSettings(greedy=True)
_EVALUATION_SLOTS = 256


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

    @property
    def sampling_s(self) -> float:
        """Seconds of the training in which responses were written."""
        return sum(record["sampling_s"] for record in self.history)

    @property
    def update_s(self) -> float:
        """Seconds of the training that the updates took."""
        return sum(record["update_s"] for record in self.history)


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
    policy = algo.policy()
    algo.stop()
    config = for_evaluation(config)
    return Run(
        name,
        history,
        sampled=evaluate_policy(config, policy.model, policy.early_stopping, num_problems=num_problems, stops="mark"),
        greedy=evaluate_policy(config, policy.model, num_problems=num_problems, sampling=GREEDY, stops="off"),
        stopping=evaluate_policy(
            config, policy.model, policy.early_stopping, num_problems=min(64, num_problems), stops="stop"
        ),
    )


def for_evaluation(config: ESPOConfig) -> ESPOConfig:
    """A copy of a configuration for evaluation: the embedded engine in this process, with more slots."""
    config = config.copy(copy_frozen=False).generation(engine="torch")
    return config.env_runners(num_env_runners=0, num_gpus_per_env_runner=0, num_envs_per_env_runner=_EVALUATION_SLOTS)


def table(runs: Sequence[Run], baseline: Run) -> str:
    """The runs as a text table; savings are against ``baseline``."""
    header = ["", "sampled acc.", "greedy acc.", "rollout tokens", "saving", "sampling", "update"]
    header += ["stop rate", "false positives"]
    rows = []
    for run in runs:
        stopped = run.sampled.stop_rate > 0
        rows.append(
            [
                run.name,
                *(f"{e.accuracy:.3f} ± {e.accuracy_error:.3f}" for e in (run.sampled, run.greedy)),
                f"{run.tokens / 1e3:.1f}k" if run.history else "-",
                f"{1 - run.tokens / baseline.tokens:.1%}" if run.history and run is not baseline else "-",
                *(f"{seconds:.1f} s" if run.history else "-" for seconds in (run.sampling_s, run.update_s)),
                f"{run.sampled.stop_rate:.3f}" if stopped else "-",
                f"{run.sampled.false_positive_rate:.3f}" if stopped else "-",
            ]
        )
    return format_table(header, rows)


def verdict(run: Run, baseline: Run) -> str:
    """A sentence that compares a run with the baseline: rollout tokens, time, sampled and greedy accuracy."""
    differences = []
    for kind in ("sampled", "greedy"):
        mean, error = paired_difference(getattr(run, kind), getattr(baseline, kind))
        clear = "" if abs(mean) > 2 * error else ", within two standard errors"
        differences.append(f"{kind} accuracy {100 * mean:+.1f} ± {100 * error:.1f} points{clear}")
    saving = 1 - run.tokens / baseline.tokens
    time_saving = 1 - (run.sampling_s + run.update_s) / (baseline.sampling_s + baseline.update_s)
    return (
        f"{run.name} wrote {abs(saving):.1%} {'fewer' if saving > 0 else 'more'} rollout tokens than {baseline.name} "
        f"in as many updates, and took {abs(time_saving):.1%} {'less' if time_saving > 0 else 'more'} time to sample "
        f"and update; {'; '.join(differences)}."
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
        "sampling_s": run.sampling_s,
        "update_s": run.update_s,
        "stop_rate": run.sampled.stop_rate,
        "false_positive_rate": run.sampled.false_positive_rate,
        "evaluation_tokens": run.sampled.num_tokens,
    }
    clean = {name: None if np.isnan(number) else number for name, number in measured.items()}
    history = [{k: None if np.isnan(v) else v for k, v in record.items()} for record in run.history]
    return {**clean, "history": history}
