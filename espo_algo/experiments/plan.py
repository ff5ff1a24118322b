"""The runs of a comparison: which there are, what each needs, which are done.

- :class:`RunPlan`: one training run: family x arm x seed with its settings.
- :func:`make_plans`: the runs of a comparison, baselines and starts included.
- :func:`read_run`, :func:`write_run`: its file. :func:`unfinished`: those that have none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from espo_algo.atomic import write_text
from espo_algo.config import ESPOConfig
from espo_algo.experiments.arms import ARMS, FAMILIES
from espo_algo.experiments.config import build_config, with_settings
from espo_algo.experiments.run import Schedule
from espo_algo.experiments.settings import get_setting, measure_task

__all__ = ["START", "RunPlan", "make_plans", "read_run", "unfinished", "write_run"]

START = "start"
"""The arm that is not trained at all."""

# Two runs of the quickstart's model at once, on 2 cores: seconds to build; tokens a second in training, in evaluation.
_BUILD_S, _TRAINING_RATE, _EVALUATION_RATE = 20.0, 2000.0, 4000.0


@dataclass(frozen=True)
class RunPlan:
    """One training run.

    Attributes:
        family: Of :data:`~espo_algo.experiments.arms.FAMILIES`.
        arm: Of :data:`~espo_algo.experiments.arms.ARMS`, or :data:`START`.
        seed: Of problems, samples and minibatches.
        schedule: How long, and what is measured when.
        settings: Those of family, arm and command line together.
        label: What was set on the command line, for names; empty for nothing.
        sft_steps: Updates of the start's supervised fine-tuning, at most; None for the task's own number.
        start_seed: Of the start's weights and supervised fine-tuning; None for the start that all seeds share.
    """

    family: str
    arm: str
    seed: int
    schedule: Schedule
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    sft_steps: int | None = None
    start_seed: int | None = None

    @property
    def name(self) -> str:
        """The run's name, and its file's."""
        return "-".join(part for part in (self.family, self.arm, self.label, str(self.seed)) if part)

    @property
    def baseline(self) -> str | None:
        """The arm whose tokens are this one's budget; None for a baseline itself."""
        baseline = None if self.arm == START else ARMS[self.arm].baseline
        return None if baseline == self.arm else baseline

    @property
    def task(self) -> str:
        """The family's task."""
        return FAMILIES[self.family].task

    def config(self, starts: str | Path) -> ESPOConfig:
        """What it is trained with; its start is made under ``starts`` where it is not there yet."""
        iterations = max(1, self.schedule.iterations)
        config = build_config(
            task=self.task,
            iterations=iterations,
            seed=self.seed,
            output=starts,
            sft_steps=self.sft_steps,
            start_seed=self.start_seed,
        )
        return with_settings(config, self.settings)

    def minutes(self) -> float:
        """What it takes on one core, roughly: reference solutions stand for responses."""
        horizon, task = measure_task(get_setting(self.task))
        length = sum(len(task.encode_solution(task.problem(index))) for index in range(64)) / 64
        plan = self.schedule
        times = 1 if self.baseline is None else 2  # at equal updates, and at equal tokens
        answered = times * plan.problems * (1 + 2 * plan.samples)
        if plan.every:
            answered += 2 * plan.iterations // plan.every * min(plan.problems, plan.course_problems)
        trained = plan.iterations * self.settings.get("train_batch_size_per_learner", 96) * min(length, horizon)
        seconds = trained / _TRAINING_RATE + answered * length / _EVALUATION_RATE
        return (_BUILD_S + seconds * FAMILIES[self.family].slowness) / 60

    def record(self) -> dict[str, Any]:
        """For a JSON file, without what follows from other runs."""
        return json.loads(json.dumps(asdict(replace(self, schedule=replace(self.schedule, token_budget=None)))))


