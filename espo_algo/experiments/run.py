"""One training run with its evaluations, which do not change it.

- :class:`Schedule`: how long a run goes on, and when and on how much it is measured.
- :class:`Measurement`: a policy's evaluations at one point of its training.
- :class:`Run`: a trained run with what was measured on it.
- :func:`train`: makes one. :func:`numbers`: its numbers for a JSON file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from espo_algo.config import ESPOConfig
from espo_algo.espo import ESPO
from espo_algo.evaluation import Evaluation, evaluate_policy
from espo_algo.evaluation.report import iteration_record
from espo_algo.evaluation.response_recorder import ResponseRecorder, forget_after
from espo_algo.experiments.run_checkpoint import RunCheckpoint
from espo_algo.policy import Policy
from espo_algo.rollout.engine import SamplingSettings

__all__ = [
    "COOL",
    "GREEDY",
    "NUM_RECORDED",
    "Measurement",
    "Run",
    "Schedule",
    "for_evaluation",
    "measure",
    "numbers",
    "train",
]

GREEDY = SamplingSettings(greedy=True)
COOL = SamplingSettings(temperature=0.6)
NUM_RECORDED = 24
"""Responses of a snapshot."""
_EVALUATION_SLOTS = 256
_LONGEST = 2
"""A run that looks for its token budget ends at so many times its iterations."""


@dataclass(frozen=True)
class Schedule:
    """How long a run goes on, and when and on how much it is measured.

    Attributes:
        iterations: Training iterations after which runs are compared at equal updates; 0 measures the start.
        problems: Evaluation problems of that measurement and of the one at equal tokens.
        samples: Responses to each problem at temperatures 1 and 0.6 (``k`` of avg@k); greedily there is one.
        every: Iterations between the measurements of the course of training; 0 for none.
        course_problems: Evaluation problems of these: the first ones, one response each.
        token_budget: Rollout tokens at which the run is measured, too: a baseline's, so that the two are compared at
            equal tokens. It is the last iteration that the budget allows, if a batch costs what the last one did. The
            run goes on until then, for twice its iterations at most.
        problem_seed: Seed of the task in evaluation, for other problems than those that are reported; None for the
            task's own. A search for settings must not see the problems that its outcome is reported on.
    """

    iterations: int
    problems: int = 2048
    samples: int = 1
    every: int = 10
    course_problems: int = 512
    token_budget: float | None = None
    problem_seed: int | None = None


@dataclass(frozen=True)
class Measurement:
    """A policy's evaluations at one point of its training.

    Attributes:
        iteration: Training iterations until then.
        tokens: Rollout tokens until then.
        sampled: At the training temperature; the detector's stops are only marked.
        greedy: With the likeliest tokens.
        cool: At temperature 0.6; None in the course of training.
    """

    iteration: int
    tokens: float
    sampled: Evaluation
    greedy: Evaluation
    cool: Evaluation | None = None

    def first(self, problems: int) -> Measurement:
        """The same on the first problems alone, one response each, as in the course of training."""

        def part(evaluation: Evaluation) -> Evaluation:
            step = evaluation.rollouts_per_prompt
            return Evaluation(evaluation.episodes[: problems * step : step])

        return replace(self, sampled=part(self.sampled), greedy=part(self.greedy), cool=None)

    def numbers(self) -> dict[str, float | None]:
        """For a JSON file; None where nothing was measured.

        ``*_error`` are standard errors over the choice of problems; ``entropy`` is the mean surprisal of sampled
        tokens, nats a token, over whole responses (a batch with stops lacks what is written after a failure);
        ``wrong_stops`` is the share of the marked responses that were right.
        """
        episodes = self.sampled.episodes
        found: dict[str, float] = {"iteration": self.iteration, "tokens": self.tokens}
        for kind in ("sampled", "cool", "greedy"):
            evaluation = getattr(self, kind)
            if evaluation is not None:
                found |= {kind: evaluation.accuracy, f"{kind}_error": evaluation.accuracy_error}
        found |= {
            "length": self.sampled.num_tokens / len(episodes),
            "entropy": -float(np.concatenate([e.logprobs for e in episodes]).mean()),
            "stop_rate": self.sampled.stop_rate,
            "wrong_stops": self.sampled.false_positive_rate,
            "marked": sum(e.mark >= 0 for e in episodes),
        }
        return _without_nan(found)


@dataclass
class Run:
    """A trained run with what was measured on it.

    Attributes:
        name: As tables say.
        config: What it was trained with.
        history: A record for each training iteration, those behind ``at_updates`` included.
        course: Measurements in the course of training, the other two included, all on the same problems.
        at_updates: After the planned iterations.
        at_tokens: At the token budget; None without one.
        policy: The policy after the planned iterations.
    """

    name: str
    config: ESPOConfig
    history: list[dict[str, float]]
    course: list[Measurement]
    at_updates: Measurement
    policy: Policy
    at_tokens: Measurement | None = None

    def seconds(self, name: str) -> float:
        """Seconds of the planned iterations in ``"sampling_s"`` or ``"update_s"``."""
        return sum(record[name] for record in self.history[: self.at_updates.iteration])


@dataclass
class _Course:
    """What a run has gathered so far; see :class:`Run`."""

    history: list[dict[str, float]] = field(default_factory=list)
    measured: list[Measurement] = field(default_factory=list)
    at_tokens: Measurement | None = None


def train(
    config: ESPOConfig,
    name: str,
    schedule: Schedule,
    progress: bool = True,
    responses: Path | None = None,
    checkpoint: RunCheckpoint | None = None,
) -> Run:
    """Trains and measures.

    Args:
        config: What to train.
        name: The run's name.
        schedule: How long, and what to measure when.
        progress: Show a progress bar.
        responses: Folder for snapshots of the planned iterations; an earlier run's are deleted. None for none.
        checkpoint: Where the planned iterations go on from if they were cut short, and are kept; None for none.
    """
    algo: ESPO = config.build_algo()
    recorder = None
    if responses is not None:
        forget_after(responses, 0)
        algo.traces = True
        recorder = ResponseRecorder(responses, NUM_RECORDED, config, algo.mdp.task.tokenizer)
    at_updates = policy = None
    budget = schedule.token_budget
    try:
        course: _Course = (checkpoint and checkpoint.restore(algo)) or _Course()
        history = course.history
        with tqdm(total=schedule.iterations, initial=len(history), desc=name, disable=not progress) as bar:
            while at_updates is None or (budget is not None and course.at_tokens is None):
                if schedule.iterations:
                    history.append(iteration_record(algo.train()))
                    now = history[-1]
                    if recorder is not None and at_updates is None:
                        recorder.record(len(history), algo.latest_episodes)
                    bar.update()
                    bar.set_postfix(
                        accuracy=f"{now['accuracy']:.2f}",
                        tokens=f"{now['tokens'] / 1e3:.1f}k",
                        stops=f"{now['stop_rate']:.2f}",
                    )
                done = len(history)
                tokens = history[-1]["tokens"] if history else 0.0
                wanted = done == schedule.iterations
                spent = budget is not None and course.at_tokens is None and _spent(history, schedule)
                if wanted or spent:
                    latest = algo.policy()
                    measured = measure(latest, done, tokens, schedule)
                    if wanted:
                        at_updates, policy = measured, latest
                    if spent:
                        course.at_tokens = measured
                    course.measured.append(measured.first(schedule.course_problems))
                elif schedule.every and done % schedule.every == 0:
                    course.measured.append(_measure_course(algo.policy(), done, tokens, schedule))
                if checkpoint is not None and at_updates is None:
                    checkpoint.save_if_due(algo, course)
    finally:
        if recorder is not None:
            recorder.close()
        algo.stop()
    assert policy is not None
    return Run(name, config, history, course.measured, at_updates, policy, course.at_tokens)


def measure(policy: Policy, iteration: int, tokens: float, schedule: Schedule) -> Measurement:
    """A policy's evaluations on all problems: sampled at temperatures 1 and 0.6, and greedy."""
    config = for_evaluation(policy.config, schedule.problem_seed)
    problems, samples = schedule.problems, schedule.samples
    return Measurement(
        iteration,
        tokens,
        sampled=evaluate_policy(
            config, policy.model, policy.early_stopping, num_problems=problems, rollouts_per_prompt=samples
        ),
        cool=evaluate_policy(
            config, policy.model, num_problems=problems, rollouts_per_prompt=samples, sampling=COOL, stops="off"
        ),
        greedy=evaluate_policy(config, policy.model, num_problems=problems, sampling=GREEDY, stops="off"),
    )


