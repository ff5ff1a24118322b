"""The tasks of the small experiments, and how the model that each starts from is made.

- :class:`Setting`, :data:`SETTINGS`, :func:`get_setting`: a task, with the supervised fine-tuning of its start.
- :data:`GENERATORS`: options of generators of reasoning-gym.
- :func:`measure_task`: horizon and task of a setting; :func:`with_tokenizer`: with a model's tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from espo_env.tasks import Task

__all__ = ["GENERATORS", "SETTINGS", "Setting", "get_setting", "measure_task", "with_tokenizer"]


@dataclass(frozen=True)
class Setting:
    """A task, and the supervised fine-tuning that makes the model to start from.

    Attributes:
        env: Gymnasium id.
        env_config: Options of its task.
        max_new_tokens: Horizon; None for a quarter more than the longest of 256 reference solutions.
        accuracy: Sampled accuracy at which the supervised fine-tuning stops.
        steps: Its updates, at most.
        lr: Its learning rate.
        batch_size: Problems in an update.
        evaluate_every: Its updates between two evaluations.
        num_problems: Problems of such an evaluation.
        first: The task whose start this one's fine-tuning goes on from; empty for fresh weights.
        pretrained: It goes on from SmolLM2-135M-Instruct, and has its tokenizer.
        slip_rate: Slips in the demonstrations of a second phase; 0 for none.
        slip_steps: Updates of that phase, at a tenth of the learning rate.
    """

    env: str
    env_config: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int | None = None
    accuracy: float = 0.45
    steps: int = 1500
    lr: float = 4e-3
    batch_size: int = 64
    evaluate_every: int = 25
    num_problems: int = 256
    first: str = ""
    pretrained: bool = False
    slip_rate: float = 0.0
    slip_steps: int = 0


SETTINGS = {
    "arithmetic": Setting("espo_env/Arithmetic-v0", {"min_terms": 3, "max_terms": 6, "max_digits": 1}, 64),
    "walk": Setting("espo_env/Walk-v0", {}, 40, accuracy=0.38, steps=2000, lr=3e-3, batch_size=96),
    # Its tables are among the walk's, and are hard to learn alone.
    "cycle": Setting(
        "espo_env/Cycle-v0",
        {},
        40,
        accuracy=0.5,
        steps=400,
        lr=3e-3,
        batch_size=96,
        first="walk",
        slip_rate=0.06,
        slip_steps=45,
    ),
    # Six terms at most are learnt quickly, and what is left is to go on.
    "long_chains": Setting(
        "espo_env/Arithmetic-v0",
        {"min_terms": 8, "max_terms": 14, "max_digits": 1},
        144,
        accuracy=0.45,
        steps=600,
        lr=2e-3,
        first="arithmetic",
    ),
    # A search, with the arms that were gone along in vain written out. Copying edges is learnt late, then all at once.
    "path_star": Setting(
        "espo_env/ReasoningGym-v0",
        {
            "generator": "path_star",
            "prompt": "compact",
            "degree": 3,
            "node_range": 12,
            "min_path_length": 2,
            "max_path_length": 3,
        },
        40,
        accuracy=0.4,
        steps=3000,
        lr=2e-3,
        batch_size=96,
        evaluate_every=50,
        num_problems=128,
    ),
    # It adds, but has never written a working like this one.
    "smollm2": Setting(
        "espo_env/ReasoningGym-v0",
        {"generator": "chain_sum", "min_terms": 7, "max_terms": 11, "min_digits": 1, "max_digits": 1},
        128,
        accuracy=0.35,
        steps=96,
        lr=1e-4,
        batch_size=8,
        evaluate_every=16,
        num_problems=48,
        pretrained=True,
    ),
}
GENERATORS: dict[str, dict[str, Any]] = {
    "chain_sum": {"prompt": "compact", "min_terms": 3, "max_terms": 6, "min_digits": 1, "max_digits": 1},
}


def get_setting(task: str) -> Setting:
    """The setting of a name in :data:`SETTINGS`, or of ``reasoning_gym:<generator>``.

    Raises:
        ValueError: If it is none of these.
    """
    kind, _, generator = task.partition(":")
    if task in SETTINGS:
        return SETTINGS[task]
    if kind != "reasoning_gym" or not generator:
        raise ValueError(f"expected a task out of {sorted(SETTINGS)} or 'reasoning_gym:<generator>', got {task!r}")
    return Setting("espo_env/ReasoningGym-v0", {"generator": generator, **GENERATORS.get(generator, {})})


def with_tokenizer(setting: Setting, model: str | Path) -> Setting:
    """The setting with the tokenizer of a model folder, where its task takes one."""
    if setting.env != "espo_env/ReasoningGym-v0":
        return setting
    return replace(setting, env_config={**setting.env_config, "tokenizer": str(model)})


def measure_task(setting: Setting) -> tuple[int, Task]:
    """Horizon and task of a setting."""
    # The horizon is not known yet, and the task does not depend on it.
    env: Any = gym.make(setting.env, max_new_tokens=1, **setting.env_config).unwrapped
    task: Task = env.task
    if setting.max_new_tokens is not None:
        return setting.max_new_tokens, task
    longest = max(len(task.encode_solution(task.problem(index))) for index in range(256))
    return longest + longest // 4, task
