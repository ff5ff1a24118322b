"""Peak memory of an update and of a decode step, from runs on tensors without data.

- :func:`update_peak`: the learner's forward and backward passes and its optimisers' step.
- :func:`decode_peak`: the embedded engine's cache, its prompts, and a step of all slots at full length.
- :class:`Peak`: what they found.
- :class:`PeakMemory`: adds up what is alive.

The code that runs is training's own, on tensors that have shapes and no memory (PyTorch's ``FakeTensorMode``). What the
allocator loses between blocks, a library's work space inside of one operation, and the libraries themselves are not in
it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig

from espo_algo.learning.batching import ResponseStates
from espo_algo.learning.lora import LanguageModelWithLoRA, LoRASettings
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.learning.optimizers import moment_bytes
from espo_algo.learning.rl_module import LanguageModelRLModule
from espo_algo.learning.sharding import block_names
from espo_algo.rollout.embedded.engine import PREFILL_TOKENS
from espo_algo.rollout.embedded.kv_cache import SlotCache
from espo_algo.rollout.sampling import SamplingSettings, draw
from espo_algo.schema import CriticKind, Moments

__all__ = ["Peak", "PeakMemory", "decode_peak", "update_peak"]


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes at the moment when there were most.

    Attributes:
        held: What stays from step to step, by name.
        passing: The rest: activations, logits, copies.
    """

    held: dict[str, int]
    passing: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.held.values()) + self.passing


