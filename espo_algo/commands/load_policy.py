"""Loads policies to measure or to play with.

- :func:`load_policy`: out of a checkpoint of a training run, or a Hugging Face folder.
- :func:`is_checkpoint`: whether a path is a checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from espo_algo.config import ESPOConfig
from espo_algo.espo import ESPO
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.policy import Policy

__all__ = ["is_checkpoint", "load_policy"]

_CHECKPOINT_FILE = "rllib_checkpoint.json"


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is a checkpoint of RLlib's."""
    return (Path(path) / _CHECKPOINT_FILE).is_file()


def load_policy(path: str | Path, config: ESPOConfig | None = None) -> Policy:
    """Loads a policy.

    Args:
        path: A checkpoint (``checkpoints/iteration-...`` of ``espo train``, or any of RLlib's), a Hugging Face folder,
            or a hub name.
        config: What to use it with; None for the checkpoint's own configuration, or the default one.

    Raises:
        FileNotFoundError: If the path is none of these.
    """
    path = Path(path)
    source: dict[str, Any] = {"model": str(path)}
    if path.is_dir():
        source["modified"] = max(file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file())
    if is_checkpoint(path):
        algo = ESPO.from_checkpoint(str(path.resolve()))
        policy = algo.policy()
        algo.stop()
        return replace(policy, config=policy.config if config is None else config, source=source)
    if path.exists() and not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"expected a checkpoint ({_CHECKPOINT_FILE}) or a model folder (config.json), got {str(path)!r}"
        )
    config = (ESPOConfig() if config is None else config.copy(copy_frozen=False)).language_model(model=path)
    model = LanguageModelWithCritic.from_pretrained(path, config.critic, getattr(torch, config.dtype))
    return Policy(config, model.eval(), None, source)
