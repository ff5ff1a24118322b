"""``espo reproduce``: brought to its end at once, and killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from espo_algo.commands.cli import app
from espo_algo.experiments.reproduce import _Progress

SCRIPT = Path(__file__).parents[2] / "examples" / "reproduce.py"

pytestmark = pytest.mark.usefixtures("ray_session")


def flags(folder, *seeds):
    """Options of the command; one worker, because a second one takes longer to start than it saves."""
    return ["--smoke", "--workers", "1", "--seeds", ",".join(map(str, seeds)), "--output", str(folder)]


def goes_to_its_end(folder, *seeds, options=()):
    """Runs what is left, and looks at what is written."""
    result = CliRunner().invoke(app, ["reproduce", *flags(folder, *seeds), *options])
    assert result.exit_code == 0, result.output
    runs = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("runs/*.json")}
    assert sorted(runs) == sorted(
        ["arithmetic-start-0", *(f"arithmetic-{a}-{s}" for a in ("espo", "ppo") for s in seeds)]
    )
    for seed in seeds:
        espo, ppo = runs[f"arithmetic-espo-{seed}"], runs[f"arithmetic-ppo-{seed}"]
        assert espo["token_budget"] == ppo["at_updates"]["tokens"] == ppo["history"][1]["tokens"]
        assert espo["at_tokens"]["tokens"] <= espo["token_budget"]
        assert espo["at_updates"]["iteration"] == 2
        # The same start, problems and seeds: the first batch, in which nothing is stopped yet, is the same one.
        assert espo["history"][0]["tokens"] == ppo["history"][0]["tokens"]
    for file in ("results.json", "results.md", "arithmetic.png", "arithmetic.svg"):
        assert str(folder / file) in result.output
    assert f"| early-stopping PPO | {len(seeds)} |" in (folder / "results.md").read_text("utf-8")


def test_a_comparison_is_run_once_and_written_down(tmp_path):
    goes_to_its_end(tmp_path, 0, options=["--own-starts"])
    assert [path.name for path in tmp_path.glob("start-*/")] == ["start-arithmetic-seed-0"]
    again = CliRunner().invoke(app, ["reproduce", *flags(tmp_path, 0), "--own-starts", "--dry-run"])
    assert "0 runs to do" in again.output
    for option, what in ((["--own-starts", "--problems", "17"], "schedule"), ([], "start_seed")):
        other = CliRunner().invoke(app, ["reproduce", *flags(tmp_path, 0), *option])
        assert other.exit_code == 1
        assert f"expected a run with {what}" in other.output


def test_a_wrong_value_is_named_before_all_starts_are_made(tmp_path):
    result = CliRunner().invoke(app, ["reproduce", *flags(tmp_path, 0, 1, 2), "--own-starts", "--set", "lr=-1.0"])
    assert result.exit_code == 1
    assert ".training(lr): expected a number >= 0" in result.output
    assert len([*tmp_path.glob("start-*/")]) == 1


def test_ctrl_c_ends_it_and_nothing_counts_as_failed(tmp_path, monkeypatch):
    """After the first run: what else was to come with it, and what its tokens are the budget of, is not begun."""
    done = _Progress.on_trial_complete

    def interrupt(self, *arguments, **info):
        done(self, *arguments, **info)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_Progress, "on_trial_complete", interrupt)
    result = CliRunner().invoke(app, ["reproduce", *flags(tmp_path, 0, 1)])
    assert result.exit_code == 130
    assert "SIGINT: ends now; the same command goes on" in result.output
    assert "failed" not in result.output
    assert len([*tmp_path.glob("runs/*.json")]) == 1
    assert "## arithmetic" in (tmp_path / "results.md").read_text("utf-8")
    assert "TUNE_DISABLE_SIGINT_HANDLER" not in os.environ  # or Ctrl-C would tear a later experiment of Tune's apart


@pytest.mark.faults
def test_a_killed_comparison_goes_on(tmp_path):
    runs = tmp_path / "runs"
    command = [sys.executable, SCRIPT, *flags(tmp_path, 0, 1)]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        while not (first := [*runs.glob("*.json")]):
            assert process.poll() is None, "it ended without a run"
            time.sleep(0.2)
        process.kill()
    done = {path: path.stat().st_mtime_ns for path in first}
    (runs / "arithmetic-ppo-0.json.half").write_text('{"plan": ', "utf-8")  # what a trial that is killed leaves
    goes_to_its_end(tmp_path, 0, 1)
    assert {path: path.stat().st_mtime_ns for path in first} == done