def update_peak(
    config: PretrainedConfig,
    critic: CriticKind,
    vocab_size: int,
    dtype: torch.dtype,
    gradient_checkpointing: bool,
    sequences: int,
    length: int,
    prompt: int,
    accumulates: bool,
    num_shards: int = 1,
    lora: LoRASettings | None = None,
    moments: Moments = "float32",
) -> Peak:
    """The second optimiser step of a learner, whose moments are there.

    Of a model that is sharded the passes run on one that is whole, in ``dtype`` and letting go of each gradient as soon
    as it is there; in the place of its weights stands what is gathered at the same time: what belongs to no block, two
    of the largest block (one is fetched while another one computes), and the gradients of one.

    Args:
        config: The language model's.
        critic: As for :class:`LanguageModelWithCritic`.
        vocab_size: Tokens to choose from.
        dtype: In which passes compute; weights that are trained, gradients and moments are float32.
        gradient_checkpointing: Whether activations are computed again instead of kept.
        sequences: Sequences of the largest micro-batch, >= 1.
        length: Tokens of each, prompt and response.
        prompt: Tokens of each prompt, in [1, length).
        accumulates: Whether a step adds up the gradients of several micro-batches.
        num_shards: Learners that the model is spread over.
        lora: What adapters look like; None where all weights are trained. Frozen weights are in ``dtype``.
        moments: What AdamW's are kept in; only float32 where it is sharded.
    """
    sharded = num_shards > 1
    with _fake(config, critic, vocab_size, dtype if sharded or lora else torch.float32, lora) as model:
        module = _Module(model, torch.float32 if sharded else dtype, gradient_checkpointing)
        parameters = [*module.parameters()]
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        frozen = -(-sum(_bytes(parameter) for parameter in parameters if not parameter.requires_grad) // num_shards)
        weights = -(-sum(parameter.numel() for parameter in trained) * torch.float32.itemsize // num_shards)
        held = {"weights": weights, "gradients": weights, "AdamW's two moments": 2 * weights}
        if lora is not None:
            held = {f"frozen weights, {str(dtype).removeprefix('torch.')}": frozen} | held
        if sharded:
            for parameter in trained:
                parameter.register_post_accumulate_grad_hook(_let_go)
            with PeakMemory(parameters) as memory:
                _pass(module, _FullBatch(sequences, length, prompt))
            passing = memory.peak - sum(map(_bytes, parameters)) + _gathered(model)
            return Peak(held, passing)
        optimizers = [torch.optim.AdamW(own) for own in (model.policy_parameters(), model.critic_parameters())]
        batch = _FullBatch(sequences, length, prompt)
        with PeakMemory(parameters) as memory:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            for optimizer in optimizers:
                optimizer.step()  # makes the moments
                optimizer.zero_grad(set_to_none=True)
            for _ in range(1 + accumulates):
                _pass(module, batch)
            for optimizer in optimizers:
                optimizer.step()
        passing = max(0, memory.peak - sum(held.values()))
        if moments == "8bit":  # the step above had float32 ones
            embeddings = {*map(id, model.embeddings())}
            del held["AdamW's two moments"]
            held["AdamW's two moments, 8bit"] = sum(moment_bytes(p, moments, id(p) in embeddings) for p in trained)
    return Peak(held, passing)


def decode_peak(
    config: PretrainedConfig,
    critic: CriticKind,
    vocab_size: int,
    dtype: torch.dtype,
    slots: int,
    length: int,
    prompt: int,
) -> Peak:
    """The embedded engine when all slots have come to their last token.

    Args:
        config: The language model's.
        critic: As for :class:`LanguageModelWithCritic`.
        vocab_size: Tokens to choose from.
        dtype: Of weights and cache.
        slots: Responses at the same time.
        length: Tokens of each, prompt and response.
        prompt: Tokens of each prompt, in [1, length).
    """
    with (
        _fake(config, critic, vocab_size, dtype) as model,
        torch.no_grad(),
        PeakMemory([*model.parameters()]) as memory,
    ):
        caches = [SlotCache(config, slots, length) for _ in range(1 if critic == "shared" else 2)]
        together = min(slots, max(1, PREFILL_TOKENS // prompt))
        for cache in caches:
            cache.prefill(torch.zeros(together, dtype=torch.long))
        positions = torch.arange(prompt).expand(together, prompt)
        model.hidden_states(torch.zeros(together, prompt, dtype=torch.long), None, positions, caches[0], caches[-1])
        cached = sum(_bytes(layer.keys) + _bytes(layer.values) for cache in caches for layer in cache.layers)
        positions = torch.full((slots,), length - 1)
        for cache in caches:
            cache.decode(positions, length)
        mask = torch.zeros(slots, 1, 1, length, dtype=dtype)
        inputs = torch.zeros(slots, 1, dtype=torch.long)
        hidden, critic_hidden = model.hidden_states(inputs, mask, positions[:, None], caches[0], caches[-1])
        draw(model.project(hidden[:, -1]), torch.zeros(slots, dtype=torch.float64), SamplingSettings())
        model.value(critic_hidden[:, -1])
    held = {"weights": sum(map(_bytes, model.parameters())), "cache": cached}
    return Peak(held, max(0, memory.peak - sum(held.values())))


@contextmanager
def _fake(
    config: PretrainedConfig, critic: CriticKind, vocab_size: int, dtype: torch.dtype, lora: LoRASettings | None = None
) -> Iterator[LanguageModelWithCritic]:
    """The model on tensors without data, and a mode in which every new tensor is one."""
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if lora is None:
            model = LanguageModelWithCritic(policy, critic, vocab_size)
        else:
            model = LanguageModelWithLoRA(policy, critic, vocab_size, settings=lora)
    with FakeTensorMode(allow_non_fake_inputs=True):
        # Built on "meta" and then moved: fake tensors cannot be deep-copied, and autocast does not know "meta".
        model.to_empty(device="cpu")
        model.policy.tie_weights()
        yield model


def _pass(module: _Module, batch: _FullBatch) -> None:
    out = module._forward_train(batch)
    (out[Columns.ACTION_LOGP].sum() + out[Columns.VF_PREDS].sum()).backward()


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None


def _gathered(model: LanguageModelWithCritic) -> int:
    """Bytes of the root, which stays, and of three times the largest block: two of them, and one's gradients."""
    names = block_names(model.config)
    blocks = [block for block in model.modules() if type(block).__name__ in names]
    sizes = [sum(map(_bytes, block.parameters())) for block in blocks]
    own = [*model.policy.parameters(), *model.value_head.parameters()]
    of_blocks = {id(parameter) for block in blocks for parameter in block.parameters()}
    return sum(_bytes(parameter) for parameter in own if id(parameter) not in of_blocks) + 3 * max(sizes)


class _Module(LanguageModelRLModule):
    """The learner's forward pass around a model that is there."""

    def __init__(self, model: LanguageModelWithCritic, dtype: torch.dtype, gradient_checkpointing: bool) -> None:
        torch.nn.Module.__init__(self)
        self.model, self.dtype, self.temperature = model, dtype, 1.0
        self.autocast = dtype != torch.float32
        if gradient_checkpointing:
            model.checkpoint_gradients()
        self.train()


@dataclass(slots=True)
class _FullBatch:
    """Sequences that are all as long as they may be."""

    sequences: int
    length: int
    prompt: int
    columns: dict[str, Tensor] = field(default_factory=dict)
    entropy_gradient: bool = False
    actions: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.actions = torch.zeros(len(self), dtype=torch.long)

    def __len__(self) -> int:
        return self.sequences * (self.length - self.prompt)

    def response_states(self, model: LanguageModelWithCritic) -> ResponseStates:
        hidden, critic = model.hidden_states(torch.zeros(self.sequences, self.length, dtype=torch.long))
        chosen = slice(self.prompt - 1, self.length - 1)
        return ResponseStates(hidden[:, chosen].flatten(0, 1), critic[:, chosen].flatten(0, 1), critic[:, -1])


class PeakMemory(TorchDispatchMode):
    """Adds up the bytes of all storages that are alive while it is entered.

    Args:
        present: Tensors that are there already.

    Attributes:
        peak: The most there were.
    """

    def __init__(self, present: list[Any]) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        for tensor in present:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def gone(_: Any) -> None:
            self._now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, gone)
        self._now += size
        self.peak = max(self.peak, self._now)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize
