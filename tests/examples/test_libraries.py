"""The examples with other libraries, with few steps; what they reach with all of theirs is in their first lines."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "libraries"
FEW = {"cleanrl_style": 8192, "sb3_dqn": 800, "sb3_ppo": 512, "sb3_tokens": 2048, "torchrl_ppo": 1024}
FEW |= {"torchrl_tokens": 1024, "fallen_off_the_path": 1024, "rllib_stock": 512}
REACHED = {"cleanrl_style": 28.0}
"""What an untrained policy misses, where so few steps are enough: it has 20."""


def last_number(printed: str) -> float:
    return float(re.findall(r"[\d.]+", printed.strip().splitlines()[-1])[-1])


@pytest.mark.parametrize("name", sorted(FEW))
@pytest.mark.usefixtures("ray_session")
def test_an_example_runs_and_prints_its_number(name, monkeypatch, capsys):
    if name not in ("cleanrl_style", "rllib_stock"):
        pytest.importorskip("torchrl" if "torchrl" in name else "stable_baselines3")
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [name, "--steps", str(FEW[name])])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert last_number(capsys.readouterr().out) >= REACHED.get(name, 0.0)


def test_every_example_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} - {"reverse_task"} == set(FEW)
