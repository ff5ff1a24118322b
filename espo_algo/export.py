"""Trained models as ordinary Hugging Face folders.

- :func:`export`: writes the policy, and in its folder the critic, the state of early stopping and an adapter.
- :func:`load_export`, :func:`is_export`: reads them again; nothing in them is code.
- :func:`save_tokenizer`: what belongs beside a model's weights.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel

from espo_algo.atomic import write_text
from espo_algo.learning.lora import layers_to_adapt, save_adapter
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.learning.rl_module import state_numbers, with_numbers
from espo_env.early_stopping import EarlyStoppingState
from espo_env.tasks import Task

if TYPE_CHECKING:
    from espo_algo.espo import ESPO

__all__ = ["export", "is_export", "load_export", "save_tokenizer"]

_ADAPTER = "adapter"
_CRITIC = "critic"
_FACTS = "early_stopping.json"


def export(algo: ESPO, folder: str | Path) -> Path:
    """Writes the learner's current weights, in float32, each with its tokenizer.

    - The folder itself: the policy, for ``AutoModelForCausalLM.from_pretrained``, and so for any engine or trainer.
    - ``critic`` in it: for ``AutoModelForTokenClassification.from_pretrained``; its one logit at position ``i`` is the
      value of the text up to and including token ``i``.
    - ``adapter`` in it, where LoRA was trained: the policy's, for ``PeftModel.from_pretrained`` on the model that
      training started from; ``critic`` has none, what is in it is merged.
    - ``early_stopping.json``: the numbers of :class:`~espo_env.early_stopping.EarlyStoppingState`, the kind of critic,
      and how many tokens there are to choose from.

    Args:
        algo: Where its learners are does not matter.
        folder: Made if it is missing.

    Returns:
        The folder.

    Raises:
        ValueError: If transformers has no token classification head for the architecture.
    """
    folder = Path(folder)
    policy = algo.policy()
    critic = _as_token_classifier(policy.model)
    for target, part in ((folder, policy.model.policy), (folder / _CRITIC, critic)):
        part.save_pretrained(target)
        save_tokenizer(algo.config.model_name, algo.mdp.task, target)
    if policy.adapter is not None:
        config = policy.config
        assert config.lora_settings is not None
        assert config.model_name is not None
        layers = layers_to_adapt(policy.model.policy, config.lora_settings)
        save_adapter(folder / _ADAPTER, policy.adapter, config.lora_settings, config.model_name, layers)
    assert policy.early_stopping is not None
    numbers = state_numbers(policy.early_stopping)
    facts = {
        "critic": "shared" if policy.model.critic_trunk is None else "separate",
        "vocab_size": policy.model.vocab_size,
        "state": {name: number if math.isfinite(number) else None for name, number in numbers.items()},
    }
    write_text(folder / _FACTS, json.dumps(facts, indent=2) + "\n")
    return folder


def is_export(folder: str | Path) -> bool:
    """Whether a folder is one that :func:`export` wrote."""
    return (Path(folder) / _FACTS).is_file()


def load_export(
    folder: str | Path, constants: EarlyStoppingState, dtype: torch.dtype = torch.float32
) -> tuple[LanguageModelWithCritic, EarlyStoppingState]:
    """Reads what :func:`export` wrote; safetensors and JSON, nothing is unpickled.

    Args:
        folder: The export's.
        constants: How the state of early stopping is to go on; its numbers come from the export.
        dtype: Of the trunks.

    Raises:
        ValueError: If ``early_stopping.json`` is not as it was written.
    """
    folder = Path(folder)
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_text("utf-8"))
        numbers = {name: math.nan if x is None else float(x) for name, x in facts["state"].items()}
        state = with_numbers(constants, numbers)
        kind, vocab_size = facts["critic"], int(facts["vocab_size"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / _FACTS}: expected critic, vocab_size and state, got {error!r}") from error
    model = LanguageModelWithCritic.from_pretrained(folder, kind, dtype, vocab_size)
    critic = AutoModelForTokenClassification.from_pretrained(folder / _CRITIC, dtype=dtype, use_safetensors=True)
    if model.critic_trunk is not None:
        model.critic_trunk.load_state_dict(critic.base_model.state_dict())
    model.value_head.load_state_dict(_head(critic).state_dict())
    return model, state


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
    """A classifier around the trunk itself: a copy would be a second model in memory."""
    config = type(model.config).from_dict(model.config.to_dict() | {"num_labels": 1})
    with torch.device("meta"):
        classifier = AutoModelForTokenClassification.from_config(config)
    trunk = model.trunk if model.critic_trunk is None else model.critic_trunk
    setattr(classifier, classifier.base_model_prefix, trunk)
    _head(classifier).load_state_dict(model.value_head.state_dict(), assign=True)
    return classifier


def _head(classifier: PreTrainedModel) -> nn.Linear:
    (head,) = (m for m in classifier.modules() if isinstance(m, nn.Linear) and m.out_features == 1)
    return head
