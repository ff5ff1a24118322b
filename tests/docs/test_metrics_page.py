"""The glossary of metrics against real results."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import pytest
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def names() -> list[str]:
    """Patterns of all metrics on the page; a heading such as "Responses: `env_runners/`" says where they stand."""
    found, place, table = [], "", False
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            place = "".join(re.findall(r"`(\S+/)`", line))
        table = line.startswith("| metric") or (table and line.startswith("|"))
        if table:
            found += [place + name for cell in re.findall(r"`([^`]+)`", line.split("|")[1]) for name in spread(cell)]
    return found


def spread(pattern: str) -> list[str]:
    """``a/{b,c}`` -> ``a/b``, ``a/c``."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    return ["".join(chosen) for chosen in product(*parts)]


def flat(result: dict, place: str = "") -> list[str]:
    found = []
    for name, value in result.items():
        found += flat(value, f"{place}{name}/") if isinstance(value, dict) and name != "config" else [place + name]
    return found


@pytest.fixture(scope="module")
def result(coin_config):
    """The result of an iteration in which everything is measured that can be; in one process."""
    algo = (
        coin_config()
        .early_stopping(controller="false_positive_rate", shadow_fraction=0.5, planned_iterations=2)
        .generation(rollouts_per_prompt=4, dynamic_sampling_rounds=1)
        .training(use_kl_loss=True)
        .evaluation(evaluation_interval=1, evaluation_duration=8)
        .build_algo()
    )
    yield algo.train()
    algo.stop()


@pytest.mark.usefixtures("ray_session")
def test_every_metric_of_a_result_is_in_the_glossary(result):
    known = names()
    known += [f"evaluation/{name}" for name in known if name.startswith("env_runners/")]
    measured = flat(result)
    assert {"beta", "env_runners/early_stopping/stop_rate", "evaluation/env_runners/accuracy"} <= {*measured}
    missing = [name for name in measured if not any(fnmatchcase(name, pattern) for pattern in known)]
    assert not missing, f"write into {PAGE.name}: {', '.join(missing)}"


@pytest.mark.usefixtures("ray_session")
def test_every_metric_of_the_glossary_is_measured(result):
    measured = flat(result)
    elsewhere = {"lost_episodes/*", "num_missing_episodes", "weights_seq_no"}  # where something was lost; in evaluation
    ours = [name for name in names() if name.startswith(("env_runners/", "learners/default_policy/"))]
    gone = [
        name
        for name in ours
        if name.partition("/")[2] not in elsewhere and not any(fnmatchcase(m, name) for m in measured)
    ]
    assert not gone, f"take out of {PAGE.name}: {', '.join(gone)}"


def test_metrics_that_pages_name_are_in_the_glossary():
    known = {name.rpartition("/")[2] for name in names()} | {*names()}
    for page in PAGE.parent.glob("*.md"):
        for name in re.findall(r"`(?:env_runners|learners|evaluation|timers)/([\w/*]*\w)`", page.read_text("utf-8")):
            assert name.rpartition("/")[2] in known or name.startswith("lost_episodes/"), f"{page.name}: {name}"
