"""The README's thirty lines and the configuration for a small machine, from the model that the quickstart makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from espo_algo.commands.cli import app
from espo_algo.commands.config_file import load_config
from espo_algo.experiments.config import OUTPUT
from espo_algo.experiments.starts import make_start

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "examples" / "arithmetic_2_cores.yaml"
ITERATIONS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory in which the quickstart has made its model, with few updates."""
    folder = tmp_path_factory.mktemp("readme")
    make_start("arithmetic", folder / OUTPUT, sft_steps=100)
    return folder


def run(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_thirty_lines_begin_to_stop_and_export(folder):
    (text,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
        if "iterations =" in block
    ]
    assert text.count("iterations = 100") == 1
    (folder / "thirty.py").write_text(text.replace("iterations = 100", f"iterations = {ITERATIONS}"))
    lines = [
        list(map(float, line.split())) for line in run(folder, "thirty.py").splitlines() if re.match(r"[\d.]+ ", line)
    ]
    assert len(lines) == ITERATIONS
    accuracy, stop_rate, _ = zip(*lines, strict=True)
    assert max(accuracy) > 0  # the model knows the digits
    assert stop_rate[0] == 0
    assert max(stop_rate[ITERATIONS // 10 :]) > 0  # the warm-up is over by then
    for name in ("config.json", "model.safetensors", "tokenizer.json", "critic/config.json"):
        assert (folder / "trained" / name).is_file()


def test_the_configuration_for_a_small_machine_runs(folder, monkeypatch):
    config, options = load_config(SMALL)
    assert options.iterations == config.planned_iterations == 60
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["train", str(SMALL), "--dry-run"])
    assert done.exit_code == 0, done.output
    shown = done.output
    assert "60 iterations of 96 responses (96 prompts, 1 responses each), 4 optimiser steps each" in shown
    assert "at most 6144 written (64 a response)" in shown
    assert "none, everything runs in one process" in shown
    assert not (folder / "runs").exists()
