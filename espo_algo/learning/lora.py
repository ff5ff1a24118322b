"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) of policy and critic on one frozen model, by peft.

- :class:`LoRASettings`: rank, scale, layers and dropout.
- :class:`LanguageModelWithLoRA`: one frozen model with an adapter of the policy, and where wanted one of the critic.
- :func:`layers_to_adapt`: which linear layers of an architecture get one.
- :func:`check_lora`: whether peft and these layers are there.
- :func:`save_adapter`: writes an adapter as ``PeftModel.from_pretrained`` reads it.
- :func:`write_base`, :func:`check_base`: which model a checkpoint's adapters belong to.

A trained weight is ``W + alpha / r * B @ A``. Engines know nothing of this: they are sent the sums
(:meth:`LanguageModelWithLoRA.plain_weights`), so that a response costs what it costs without adapters.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from espo_algo.atomic import write_text
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.schema import CriticKind
from espo_algo.weight_sync.packing import MergedWeight, Weight

__all__ = [
    "LanguageModelWithLoRA",
    "LoRASettings",
    "check_base",
    "check_lora",
    "layers_to_adapt",
    "save_adapter",
    "write_base",
]

_BASE_FILE = "lora_base.json"

_POLICY, _CRITIC = "policy", "critic"
_BASE, _DOWN, _UP = ".base_layer", ".lora_A", ".lora_B"
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class LoRASettings:
    """What adapters look like.

    Attributes:
        r: Rank, >= 1.
        alpha: The product of the two matrices counts ``alpha / r``; > 0.
        target_modules: ``"all-linear"``: every linear layer of the trunk; or last parts of their names.
        dropout: Of an adapter's input, in the passes that give gradients; in [0, 1).
    """

    r: int
    alpha: float = 16.0
    target_modules: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        """What the product of an adapter's two matrices counts for."""
        return self.alpha / self.r


class LanguageModelWithLoRA(LanguageModelWithCritic):
    """Policy and critic as adapters of one frozen model.

    The model keeps the dtype that it has; adapters and value head are float32. With a separate critic the model is gone
    through twice, once with each adapter: a second trunk's compute, and none of its memory.

    Args:
        policy: As for :class:`LanguageModelWithCritic`; it is changed.
        critic: ``"shared"``: a value head on the policy's last hidden state. ``"separate"``: an adapter of its own.
        vocab_size: As there.
        settings: What the adapters look like.
        seed: Of their first matrices; the second ones are zero, so that training starts from the model itself.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If the model does not have a layer that the settings name.

    Attributes:
        fingerprint: SHA-256 of the frozen weights, 32 bytes; of no use where these have no data.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        critic: CriticKind = "shared",
        vocab_size: int | None = None,
        *,
        settings: LoRASettings,
        seed: int = 0,
    ) -> None:
        from peft import inject_adapter_in_model

        super().__init__(policy, "shared", vocab_size)
        policy.requires_grad_(False)
        self.settings = settings
        self.fingerprint = _fingerprint(policy)
        self.adapters = (_POLICY,) if critic == "shared" else (_POLICY, _CRITIC)
        names = layers_to_adapt(policy, settings)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # the policy's: it is meant
            for adapter in self.adapters:
                inject_adapter_in_model(_peft_config(settings, names), policy, adapter)
        prefix = policy.base_model_prefix
        # Not registered a second time: a dictionary is no module.
        self._layers: dict[str, Any] = {f"{prefix}.{name}": self.trunk.get_submodule(name) for name in names}
        generator = torch.Generator().manual_seed(seed)
        for layer in self._layers.values():
            for adapter in self.adapters:
                # peft's own start, in an order that does not depend on the process; its dtype would be the layer's.
                down, up = layer.lora_A[adapter].float(), layer.lora_B[adapter].float()
                nn.init.zeros_(up.weight)
                if down.weight.device.type != "meta":
                    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5), generator=generator)
                for part in (down, up):
                    part.requires_grad_(True)
        self._use(_POLICY)

    def policy_parameters(self) -> list[nn.Parameter]:
        """The policy's adapter."""
        return self._of_adapter(_POLICY)

    def critic_parameters(self) -> list[nn.Parameter]:
        """The value head, and the critic's adapter where it has one of its own."""
        return [*self.value_head.parameters(), *(self._of_adapter(_CRITIC) if _CRITIC in self.adapters else [])]

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        policy_cache: Any = None,
        critic_cache: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`LanguageModelWithCritic.hidden_states`, with one adapter after the other."""
        inputs = (input_ids, attention_mask, position_ids)
        hidden, _ = super().hidden_states(*inputs, policy_cache)
        if _CRITIC not in self.adapters:
            return hidden, hidden
        with self._using(_CRITIC):
            critic_hidden, _ = super().hidden_states(*inputs, critic_cache)
        return hidden, critic_hidden

    def plain_weights(self) -> Mapping[str, Weight]:
        """The weights of a :class:`LanguageModelWithCritic` that computes the same."""
        policy = self._merged(_POLICY)
        weights = {f"policy.{name}": weight for name, weight in policy.items()}
        if _CRITIC in self.adapters:
            trunk = f"{self.policy.base_model_prefix}."
            for name, weight in self._merged(_CRITIC).items():
                if name.startswith(trunk):
                    weights[f"critic_trunk.{name.removeprefix(trunk)}"] = weight
        return weights | {f"value_head.{name}": weight for name, weight in self.value_head.named_parameters()}

    def checkpoint_gradients(self) -> None:
        """As for any model; a block is computed again with the adapter that it was computed with."""

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), self._using(self._in_use)

        self.trunk.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Computes what engines compute, while it is entered."""
        dropouts = [part for part in self.policy.modules() if isinstance(part, nn.Dropout) and part.p]
        for part in dropouts:
            part.p = 0.0
        try:
            yield
        finally:
            for part in dropouts:
                part.p = self.settings.dropout

    def peft_weights(self) -> dict[str, Tensor]:
        """The policy's adapter by the names of peft's files."""
        return {
            f"{_PEFT_PREFIX}{name}{part}.weight": getattr(layer, part[1:])[_POLICY].weight
            for name, layer in self._layers.items()
            for part in (_DOWN, _UP)
        }

    def _of_adapter(self, adapter: str) -> list[nn.Parameter]:
        return [part[adapter].weight for layer in self._layers.values() for part in (layer.lora_A, layer.lora_B)]

    def _merged(self, adapter: str) -> dict[str, Weight]:
        """The language model's weights with an adapter, by the names that they have without one."""
        merged: dict[str, Weight] = {}
        for name, parameter in self.policy.named_parameters():
            if _DOWN in name or _UP in name:
                continue
            place, adapted, kind = name.partition(_BASE)
            if adapted and kind == ".weight":
                layer = self._layers[place]
                down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                merged[place + kind] = MergedWeight(parameter, down, up, self.settings.scale)
            else:
                merged[place + kind] = parameter
        return merged

    def _use(self, adapter: str) -> None:
        self._in_use = adapter
        for layer in self._layers.values():
            # peft's own `set_adapter` freezes the other adapter, too, whose gradients are still to come.
            layer._active_adapter = adapter

    @contextmanager
    def _using(self, adapter: str) -> Iterator[None]:
        before = self._in_use
        self._use(adapter)
        try:
            yield
        finally:
            self._use(before)


