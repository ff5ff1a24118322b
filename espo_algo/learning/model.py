"""A causal language model with a critic.

- :class:`LanguageModelWithCritic`: any Hugging Face causal LM, a value head, and where wanted a critic trunk.

Engines and the learner both run this module; neither ever needs logits for more than they ask for.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

__all__ = ["CriticKind", "LanguageModelWithCritic"]

CriticKind = Literal["shared", "separate"]


class LanguageModelWithCritic(nn.Module):
    """Policy and critic over the same tokens.

    Args:
        policy: A decoder-only causal LM, e.g. from ``AutoModelForCausalLM.from_pretrained``.
        critic: ``"shared"``: a value head on the policy's last hidden state. ``"separate"``: a second trunk, started
            from the policy's, with a value head of its own; twice the memory and compute, and no gradient of the
            critic in the policy.
        vocab_size: How many tokens there are to choose from; None for all rows of the output embedding, which is often
            padded beyond the tokenizer.

    Raises:
        ValueError: If the architecture's logits are not a function of its trunk's last hidden state that is known
            here (checked with one forward pass over two tokens).
    """

    def __init__(self, policy: PreTrainedModel, critic: CriticKind = "shared", vocab_size: int | None = None) -> None:
        super().__init__()
        if critic not in ("shared", "separate"):
            raise ValueError(f"expected critic 'shared' or 'separate', got {critic!r}")
        if vocab_size is not None and vocab_size > policy.config.vocab_size:
            raise ValueError(f"expected vocab_size of at most {policy.config.vocab_size}, got {vocab_size}")
        self.policy = policy
        self.vocab_size: int = vocab_size or policy.config.vocab_size
        self.critic_trunk: PreTrainedModel | None = copy.deepcopy(policy.base_model) if critic == "separate" else None
        # float32 whatever the trunk is: values are regressed, and the value gate compares them with a threshold.
        # Zero, so that every process starts alike and an untrained critic claims nothing.
        self.value_head = nn.Linear(policy.config.hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._check_projection()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        critic: CriticKind = "shared",
        dtype: torch.dtype = torch.float32,
        vocab_size: int | None = None,
    ) -> LanguageModelWithCritic:
        """Loads the policy's weights; the critic starts from them."""
        config = _without_dropout(AutoConfig.from_pretrained(folder))
        return cls(AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype), critic, vocab_size)

    @classmethod
    def from_config(
        cls,
        folder: str | Path,
        critic: CriticKind = "shared",
        dtype: torch.dtype = torch.float32,
        vocab_size: int | None = None,
    ) -> LanguageModelWithCritic:
        """The same architecture with fresh weights, for processes that are sent their weights."""
        config = _without_dropout(AutoConfig.from_pretrained(folder))
        return cls(AutoModelForCausalLM.from_config(config, dtype=dtype), critic, vocab_size)

    @property
    def config(self) -> PretrainedConfig:
        """The language model's configuration."""
        return self.policy.config

    @property
    def trunk(self) -> PreTrainedModel:
        """The policy without its output projection."""
        return self.policy.base_model

    def project(self, hidden: Tensor) -> Tensor:
        """Logits, float32.

        Args:
            hidden: The trunk's last hidden states, shape (..., D).

        Returns:
            Shape (..., V).
        """
        logits = self.policy.get_output_embeddings()(hidden)
        config = self.config
        if (scale := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / scale
        if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * scale
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
            logits = torch.tanh(logits / cap) * cap
        return logits[..., : self.vocab_size].float()

    def value(self, critic_hidden: Tensor) -> Tensor:
        """Values, float32.

        Args:
            critic_hidden: Last hidden states of the critic's trunk (the policy's, where it is shared), (..., D).

        Returns:
            Shape (...).
        """
        return self.value_head(critic_hidden.float())[..., 0]

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        policy_cache: Any = None,
        critic_cache: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs the trunk, or both trunks.

        Args:
            input_ids: Shape (B, T).
            attention_mask: Shape (B, T), or (B, 1, T, S) where a cache is given.
            position_ids: Shape (B, T).
            policy_cache: A transformers ``Cache``, None in training.
            critic_cache: A second one, used only with a separate critic.

        Returns:
            Last hidden states of policy and critic, each (B, T, D); the same tensor where the critic is shared.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        hidden = self.trunk(**inputs, past_key_values=policy_cache, use_cache=policy_cache is not None)
        if self.critic_trunk is None:
            return hidden.last_hidden_state, hidden.last_hidden_state
        critic = self.critic_trunk(**inputs, past_key_values=critic_cache, use_cache=critic_cache is not None)
        return hidden.last_hidden_state, critic.last_hidden_state

    @torch.no_grad()
    def _check_projection(self) -> None:
        training = self.policy.training
        self.policy.eval()
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.policy.device)
        expected = self.policy(tokens, use_cache=False).logits[..., : self.vocab_size].float()
        got = self.project(self.trunk(tokens, use_cache=False).last_hidden_state)
        self.policy.train(training)
        if not torch.allclose(expected, got, atol=1e-3, rtol=1e-3):
            raise ValueError(
                f"expected an architecture whose logits are the projected last hidden state, got "
                f"{type(self.policy).__name__}, whose logits differ by {float((expected - got).abs().max()):.3g}"
            )


def _without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """Dropout would make the learner's log-probabilities differ from the sampler's."""
    for name, number in config.to_dict().items():
        if "drop" in name and isinstance(number, float):
            setattr(config, name, 0.0)
    return config
