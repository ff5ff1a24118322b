"""Loads policies to measure or to play with.

- :func:`load_policy`: out of a Hugging Face folder, what ``espo train`` exported, or a checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from espo_algo.checks import check_model
from espo_algo.commands.checkpoints import CHECKPOINTS, list_checkpoints
from espo_algo.config import ESPOConfig
from espo_algo.espo import ESPO
from espo_algo.export import is_export, load_export
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.manifest import MANIFEST, verify_checkpoint
from espo_algo.model_folder import check_model_folder
from espo_algo.policy import Policy

__all__ = ["load_policy"]

_CHECKPOINT_FILE = "rllib_checkpoint.json"


def load_policy(path: str | Path, config: ESPOConfig | None = None, checkpoint: bool = False) -> Policy:
    """Loads a policy.

    Args:
        path: A Hugging Face folder or hub name, or the ``model`` folder of a run, which has critic and state of early
            stopping as well: files of numbers and text. With ``checkpoint`` a checkpoint, or a run's folder.
        config: What to use it with; None for the checkpoint's own configuration, or the default one.
        checkpoint: Whether the path is a checkpoint of ESPO's (``checkpoints/iteration-...``; of a run's folder the
            newest one). It is unpickled, which runs whatever code is in it.

    Raises:
        FileNotFoundError: If the path is none of these.
        ValueError: If it is a checkpoint, and ``checkpoint`` is False; if it is a folder that is not there, a hub name
            that the hub does not have, or one with the hub out of reach.
        BrokenCheckpointError: If the checkpoint is not what was written.
    """
    path = Path(path)
    if checkpoint:
        path = next(reversed(list_checkpoints(path)), path)
        if not (path / _CHECKPOINT_FILE).is_file():
            raise FileNotFoundError(f"expected a checkpoint ({_CHECKPOINT_FILE}) or a run's folder, got {str(path)!r}")
    source: dict[str, Any] = {"model": str(path)}
    if path.is_dir():
        source["modified"] = max((f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()), default=0)
    if checkpoint:
        if (path / MANIFEST).is_file():
            verify_checkpoint(path)  # before anything of it is unpickled
        algo = ESPO.from_checkpoint(str(path.resolve()))
        policy = algo.policy()
        algo.stop()
        return replace(policy, config=policy.config if config is None else config, source=source)
    config = (ESPOConfig() if config is None else config.copy(copy_frozen=False)).language_model(model=path)
    dtype = getattr(torch, config.dtype)
    if is_export(path):
        model, state = load_export(path, config.early_stopping_state, dtype)
        return Policy(config, model.eval(), state, source)
    if path.exists() and not (path / "config.json").is_file():
        if (path / _CHECKPOINT_FILE).is_file() or (path / CHECKPOINTS).is_dir():
            raise ValueError(
                f"expected a model folder (a run's is in it as 'model') or hub name, got the checkpoint {str(path)!r}: "
                "loading it runs whatever code is in it; add --checkpoint if you trust it"
            )
        raise FileNotFoundError(f"expected a model folder (config.json), got {str(path)!r}")
    check_model_folder(path)
    check_model(config)
    model = LanguageModelWithCritic.from_pretrained(path, config.critic, dtype)
    return Policy(config, model.eval(), None, source)