def layers_to_adapt(model: PreTrainedModel | PretrainedConfig, settings: LoRASettings) -> list[str]:
    """Names of the linear layers that get adapters, within the trunk, in the model's order.

    Args:
        model: A language model, or its configuration.
        settings: Which layers.

    Raises:
        ValueError: If a name fits no linear layer of the trunk.
    """
    if isinstance(model, PretrainedConfig):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model)
    linear = [name for name, part in model.base_model.named_modules() if isinstance(part, nn.Linear)]
    known = {_last(name) for name in linear}
    wanted = known if settings.target_modules == "all-linear" else {*settings.target_modules}
    found = [name for name in linear if any(f".{name}".endswith(f".{ending}") for ending in wanted)]
    missing = sorted(w for w in wanted if not any(f".{name}".endswith(f".{w}") for name in found))
    if missing or not found:
        raise ValueError(
            f"expected 'all-linear' or names out of {sorted(known)}, the linear layers of "
            f"the trunk of {type(model).__name__}, got {missing or settings.target_modules}"
        )
    return found


def check_lora(settings: LoRASettings, config: PretrainedConfig) -> None:
    """Checks that peft is there, and that the model has the layers.

    Raises:
        ImportError: If peft is not installed.
        ValueError: As :func:`layers_to_adapt`.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError("expected peft to be installed: pip install 'espo[lora]'") from error
    layers_to_adapt(config, settings)


def save_adapter(
    folder: str | Path, adapter: Mapping[str, np.ndarray], settings: LoRASettings, model: str, layers: list[str]
) -> None:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        folder: Made if it is missing.
        adapter: Matrices by the names of peft's files, see :meth:`LanguageModelWithLoRA.peft_weights`.
        settings: The adapter's.
        model: Folder or hub name of the model that it belongs to.
        layers: What :func:`layers_to_adapt` gave.
    """
    folder = Path(folder)
    config = _peft_config(settings, layers)
    config.base_model_name_or_path = model
    config.save_pretrained(folder)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in adapter.items()}, folder / "adapter_model.safetensors"
    )


def write_base(folder: str | Path, model: str, dtype: str, fingerprint: bytes) -> None:
    """Writes into a checkpoint which model its adapters belong to."""
    facts = {"model": model, "dtype": dtype, "sha256": fingerprint.hex()}
    write_text(Path(folder) / _BASE_FILE, json.dumps(facts, indent=2) + "\n")


def check_base(folder: str | Path, model: str, dtype: str, fingerprint: bytes) -> None:
    """Compares it with a model's; does nothing where the checkpoint does not say.

    Raises:
        ValueError: If its adapters belong to other weights.
    """
    file = Path(folder) / _BASE_FILE
    if not file.is_file():
        return
    facts = json.loads(file.read_text("utf-8"))
    if facts["sha256"] != fingerprint.hex():
        raise ValueError(
            f"expected the weights that the checkpoint's adapters were trained on ({facts['model']!r} in "
            f"{facts['dtype']}, SHA-256 {facts['sha256'][:12]}...), got {model!r} in {dtype} "
            f"({fingerprint.hex()[:12]}...)"
        )


def _peft_config(settings: LoRASettings, layers: list[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted({_last(name) for name in layers}),
        task_type="CAUSAL_LM",
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _fingerprint(model: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        if parameter.device.type != "meta":
            digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
