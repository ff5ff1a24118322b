"""A causal language model with a critic.

- :class:`LanguageModelWithCritic`: any Hugging Face causal LM, a value head, and where wanted a critic trunk.
- :func:`load_language_model`: the causal LM alone.
- :func:`check_keys_and_values`: whether keys and values are all that a model keeps of a text.
- :func:`cached_bytes`: what these take.

Engines and the learner both run this module. Logits are computed only of the hidden states that they pass to
``project``, never of a whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from espo_algo.weight_sync.packing import Weight

if TYPE_CHECKING:
    from espo_algo.schema import CriticKind

__all__ = ["LanguageModelWithCritic", "cached_bytes", "check_keys_and_values", "load_language_model"]


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
        weights: bool = True,
    ) -> LanguageModelWithCritic:
        """A model from its Hugging Face folder or hub name; the critic starts from the policy.

        Args:
            folder: Where the model is.
            critic: As for the class.
            dtype: Of the trunks.
            vocab_size: As for the class.
            weights: False for the architecture with fresh weights, in processes that are sent theirs.
        """
        return cls(load_language_model(folder, dtype, weights), critic, vocab_size)

    @property
    def config(self) -> PretrainedConfig:
        """The language model's configuration."""
        return self.policy.config

    @property
    def trunk(self) -> PreTrainedModel:
        """The policy without its output projection."""
        return self.policy.base_model

    def policy_parameters(self) -> list[nn.Parameter]:
        """What the policy's optimiser trains."""
        return [*self.policy.parameters()]

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic's optimiser trains: the value head, and the critic's trunk where it has one of its own."""
        trunk = [] if self.critic_trunk is None else [*self.critic_trunk.parameters()]
        return [*self.value_head.parameters(), *trunk]

    def embeddings(self) -> list[nn.Parameter]:
        """Of policy and critic, tied output layers included."""
        trunks = [self.trunk] if self.critic_trunk is None else [self.trunk, self.critic_trunk]
        parts = [part for trunk in trunks for part in trunk.modules() if isinstance(part, nn.Embedding)]
        return [parameter for part in parts for parameter in part.parameters()]

    def plain_weights(self) -> Mapping[str, Weight]:
        """The weights by the names that this class gives them, a tied one once: what engines are sent."""
        return dict(self.named_parameters())

    def kept_in(self, dtype: torch.dtype) -> LanguageModelWithCritic:
        """The model as an engine with this dtype keeps it: a copy with its trunks cast, or itself if they are."""
        if self.policy.dtype == dtype:
            return self
        model = copy.deepcopy(self)
        for trunk in (model.policy, model.critic_trunk):
            for parameter in () if trunk is None else trunk.parameters():  # buffers stay: rotary frequencies are exact
                parameter.data = parameter.data.to(dtype)
        return model

    def checkpoint_gradients(self) -> None:
        """Has activations computed again in the backward pass, instead of kept."""
        for trunk in (self.trunk, self.critic_trunk):
            if trunk is not None:
                trunk.gradient_checkpointing_enable({"use_reentrant": False})

    def without_dropout(self) -> AbstractContextManager[None]:
        """Computes what engines compute, while it is entered: so it does always here."""
        return nullcontext()

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
        if logits.shape[-1] != self.vocab_size:  # else the gradient would be copied into zeros of the same shape
            logits = logits[..., : self.vocab_size]
        return logits.float()

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

    def last_hidden(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states behind the last token of each text: what its next token is drawn from, and its value.

        Args:
            tokens: Shape (B, T), anything behind a text's length.
            lengths: Shape (B,), >= 1.

        Returns:
            Of policy and critic, each (B, D).
        """
        hidden, critic_hidden = self.hidden_states(tokens[:, : int(lengths.max())].long())
        rows = torch.arange(len(lengths), device=hidden.device)
        last = lengths.reshape(-1).long().to(hidden.device) - 1
        return hidden[rows, last], critic_hidden[rows, last]

    @torch.no_grad()
    def _check_projection(self) -> None:
        if self.policy.device.type == "meta":
            return  # nothing to compare: only shapes are wanted
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


def load_language_model(
    folder: str | Path, dtype: torch.dtype = torch.float32, weights: bool = True
) -> PreTrainedModel:
    """A causal language model without dropout.

    Args:
        folder: Hugging Face folder or hub name.
        dtype: Of its weights.
        weights: False for the architecture with fresh weights.
    """
    config = _without_dropout(AutoConfig.from_pretrained(folder))
    if weights:
        return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def check_keys_and_values(config: PretrainedConfig, max_length: int) -> None:
    """Raises a ValueError unless every layer keeps plain keys and values, of all tokens of a text of this length."""
    for index, layer in enumerate(DynamicCache(config=config).layers):
        if type(layer) is DynamicSlidingWindowLayer and layer.sliding_window < max_length:
            raise ValueError(
                f"expected max_length <= sliding_window, got max_length {max_length} and a sliding window of "
                f"{layer.sliding_window} in layer {index} of {config.model_type}"
            )
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ValueError(
                f"expected attention layers that cache keys and values, got a {type(layer).__name__} "
                f"in layer {index} of {config.model_type} (recurrent, linear and shared-cache layers "
                f"are not supported)"
            )


def cached_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of a token's keys and values in all layers of one trunk."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * dtype.itemsize


def _without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """Sets every dropout to 0: it would make the learner's log-probabilities differ from the sampler's."""
    for name, number in config.to_dict().items():
        if "drop" in name and isinstance(number, float):
            setattr(config, name, 0.0)
    return config
