"""Trained models as ordinary Hugging Face folders.

- :func:`export`: writes the policy, and in it a folder ``critic``.
- :func:`save_tokenizer`: what belongs beside a model's weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel

from espo_algo.learning.model import LanguageModelWithCritic
from espo_env.tasks import Task

if TYPE_CHECKING:
    from espo_algo.espo import ESPO

__all__ = ["CRITIC", "export", "save_tokenizer"]

CRITIC = "critic"
"""The critic's folder in that of the policy."""


def export(algo: ESPO, folder: str | Path) -> Path:
    """Writes the learner's current weights, in float32, each with its tokenizer.

    - The folder itself: the policy, for ``AutoModelForCausalLM.from_pretrained``, and so for any engine or trainer.
    - ``critic`` in it: for ``AutoModelForTokenClassification.from_pretrained``; its one logit at position ``i`` is the
      value of the text up to and including token ``i``.

    Args:
        algo: Where its learners are does not matter.
        folder: Made if it is missing.

    Returns:
        The folder.

    Raises:
        ValueError: If transformers has no token classification head for the architecture.
    """
    folder = Path(folder)
    model = algo.policy().model
    critic = _as_token_classifier(model)
    for target, part in ((folder, model.policy), (folder / CRITIC, critic)):
        part.save_pretrained(target)
        save_tokenizer(algo.config.model_name, algo.mdp.task, target)
    return folder


def save_tokenizer(model: str | Path | None, task: Task, folder: str | Path) -> None:
    """Writes a model's own tokenizer with its chat template; the task's, if the model has none.

    Args:
        model: Folder or hub name; None for a model that was made for the task.
        task: What it answers.
        folder: Where to.
    """
    if model is not None and ((Path(model) / "tokenizer.json").is_file() or not Path(model).is_dir()):
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    else:
        task.tokenizer.save_pretrained(folder)


def _as_token_classifier(model: LanguageModelWithCritic) -> PreTrainedModel:
    config = type(model.config).from_dict(model.config.to_dict() | {"num_labels": 1})
    classifier = AutoModelForTokenClassification.from_config(config)
    trunk = model.trunk if model.critic_trunk is None else model.critic_trunk
    classifier.base_model.load_state_dict(trunk.state_dict())
    (head,) = (m for m in classifier.modules() if isinstance(m, nn.Linear) and m.out_features == 1)
    head.load_state_dict(model.value_head.state_dict())
    return classifier
