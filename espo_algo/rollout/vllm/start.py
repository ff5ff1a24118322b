"""The start of vLLM.

- :func:`start_vllm`: vLLM's own engine, with a model that has a critic.

vLLM is imported when it is started, which takes seconds.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from espo_algo.learning.model import LanguageModelWithCritic, cached_bytes
from espo_algo.rollout.engine import EngineSettings
from espo_algo.rollout.vllm.support import check_vllm

__all__ = ["start_vllm"]

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # scheduler in this process: no serialising, no second import of torch
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the runner that GPUs and CPUs share
}
_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
_CPU_BLOCK = 128
"""Tokens in a block of vLLM's cache on the CPU."""
_OWN_OPTIONS = {
    "model", "runner", "dtype", "load_format", "skip_tokenizer_init", "max_model_len", "max_num_seqs",
    "tensor_parallel_size", "speculative_config", "worker_extension_cls", "additional_config",
    "generation_config", "logits_processors", "weight_transfer_config",
}  # fmt: skip


def start_vllm(model: LanguageModelWithCritic, settings: EngineSettings, max_length: int) -> Any:
    """Starts vLLM's ``LLMEngine``, in this process; its weights are random.

    Args:
        model: What vLLM's model is to be like.
        settings: Slots, workers, weight transfer, and further fields of ``EngineArgs``.
        max_length: Within the model's context.

    Raises:
        ImportError: As :func:`~espo_algo.rollout.vllm.support.check_vllm`.
        ValueError: As there; if options are among those set here; or if vLLM does not start with them.
    """
    options = dict(settings.options)
    if taken := _OWN_OPTIONS & options.keys():
        raise ValueError(f"expected options of vLLM's that the engine does not set itself, got {sorted(taken)}")
    architecture = type(model.policy).__name__
    check_vllm(architecture, settings.weight_transfer)
    os.environ.update(_ENVIRONMENT)
    for name, setting in _QUIET.items():
        os.environ.setdefault(name, setting)
    from vllm import EngineArgs, LLMEngine, envs
    from vllm.config import WeightTransferConfig
    from vllm.platforms import current_platform

    from espo_algo.rollout.vllm.worker import ARCHITECTURES, EarlyStoppingWorker, on_cpu, sampler_bytes

    if on_cpu():
        if options.pop("enable_sleep_mode", False):
            logger.warning("vLLM on the CPU does not give memory back: enable_sleep_mode has no effect")
        options.setdefault("enforce_eager", True)
        options.setdefault("kv_cache_memory_bytes", _cache_bytes(model, settings.num_slots, max_length))
    elif "kv_cache_memory_bytes" not in options:
        # vLLM gives its cache what the model leaves free; the sampler's buffers come after that.
        total = current_platform.get_device_total_memory()
        share = options.get("gpu_memory_utilization", EngineArgs.gpu_memory_utilization)
        options["gpu_memory_utilization"] = share - sampler_bytes(settings, max_length, model.vocab_size) / total
    options.setdefault("async_scheduling", False)  # with it every slot is refilled a step late
    if settings.num_workers > 1:
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
        max_num_seqs=settings.num_slots,
        tensor_parallel_size=settings.num_workers,
        worker_extension_cls=f"{EarlyStoppingWorker.__module__}.{EarlyStoppingWorker.__name__}",
        additional_config={"critic": "shared" if model.critic_trunk is None else "separate"},
        weight_transfer_config=settings.weight_transfer and WeightTransferConfig(backend=settings.weight_transfer),
        disable_log_stats=True,
        **options,
    )
    try:
        return LLMEngine.from_engine_args(arguments)
    except (ValueError, MemoryError, RuntimeError) as error:
        raise ValueError(
            f"expected vLLM to start with {architecture}, {settings.num_slots} slots of up to {max_length} tokens and "
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
    trunks = 1 if model.critic_trunk is None else 2
    a_token = trunks * cached_bytes(model.config, model.policy.dtype)
    blocks_a_slot = -(-max_length // _CPU_BLOCK)
    return (num_slots * blocks_a_slot + 1) * _CPU_BLOCK * a_token