def for_evaluation(config: ESPOConfig, problem_seed: int | None = None) -> ESPOConfig:
    """A copy of a configuration for evaluation: the embedded engine in this process, with more slots.

    Args:
        config: Of the training.
        problem_seed: See :class:`Schedule`.
    """
    config = config.copy(copy_frozen=False).generation(engine="torch")
    if problem_seed is not None:
        config.environment(env_config={**config.env_config, "seed": problem_seed})
    return config.env_runners(
        num_env_runners=0, batches_ahead=0, num_gpus_per_env_runner=0, num_envs_per_env_runner=_EVALUATION_SLOTS
    )


def numbers(run: Run) -> dict[str, Any]:
    """A run's numbers for a JSON file; None where nothing was measured."""
    return {
        "history": [_without_nan(record) for record in run.history],
        "course": [measured.numbers() for measured in run.course],
        "at_updates": run.at_updates.numbers(),
        "at_tokens": None if run.at_tokens is None else run.at_tokens.numbers(),
    }


def _measure_course(policy: Policy, iteration: int, tokens: float, schedule: Schedule) -> Measurement:
    config = for_evaluation(policy.config, schedule.problem_seed)
    problems = min(schedule.problems, schedule.course_problems)
    return Measurement(
        iteration,
        tokens,
        sampled=evaluate_policy(config, policy.model, policy.early_stopping, stops="mark", num_problems=problems),
        greedy=evaluate_policy(config, policy.model, sampling=GREEDY, stops="off", num_problems=problems),
    )


def _spent(history: list[dict[str, float]], schedule: Schedule) -> bool:
    """Whether another batch like the last one would go beyond the token budget, or the run is too long already."""
    assert schedule.token_budget is not None
    before, now = (history[-2]["tokens"] if len(history) > 1 else 0.0), history[-1]["tokens"]
    return now + (now - before) > schedule.token_budget or len(history) >= _LONGEST * schedule.iterations


def _without_nan(record: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(number) else number for name, number in record.items()}
