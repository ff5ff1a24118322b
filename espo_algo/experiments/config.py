"""The configuration that small experiments train with.

- :func:`build_config`: the configuration of ``examples/quickstart.py``, to start from.
- :func:`with_settings`: a configuration with some of its attributes set by name.
- :func:`parse_setting`: such a name with its value, from the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from espo_algo.config import ESPOConfig
from espo_algo.experiments.settings import get_setting, measure_task, with_tokenizer
from espo_algo.experiments.starts import make_start, num_heads
from espo_algo.rollout.engines import get_engine

__all__ = ["OUTPUT", "build_config", "parse_setting", "with_settings"]

OUTPUT = "quickstart_output"
"""Default folder of starts and results."""


def build_config(
    *,
    task: str = "arithmetic",
    model: str | Path | None = None,
    rule: str = "regret_value",
    engine: str = "torch",
    fail_reward: float = 0.0,
    iterations: int = 60,
    seed: int = 0,
    output: str | Path = OUTPUT,
    sft_steps: int | None = None,
    start_seed: int | None = None,
) -> ESPOConfig:
    """The quickstart's training configuration.

    Args:
        task: A name in :data:`~espo_algo.experiments.settings.SETTINGS`, or ``reasoning_gym:<generator>``.
        model: Folder to start from; None for the task's own start, made under ``output`` where it is not there yet.
        rule: Stop rule; ``"never"`` is plain PPO.
        fail_reward: Reward of a stop; 0 is what a wrong answer gets, -1 the paper's.
        engine: What writes the responses.
        iterations: Planned training iterations.
        seed: Of problems, samples and minibatches.
        output: Folder in which the small transformer is kept.
        sft_steps: Updates of its supervised fine-tuning, at most; None for the task's own number.
        start_seed: Of its weights and fine-tuning; None for the one that runs of all seeds share.
    """
    setting, kind = get_setting(task), get_engine(engine)
    own = model is None and not setting.pretrained  # a vocabulary made for the task
    model = model or make_start(task, output, sft_steps, num_heads(engine), start_seed)
    if not own:
        setting = with_tokenizer(setting, model)
    horizon, _ = measure_task(setting)
    return (
        ESPOConfig()
        .environment(setting.env, env_config=setting.env_config)
        # The embedded engine runs beside the learner; vLLM takes a process, and the GPU where there is one.
        .env_runners(
            num_env_runners=int(kind.needs_process),
            num_gpus_per_env_runner=int(kind.owns_gpus and torch.cuda.is_available()),
            num_envs_per_env_runner=96,
        )
        .language_model(model=model, critic="separate")
        .generation(engine=engine, max_new_tokens=horizon)
        .early_stopping(
            rule=rule,
            fail_reward=fail_reward,
            planned_iterations=iterations,
        )
        .training(
            lr=5e-5,
            critic_lr=5e-4,
            lambda_=0.95,
            train_batch_size_per_learner=96,
            minibatch_size=24,
            num_epochs=1,
        )
        .debugging(seed=seed, log_level="ERROR")
    )


def with_settings(config: ESPOConfig, settings: Mapping[str, Any]) -> ESPOConfig:
    """Sets attributes of a configuration by name.

    Raises:
        ValueError: If it has no such attribute, with the nearest one.
    """
    known = [*vars(config), "train_batch_size_per_learner"]  # which RLlib keeps under another name
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ValueError(f"expected a setting of ESPOConfig{f' ({near[0]}?)' if near else ''}, got {name!r}")
        setattr(config, name, value)
    return config


def parse_setting(text: str) -> tuple[str, Any]:
    """A name and a value out of ``NAME=VALUE``; the value is YAML.

    Raises:
        ValueError: If there is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"expected --set NAME=VALUE, got {text!r}")
    try:
        return name, float(value) if "e" in value.lower() else yaml.safe_load(value)  # YAML 1.1 takes 1e-4 for a text
    except ValueError:
        return name, yaml.safe_load(value)
