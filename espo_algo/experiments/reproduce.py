"""Runs of a comparison through Ray Tune, and what comes out of them.

- :func:`reproduce`: trains what is not there yet, as many at once as the machine bears, then writes the results.
- :func:`describe`: what it would do, and about how long it takes.

A trial is one training run with its evaluations, in one process with one thread; when it is done it writes a file,
and what has its file is not run again. One that takes long writes checkpoints until then, and goes on from the
newest. Trials write on the disk of the machine that they run on: it is for one machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ray import tune
from transformers.utils.logging import disable_progress_bar

from espo_algo.commands.interruption import Interruption
from espo_algo.commands.terminal import ray_started
from espo_algo.evaluation.report import format_table
from espo_algo.experiments.plan import RunPlan, read_run, unfinished, write_run
from espo_algo.experiments.run import numbers, train
from espo_algo.experiments.run_checkpoint import RunCheckpoint
from espo_algo.experiments.starts import make_start
from espo_algo.experiments.tables import write_results
from espo_algo.tuning.fit import fit

__all__ = ["RUNS", "UNFINISHED", "describe", "reproduce"]

RUNS = "runs"
"""Name of the folder of the runs' files."""

UNFINISHED = "unfinished"
"""Name of the folder of the checkpoints of runs that are not done."""


def reproduce(
    plans: Sequence[RunPlan],
    output: Path,
    starts: Path,
    workers: int,
    say: Callable[[str], None] = print,
    interruption: Interruption | None = None,
) -> tuple[list[Path], list[str]]:
    """Trains what is not there yet, then writes the results.

    Args:
        plans: The runs.
        output: Folder of the results.
        starts: Folder of the models that runs start from; made where they are not there yet.
        workers: Runs at once.
        say: Takes a line for each run that is done.
        interruption: A signal that it notes ends the runs; what is done is written down. Without one, Ctrl-C is a
            ``KeyboardInterrupt``.

    Returns:
        The files of the results, and what failed; a second call tries these again.

    Raises:
        ValueError: If there are files of other runs under the same names, or a configuration is wrong.
    """
    folder = (output / RUNS).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    starts = starts.resolve()
    disable_progress_bar()  # transformers' own, for each file it loads
    if missing := unfinished(plans, folder):
        # Before the starts that the other seeds have: these take long.
        for plan in {(plan.family, plan.arm): plan for plan in missing}.values():
            plan.config(starts).validate()
        for task, sft_steps, seed in dict.fromkeys((p.task, p.sft_steps, p.start_seed) for p in missing):
            make_start(task, starts, sft_steps, seed=seed)
    progress, interruption = _Progress(len(missing), say), interruption or Interruption()
    with ray_started(bool(missing), num_cpus=workers):
        # Baselines first: their tokens are the others' budgets.
        while ready := {plan.name: with_budget for plan in missing if (with_budget := _with_budget(plan, folder))}:
            _run([*ready.values()], folder, starts, workers, progress, interruption)
            if interruption.number is not None:
                break
            missing = [plan for plan in missing if plan.name not in ready]
        else:
            progress.failed += [f"{plan.name} (its baseline has failed)" for plan in missing]
    return write_results(folder, output), progress.failed


def describe(plans: Sequence[RunPlan], output: Path, workers: int) -> str:
    """A table of the runs, and about how long those that are not done take."""
    todo = unfinished(plans, output / RUNS)
    rows, total = [], 0.0
    for family, arm in dict.fromkeys((plan.family, plan.arm) for plan in plans):
        own = [plan for plan in plans if (plan.family, plan.arm) == (family, arm)]
        missing, minutes = [plan for plan in own if plan in todo], own[0].minutes()
        rows.append([family, arm, str(own[0].schedule.iterations), str(len(own)), str(len(missing)), f"{minutes:.1f}"])
        total += minutes * len(missing)
    table = format_table(["family", "arm", "iterations", "runs", "to do", "minutes each"], rows)
    return (
        f"{table}\n{len(todo)} runs to do: about {total / workers:.0f} minutes with {workers} at once, and the starts"
    )


def _with_budget(plan: RunPlan, folder: Path) -> RunPlan | None:
    """The plan with its baseline's tokens; None where these are not known."""
    if plan.baseline is None:
        return plan
    baseline = folder / f"{replace(plan, arm=plan.baseline).name}.json"
    if not baseline.exists():
        return None
    return replace(plan, schedule=replace(plan.schedule, token_budget=read_run(baseline)["at_updates"]["tokens"]))


def _run(
    plans: list[RunPlan],
    folder: Path,
    starts: Path,
    workers: int,
    progress: _Progress,
    interruption: Interruption,
) -> None:
    trainable = tune.with_parameters(_trial, plans={plan.name: plan for plan in plans}, folder=folder, starts=starts)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"run": tune.grid_search([plan.name for plan in plans])},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=workers,
            reuse_actors=True,  # the next run does not import everything again
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(folder.parent / "tune"),
            callbacks=[progress],
            verbose=0,
        ),
    )
    fit(tuner, interruption)


def _trial(config: dict[str, str], plans: dict[str, RunPlan], folder: Path, starts: Path) -> dict[str, float]:
    """One training run with its evaluations; Tune calls this in a process of its own."""
    plan = plans[config["run"]]
    torch.set_num_threads(1)
    disable_progress_bar()
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    identity = {"plan": plan.record(), "token_budget": plan.schedule.token_budget}
    checkpoint = RunCheckpoint(folder.parent / UNFINISHED / plan.name, identity)
    run = train(plan.config(starts), plan.name, plan.schedule, progress=False, checkpoint=checkpoint)
    seconds = checkpoint.seconds
    write_run(folder / f"{plan.name}.json", {**identity, **numbers(run), "seconds": seconds})
    checkpoint.remove()
    measured = run.at_updates
    return {
        "sampled": measured.sampled.accuracy,
        "greedy": measured.greedy.accuracy,
        "tokens": measured.tokens,
        "seconds": seconds,
    }


def _name(trial: Any) -> str:
    return str(trial.config["run"])


class _Progress(tune.Callback):
    """A line for each run that is done."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total, self.done, self.say = total, 0, say
        self.failed: list[str] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.done += 1
        now = trial.last_result
        self.say(
            f"{self.done} of {self.total}: {_name(trial)}: sampled {now['sampled']:.3f}, greedy {now['greedy']:.3f}, "
            f"{now['tokens'] / 1e3:.1f}k tokens, {now['seconds']:.0f} s"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.failed.append(f"{_name(trial)} (see {trial.error_file})")
