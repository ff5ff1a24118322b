"""What a configuration would run, without running it.

- :func:`describe`: batch, memory and actors as text.
- :func:`runner_memory`, :func:`learner_memory`: what takes memory in an env runner, and in a learner.
"""

from __future__ import annotations

import resource

import torch
from transformers import AutoModelForCausalLM

from espo_algo.cluster import actor_groups
from espo_algo.commands.config_file import RunOptions
from espo_algo.config import ESPOConfig
from espo_algo.evaluation.report import format_table
from espo_algo.memory import decode_peak, update_peak
from espo_algo.rollout.engines import get_engine
from espo_algo.weight_sync.packing import PIECE_BYTES
from espo_env.token_mdp import TokenMDP

__all__ = ["describe", "learner_memory", "runner_memory"]


def describe(config: ESPOConfig, run: RunOptions) -> str:
    """Checks a valid configuration against its task and model, and says what it would run.

    Returns:
        Responses and tokens an iteration, peak memory of each process with all responses at full length (see
        :mod:`espo_algo.memory` for what is not in it), actors.

    Raises:
        ValueError: If it does not fit the task or model.
    """
    mdp = config.check_task()
    responses, horizon = config.total_train_batch_size, mdp.max_new_tokens
    prompt = mdp.task.max_prompt_tokens
    updates = config.num_epochs * -(-config.train_batch_size_per_learner // (config.minibatch_size or responses))
    parameters = _num_parameters(config)
    groups = actor_groups(config)
    lines = [
        f"{run.iterations} iterations of {responses} responses ({responses // config.rollouts_per_prompt} prompts, "
        f"{config.rollouts_per_prompt} responses each), {updates} optimiser steps each",
        f"tokens an iteration: at most {responses * horizon} written ({horizon} a response), "
        f"{responses * prompt} read ({prompt} a prompt)",
        f"model: {config.model_name}, {parameters / 1e6:.3g} million parameters, critic {config.critic!r} included",
        "",
        format_table(["process", "memory at its peak", "GB"], _memory(config, mdp, parameters)),
        "",
        "actors: " + ("; ".join(map(str, groups)) if groups else "none, everything runs in one process"),
        f"output: {run.output}",
    ]
    return "\n".join(lines)


def _memory(config: ESPOConfig, mdp: TokenMDP, parameters: int) -> list[list[str]]:
    """Rows of process, what takes memory, and how much; a sum for each process."""
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held: dict[str, dict[str, int]] = {}
    passing: dict[str, dict[str, int]] = {}
    for process, gpus, (kept, passes) in (
        (
            "each env runner" if config.num_env_runners else "this one",
            config.num_gpus_per_env_runner,
            runner_memory(config, mdp),
        ),
        (
            "each learner" if config.num_learners else "this one",
            config.num_gpus_per_learner,
            learner_memory(config, mdp),
        ),
    ):
        # On a GPU the memory is the GPU's, and the libraries' is not in it.
        held.setdefault(process, {} if gpus else {"Python and its libraries, as here": libraries}).update(kept)
        passing.setdefault(process, {}).update(passes)
    rows = []
    for process, kept in held.items():
        rows += [[process, what, _gigabytes(size)] for what, size in (kept | passing[process]).items()]
        peak = sum(kept.values()) + max(passing[process].values(), default=0)
        rows.append([process, "at most at the same time", _gigabytes(peak)])
    if config.num_env_runners:
        sent = parameters * getattr(torch, config.dtype).itemsize
        rows.append(["each node", f"object store: weights on their way, {config.dtype}", _gigabytes(sent)])
    return rows


def runner_memory(config: ESPOConfig, mdp: TokenMDP) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes in an env runner: what is held, and what passes, of which only the largest counts.

    Args:
        config: A valid configuration.
        mdp: Its task and horizon.
    """
    slots = config.num_envs_per_env_runner
    peak = decode_peak(
        config.pretrained_config,
        config.critic,
        mdp.vocab_size,
        getattr(torch, config.dtype),
        slots=slots,
        length=mdp.max_length,
        prompt=mdp.task.max_prompt_tokens,
    )
    held = {
        f"engine: weights, {config.dtype}": peak.held["weights"],
        f"engine: cache, {slots} slots x {mdp.max_length} tokens": peak.held["cache"],
    }
    if get_engine(config.engine).owns_gpus:
        return held, {}  # the rest is in the share of the GPU that the engine is told to take
    return held, {"engine: prompts, one decode step": peak.passing}


def learner_memory(config: ESPOConfig, mdp: TokenMDP) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes in a learner, as :func:`runner_memory`."""
    minibatch = config.minibatch_size or config.train_batch_size_per_learner
    sequences = min(minibatch, max(1, config.max_tokens_per_microbatch // mdp.max_length))
    dtype, sharded = getattr(torch, config.dtype), config.sharding is not None
    peak = update_peak(
        config.pretrained_config,
        config.critic,
        mdp.vocab_size,
        dtype,
        config.gradient_checkpointing,
        sequences=sequences,
        length=mdp.max_length,
        prompt=mdp.task.max_prompt_tokens,
        accumulates=sequences < minibatch,
        num_shards=config.num_learners if sharded else 1,
        lora=config.lora_settings,
        moments=config.moments,
    )
    held = {
        f"update: {what}" + ("" if "," in what else ", float32"): size  # some say themselves what they are in
        for what, size in peak.held.items()
    }
    if config.num_learners > 1 and not sharded:
        held["update: DDP's buckets, float32"] = peak.held["gradients"]
    passing = {f"update: activations, {sequences} sequences x {mdp.max_length} tokens": peak.passing}
    if config.num_gpus_per_learner:
        return held, passing
    if config.lora is not None:
        frozen = next(size for what, size in peak.held.items() if "frozen" in what)
        passing[f"weights to send: a piece, merged, {config.dtype}"] = min(PIECE_BYTES, frozen)
    elif config.num_env_runners and dtype != torch.float32 and not sharded:
        passing[f"weights to send, {config.dtype}"] = peak.held["weights"] // torch.float32.itemsize * dtype.itemsize
    return held, passing


def _num_parameters(config: ESPOConfig) -> int:
    """Parameters of policy and critic together, tied ones once."""
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(config.pretrained_config)
    trunk = policy.base_model.num_parameters() if config.critic == "separate" else 0
    return policy.num_parameters() + trunk + policy.config.hidden_size + 1


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g}"
