"""What a configuration would run, without running it.

- :func:`describe`: batch, memory and actors as text.
"""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from espo_algo.cluster import actor_groups
from espo_algo.commands.config_file import RunOptions
from espo_algo.config import ESPOConfig
from espo_algo.evaluation.report import format_table
from espo_algo.learning.model import cached_bytes
from espo_env.token_mdp import TokenMDP

__all__ = ["describe"]

_FLOAT32 = 4


def describe(config: ESPOConfig, run: RunOptions) -> str:
    """Checks a valid configuration against its task and model, and says what it would run.

    Returns:
        Responses and tokens an iteration, memory of each process, actors. Memory is that of weights, gradients,
        optimiser and cache; activations, and what libraries keep, come on top.

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
        format_table(["process", "memory of", "GB"], _memory(config, mdp, parameters)),
        "",
        "actors: " + ("; ".join(map(str, groups)) if groups else "none, everything runs in one process"),
        f"output: {run.output}",
    ]
    return "\n".join(lines)


def _num_parameters(config: ESPOConfig) -> int:
    """Parameters of policy and critic together, tied ones once."""
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(config.pretrained_config)
    trunk = policy.base_model.num_parameters() if config.critic == "separate" else 0
    return policy.num_parameters() + trunk + policy.config.hidden_size + 1


def _cache_bytes(config: ESPOConfig, mdp: TokenMDP) -> int:
    """Keys and values of all slots of a runner at their full length, the critic's own included."""
    trunks = 2 if config.critic == "separate" else 1
    a_token = trunks * cached_bytes(config.pretrained_config, getattr(torch, config.dtype))
    return config.num_envs_per_env_runner * mdp.max_length * a_token


def _memory(config: ESPOConfig, mdp: TokenMDP, parameters: int) -> list[list[str]]:
    runner = "each env runner" if config.num_env_runners else "this one (as env runner)"
    learner = "each learner" if config.num_learners else "this one (as learner)"
    width = getattr(torch, config.dtype).itemsize
    rows = [
        (runner, f"weights, {config.dtype}", parameters * width),
        (runner, f"cache, {config.num_envs_per_env_runner} slots x {mdp.max_length} tokens", _cache_bytes(config, mdp)),
        (learner, "weights, float32", parameters * _FLOAT32),
        (learner, "gradients, float32", parameters * _FLOAT32),
        (learner, "AdamW's two moments, float32", 2 * parameters * _FLOAT32),
    ]
    if config.num_learners > 1:
        rows.append((learner, "DDP's buckets, float32", parameters * _FLOAT32))
    return [[process, what, f"{size / 1e9:.3g}"] for process, what, size in rows]
