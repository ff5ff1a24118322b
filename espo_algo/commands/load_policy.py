"""Policies to measure or to play with, from where they are kept.

- :func:`load_policy`: out of a checkpoint of a training run, or a Hugging Face folder.
- :func:`is_checkpoint`: which of the two a path is.
- :class:`Policy`: the model, with the state of early stopping if there is one.
- :func:`save_tokenizer`: what belongs beside a model's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from espo_algo.config import ESPOConfig
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.regret_control import RegretControl
from espo_algo.rollout.env_runner import make_vector_env
from espo_algo.weight_sync.packing import first_result
from espo_env.tokenizer import Tokenizer

__all__ = ["Policy", "is_checkpoint", "load_policy", "save_tokenizer"]

_CHECKPOINT_FILE = "rllib_checkpoint.json"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy with its critic.

    Attributes:
        config: How it was trained, or is to be used.
        model: Weights.
        control: State of early stopping; None for a folder, whose critic knows nothing yet.
        source: Where it came from, as JSON.
    """

    config: ESPOConfig
    model: LanguageModelWithCritic
    control: RegretControl | None
    source: dict[str, Any]


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
        from espo_algo.espo import ESPO

        algo = ESPO.from_checkpoint(str(path.resolve()))
        learned = first_result(algo.learner_group.foreach_learner(lambda learner: learner.language_module))
        model, control = learned.model, learned.regret_control
        own = algo.config.copy(copy_frozen=False)
        algo.stop()
        return Policy(own if config is None else config, model.eval(), control, source)
    if path.exists() and not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"expected a checkpoint ({_CHECKPOINT_FILE}) or a model folder (config.json), got {str(path)!r}"
        )
    config = (ESPOConfig() if config is None else config.copy(copy_frozen=False)).language_model(model=path)
    model = LanguageModelWithCritic.from_pretrained(path, config.critic, getattr(torch, config.dtype))
    return Policy(config, model.eval(), None, source)


def save_tokenizer(model: str | Path | None, config: ESPOConfig, folder: str | Path) -> None:
    """Writes a model's own tokenizer with its chat template; the task's, if the model has none.

    Args:
        model: Folder or hub name; None for a model that was made for the task.
        config: Its environment gives the task.
        folder: Where to.
    """
    if model is not None and ((Path(model) / "tokenizer.json").is_file() or not Path(model).is_dir()):
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    else:
        tokenizer: Tokenizer = make_vector_env(config).unwrapped.mdp.task.tokenizer
        tokenizer.save_pretrained(folder)
