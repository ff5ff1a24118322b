"""Trained models as ordinary Hugging Face folders.

- :func:`export`: writes ``policy`` and ``critic``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers import AutoModelForTokenClassification, PreTrainedModel

from espo_algo.commands.load_policy import save_tokenizer
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.weight_sync.packing import unpack_state

if TYPE_CHECKING:
    from espo_algo.espo import ESPO

__all__ = ["export"]


def export(algo: ESPO, folder: str | Path) -> Path:
    """Writes the learner's current weights, in float32, each folder with its tokenizer.

    - ``policy``: for ``AutoModelForCausalLM.from_pretrained``, and so for any engine or trainer.
    - ``critic``: for ``AutoModelForTokenClassification.from_pretrained``; its one logit at position ``i`` is the value
      of the text up to and including token ``i``.

    Args:
        algo: Where its learners are does not matter.
        folder: Made if it is missing.

    Returns:
        The folder.

    Raises:
        ValueError: If transformers has no token classification head for the architecture.
    """
    folder = Path(folder)
    model = _learned_model(algo)
    critic = _as_token_classifier(model)
    for name, part in (("policy", model.policy), ("critic", critic)):
        part.save_pretrained(folder / name)
        save_tokenizer(algo.config.model_name, algo.config, folder / name)
    return folder


def _learned_model(algo: ESPO) -> LanguageModelWithCritic:
    config = algo.config
    assert config.model_name is not None
    model = LanguageModelWithCritic.from_config(config.model_name, config.critic)
    state = algo.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"]["default_policy"]
    own = "model."
    unpack_state(model, {name.removeprefix(own): array for name, array in state.items() if name.startswith(own)})
    return model


def _as_token_classifier(model: LanguageModelWithCritic) -> PreTrainedModel:
    config = type(model.config).from_dict(model.config.to_dict() | {"num_labels": 1})
    classifier = AutoModelForTokenClassification.from_config(config)
    trunk = model.trunk if model.critic_trunk is None else model.critic_trunk
    classifier.base_model.load_state_dict(trunk.state_dict())
    (head,) = (m for m in classifier.modules() if isinstance(m, nn.Linear) and m.out_features == 1)
    head.load_state_dict(model.value_head.state_dict())
    return classifier
