"""``espo reproduce``: killed, and gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from espo_algo.commands.cli import app

SCRIPT = Path(__file__).parents[2] / "examples" / "reproduce.py"


def test_a_killed_comparison_goes_on(tmp_path, ray_session):
    runs = tmp_path / "runs"
    flags = ["--smoke", "--workers", "1", "--output", str(tmp_path)]  # to start a second one takes longer than it saves
    with subprocess.Popen([sys.executable, SCRIPT, *flags], env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        while not (first := [*runs.glob("*.json")]):
            assert process.poll() is None, "it ended without a run"
            time.sleep(0.2)
        process.kill()
    done = {path: path.stat().st_mtime_ns for path in first}
    (runs / "arithmetic-ppo-0.json.half").write_text('{"plan": ', "utf-8")  # what a trial that is killed leaves

    result = CliRunner().invoke(app, ["reproduce", *flags])
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in first} == done
    names = [f"arithmetic-{name}" for name in ("espo-0", "espo-1", "ppo-0", "ppo-1", "start-0")]
    assert sorted(path.stem for path in runs.glob("*.json")) == names
    contents = {path.stem: json.loads(path.read_text("utf-8")) for path in runs.glob("*.json")}
    for seed in (0, 1):
        espo, ppo = contents[f"arithmetic-espo-{seed}"], contents[f"arithmetic-ppo-{seed}"]
        assert espo["token_budget"] == ppo["at_updates"]["tokens"] == ppo["history"][1]["tokens"]
        assert espo["at_tokens"]["tokens"] <= espo["token_budget"]
        assert espo["at_updates"]["iteration"] == 2
        # The same start, problems and seeds: the first batch, in which nothing is stopped yet, is the same one.
        assert espo["history"][0]["tokens"] == ppo["history"][0]["tokens"]
    for file in ("results.json", "results.md", "arithmetic.png", "arithmetic.svg"):
        assert str(tmp_path / file) in result.output
    assert "| early-stopping PPO | 2 |" in (tmp_path / "results.md").read_text("utf-8")

    again = CliRunner().invoke(app, ["reproduce", *flags, "--dry-run"])
    assert "0 runs to do" in again.output
    other = CliRunner().invoke(app, ["reproduce", *flags, "--problems", "17"])
    assert other.exit_code == 1
    assert "expected a run with schedule" in other.output