def make_plans(
    families: Sequence[str],
    arms: Sequence[str] | None,
    seeds: Sequence[int],
    schedule: Schedule,
    *,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
    sft_steps: int | None = None,
    own_starts: bool = False,
) -> list[RunPlan]:
    """The runs of a comparison, seed by seed: those of the first seed are done first.

    Args:
        families: Names of :data:`~espo_algo.experiments.arms.FAMILIES`.
        arms: Names of :data:`~espo_algo.experiments.arms.ARMS`; baselines are added. None for all that a family can
            run: pilots need siblings, and most families have one response to a prompt.
        seeds: Seeds.
        schedule: What is measured when; its iterations do not count.
        iterations: Training iterations; None for each family's own.
        settings: Set in every run, on top of family and arm.
        sft_steps: See :class:`RunPlan`.
        own_starts: A start for each seed. What is found on one start may hold for that start alone: only with several
            do intervals over seeds hold what starts differ by.

    Raises:
        ValueError: If a family, an arm or a setting is unknown, or a family cannot run an arm.
    """
    for what, names, known in (("a family", families, FAMILIES), ("an arm", arms or [], ARMS)):
        for name in names:
            if name not in known:
                raise ValueError(f"expected {what} out of {[*known]}, got {name!r}")
    settings = dict(settings or {})
    with_settings(ESPOConfig(), settings)
    label = ",".join(f"{name}={value}" for name, value in settings.items())

    def merged(family: str, own: Mapping[str, Any]) -> dict[str, Any]:
        return {**FAMILIES[family].settings, **own, **settings}

    runs: dict[str, list[str]] = {}
    for family in families:
        wanted = [*ARMS] if arms is None else arms
        chosen = [arm for arm in wanted if _pilots_fit(merged(family, ARMS[arm].settings))]
        if arms is not None and (unfit := [arm for arm in arms if arm not in chosen]):
            raise ValueError(
                f"expected an arm with fewer pilots than there are responses to a prompt on {family}, got {unfit[0]!r}"
            )
        runs[family] = [*dict.fromkeys([*(ARMS[arm].baseline for arm in chosen), *chosen])]

    def plan(family: str, arm: str, seed: int, own: Mapping[str, Any], length: int) -> RunPlan:
        together = merged(family, own)
        if length:  # so many updates of the policy in every arm
            length += together.get("value_pretraining_iterations", 0)
        start_seed = seed if own_starts else None
        return RunPlan(family, arm, seed, replace(schedule, iterations=length), together, label, sft_steps, start_seed)

    start_seeds = seeds if own_starts else seeds[:1]
    return [
        *(plan(family, START, seed, {"rule": "never"}, 0) for seed in start_seeds for family in families),
        *(
            plan(family, arm, seed, ARMS[arm].settings, iterations or FAMILIES[family].iterations)
            for seed in seeds
            for family in families
            for arm in runs[family]
        ),
    ]


def _pilots_fit(settings: Mapping[str, Any]) -> bool:
    return settings.get("pilots", 0) < settings.get("rollouts_per_prompt", 1)


def read_run(path: Path) -> dict[str, Any]:
    """A run's file.

    Raises:
        ValueError: If it is none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        return {**content, "plan": dict(content["plan"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the file of a run ({error!r})") from error


def write_run(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a run's file, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def unfinished(plans: Iterable[RunPlan], folder: Path) -> list[RunPlan]:
    """Those that have no file yet.

    Raises:
        ValueError: If there is a file of another run under the same name, naming what differs.
    """
    missing = []
    for plan in plans:
        path = folder / f"{plan.name}.json"
        if not path.exists():
            missing.append(plan)
            continue
        there, wanted = read_run(path)["plan"], plan.record()
        for name in wanted:
            if there.get(name) != wanted[name]:
                raise ValueError(
                    f"{path}: expected a run with {name} {wanted[name]}, got one with {there.get(name)}; remove it, or "
                    "choose another output folder"
                )
    return missing
