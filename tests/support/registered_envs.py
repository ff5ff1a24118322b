"""The registered ids with a task of their own, and what each needs to be built in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espo_env import Tokenizer
from espo_env.registration import TASKS

WITH_TASK = sorted(env_id for env_id, kwargs in TASKS.items() if "task" in kwargs)
SAMPLES = Path(__file__).parents[1] / "data"


def options(env_id: str) -> dict[str, Any]:
    if "ReasoningGym" in env_id:
        pytest.importorskip("reasoning_gym")
    if "Math" not in env_id:
        return {}
    return {
        "model": Tokenizer.from_bytes(),
        "train": SAMPLES / "gsm8k_sample.jsonl",
        "preset": "gsm8k",
        "eval": SAMPLES / "math500_sample.jsonl",
        "eval_preset": "math-500",
        "max_new_tokens": 2048,
    }
