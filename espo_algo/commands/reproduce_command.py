"""``espo reproduce``: methods x task families x seeds, and what comes out of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from espo_algo.commands.interruption import Interruption
from espo_algo.commands.terminal import messages

__all__ = ["reproduce"]

_DEFAULT: dict[str, Any] = {"families": "arithmetic,cycle", "arms": "espo", "seeds": "100-102"}
# Two hours of 2 cores. Long chains, which take three times as long as any of these, are run by name, as all methods are
# on other families.
_FULL: list[dict[str, Any]] = [
    {"families": "arithmetic,arithmetic_8,walk,path_star", "arms": "espo", "seeds": "100-104", "every": 20},
    {"families": "cycle", "arms": "all", "seeds": "100-104", "every": 20},
]
_SMOKE: dict[str, Any] = {
    "families": "arithmetic",
    "arms": "espo",
    "seeds": "0-1",
    "iterations": 2,
    "problems": 16,
    "every": 1,
    "sft_steps": 3,
}


def reproduce(
    families: Annotated[str | None, typer.Option(help="Task families, with commas between, or all small ones.")] = None,
    arms: Annotated[
        str | None, typer.Option(help="Methods, with commas, or all that a family can run; baselines are added.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 100-104 or 0,1,2.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of each family's own number.")] = None,
    problems: Annotated[int | None, typer.Option(min=2, help="Evaluation problems (default: 2048).")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each at T = 1 and 0.6: the k of avg@k.")] = 1,
    every: Annotated[
        int | None, typer.Option(min=0, help="Iterations between evaluations (default: 10, with --full 20).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE of ESPOConfig in every run, such as lr=1e-4; rows are labelled with it."
        ),
    ] = None,
    problem_seed: Annotated[
        int | None, typer.Option(min=0, help="Evaluate on other problems than the tables': for searches.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Results; what is there is not run again.")] = Path("reproduction"),
    starts: Annotated[Path | None, typer.Option(help="Models to start from (default: the quickstart's).")] = None,
    own_starts: Annotated[
        bool, typer.Option("--own-starts", help="A start for each seed: intervals hold what starts differ by.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once (default: one a core).")] = None,
    sft_steps: Annotated[int | None, typer.Option(min=1, help="Supervised updates of a start, at most.")] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Five families, all methods on one of them, seeds 100 to 104: two hours."),
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Everything in small, to see that it works.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and what they take; run nothing.")] = False,
) -> None:
    """Compares methods over seeds; writes tables, plots and all numbers. A comparison that was cut short goes on."""
    from espo_algo.experiments.arms import FAMILIES
    from espo_algo.experiments.config import OUTPUT, parse_setting
    from espo_algo.experiments.plan import make_plans
    from espo_algo.experiments.reproduce import describe
    from espo_algo.experiments.reproduce import reproduce as run
    from espo_algo.experiments.run import Schedule
    from espo_algo.experiments.settings import get_setting
    from espo_algo.lock import lock

    presets = [_SMOKE] if smoke else _FULL if full else [_DEFAULT]
    given = {"families": families, "arms": arms, "seeds": seeds, "iterations": iterations}
    given |= {"problems": problems, "every": every, "sft_steps": sft_steps}
    given = {name: value for name, value in given.items() if value is not None}
    # A pretrained model takes hours and an extra: it runs where it is named.
    small = [name for name, family in FAMILIES.items() if not get_setting(family.task).pretrained]
    with Interruption("ends now; the same command goes on") as interruption, messages():
        named = {  # what several presets have is run once
            plan.name: plan
            for chosen in (preset | given for preset in presets)
            for plan in make_plans(
                _names(chosen["families"]) or small,
                _names(chosen["arms"]),
                _seeds(chosen["seeds"]),
                Schedule(
                    0,
                    problems=chosen.get("problems", 2048),
                    samples=samples,
                    every=chosen.get("every", 10),
                    problem_seed=problem_seed,
                ),
                iterations=chosen.get("iterations"),
                settings=dict(parse_setting(text) for text in settings or []),
                sft_steps=chosen.get("sft_steps"),
                own_starts=own_starts,
            )
        }
        plans = [*named.values()]
        workers = workers or len(os.sched_getaffinity(0))
        typer.echo(describe(plans, output, workers))
        if dry_run:
            return
        # Starts of few supervised updates must not take the place of the real ones.
        where = starts or (output if plans[0].sft_steps else Path(OUTPUT))
        with lock(output / "lock"):
            files, failed = run(plans, output, where, workers, typer.echo, interruption)
        for file in files:
            typer.echo(f"results: {file}")
        if interruption.number is not None:
            typer.echo("interrupted; the same command goes on", err=True)
            raise typer.Exit(interruption.exit_code)
        for line in failed:
            typer.echo(f"error: failed: {line}", err=True)
        if failed:
            raise typer.Exit(1)


def _names(text: str) -> list[str] | None:
    """None for all."""
    return None if text == "all" else [name.strip() for name in text.split(",")]


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            seeds += range(int(first), int(last or first) + 1)
        except ValueError:
            raise ValueError(f"expected --seeds such as 100-104 or 0,1,2, got {text!r}") from None
    if not seeds:
        raise ValueError(f"expected a seed or more, got {text!r}")
    return list(dict.fromkeys(seeds))
