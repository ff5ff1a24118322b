"""Settings of a configuration against each other, before anything is started.

- :func:`check_settings`: all of it that needs nothing built; :func:`refuse`: how a complaint is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from espo_algo.learning.advantages import get_advantage_estimator
from espo_algo.learning.optimizers import check_8bit
from espo_algo.model_folder import check_model_folder
from espo_algo.rollout.engines import EngineKind, get_engine

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["check_settings", "refuse"]


def check_settings(config: ESPOConfig) -> None:
    """Checks everything that can be checked without building anything.

    Raises:
        ImportError: If bitsandbytes is missing for moments in 8 bits.
        ValueError: Naming what was expected, what came, and the section that mends it.
    """
    for what, look in (
        (".generation(engine): ", lambda: get_engine(config.engine)),
        (".training(advantage_estimator): ", lambda: get_advantage_estimator(config.advantage_estimator)),
        (".language_model(model): ", lambda: check_model_folder(config.model_name)),
        ("", lambda: (config.sampling, config.early_stopping_state, config.detector_settings, config.credit_settings)),
    ):
        try:
            look()
        except ValueError as error:
            refuse(config, f"{what}{error}")
    _check_engine(config, get_engine(config.engine))
    _check_sharding(config)
    _check_ahead(config)
    _check_carried(config)
    if config.moments == "8bit":
        check_8bit()
    _check_batch(config)
    if config.env_config.get("max_new_tokens", config.max_new_tokens) != config.max_new_tokens:
        refuse(
            config,
            f"expected one horizon, got .generation(max_new_tokens={config.max_new_tokens}) and "
            f"env_config['max_new_tokens']={config.env_config['max_new_tokens']}",
        )
    if config.model_name is None:
        refuse(config, "expected .language_model(model=folder or hub name), got None")


def _check_engine(config: ESPOConfig, kind: EngineKind) -> None:
    if config.engine_options and not kind.takes_options:
        refuse(
            config,
            f"expected .generation(engine_options) with an engine that takes options, got {config.engine_options!r} "
            f"with engine={config.engine!r}",
        )
    backend = config.weight_transfer
    if backend is not None and backend not in kind.weight_transfers:
        refuse(
            config,
            f"expected .generation(weight_transfer) None or out of {list(kind.weight_transfers)} with "
            f"engine={config.engine!r}, got {backend!r}",
        )
    if kind.needs_process and not config.num_env_runners and (config.evaluation_interval or not config.in_evaluation):
        where = "evaluation(evaluation_num" if config.in_evaluation else "env_runners(num"
        refuse(
            config,
            f"expected .{where}_env_runners) >= 1 with engine={config.engine!r}, which takes over its process, got 0",
        )
    gpus = config.num_gpus_per_env_runner
    if kind.needs_gpu and not gpus:
        refuse(config, f"expected .env_runners(num_gpus_per_env_runner) > 0 with engine={config.engine!r}, got 0")
    limits = {"gpu_memory_utilization", "kv_cache_memory_bytes"}
    if kind.owns_gpus and 0 < gpus < 1 and not limits & config.engine_options.keys():
        refuse(
            config,
            f"expected .generation(engine_options) with one of {sorted(limits)} where a runner has a part of a GPU "
            f"(num_gpus_per_env_runner={gpus}): by default the engine takes nearly all of its memory",
        )
    if backend == "ipc" and not config.in_evaluation:
        engines = (config.num_env_runners + config.evaluation_num_env_runners) * config.workers_per_env_runner
        if not (config.num_gpus_per_learner and gpus and config.num_learners >= engines):
            refuse(
                config,
                f"expected a learner on every GPU that has an engine with weight_transfer='ipc', got "
                f"{config.num_learners} learners with num_gpus_per_learner={config.num_gpus_per_learner} for {engines} "
                f"workers of engines with num_gpus_per_env_runner={gpus}",
            )


def _check_sharding(config: ESPOConfig) -> None:
    if config.sharding is None:
        return
    if config.num_learners < 2:
        refuse(
            config,
            f"expected .learners(num_learners) >= 2 with .language_model(sharding={config.sharding!r}), which shares "
            f"the weights out among learners, got {config.num_learners}",
        )
    if config.moments != "float32":
        refuse(
            config,
            f"expected .training(moments='float32') with .language_model(sharding='fsdp'), whose moments are dealt out "
            f"like the weights, got {config.moments!r}",
        )
    if config.share_prompts:
        refuse(
            config,
            "expected .training(share_prompts=False) with .language_model(sharding='fsdp'), whose learners have to "
            "make equal numbers of passes, got True",
        )
    if config.torch_ddp_kwargs:
        refuse(
            config,
            f"expected .framework(torch_ddp_kwargs) left empty with .language_model(sharding='fsdp'), which uses no "
            f"DDP, got {config.torch_ddp_kwargs}",
        )


def _check_ahead(config: ESPOConfig) -> None:
    if not config.batches_ahead or config.in_evaluation:
        return
    beside = f"with .env_runners(batches_ahead={config.batches_ahead})"
    if not config.num_env_runners:
        refuse(
            config,
            f"expected .env_runners(num_env_runners) >= 1 {beside}, which write while this process learns, got 0",
        )
    _check_cap(config, f"{beside}, whose responses are written by weights one update older")
    if config.dynamic_sampling_rounds:
        refuse(
            config,
            f"expected .generation(dynamic_sampling_rounds=0) {beside}: what further rounds sample is known when a "
            f"batch is there, and would keep the learners waiting, got {config.dynamic_sampling_rounds}",
        )


def _check_cap(config: ESPOConfig, older: str) -> None:
    if config.importance_weight_cap is None:
        refuse(
            config,
            f"expected .training(importance_weight_cap), such as 2, {older} than those that learn from them, got None",
        )


def _check_carried(config: ESPOConfig) -> None:
    if "unfinished_fraction" in (config.evaluation_config or {}):
        refuse(
            config,
            "expected .env_runners(unfinished_fraction) for training alone, got it in .evaluation(evaluation_config): "
            "an evaluation waits for all of its responses",
        )
    if not config.unfinished_fraction or config.in_evaluation:
        return
    beside = f"with .env_runners(unfinished_fraction={config.unfinished_fraction})"
    if not get_engine(config.engine).carries:
        refuse(
            config,
            f"expected an engine that carries responses on, such as .generation(engine='torch'), {beside}, got "
            f"{config.engine!r}",
        )
    if config.engine_options.get("async_scheduling"):
        refuse(
            config,
            f"expected .generation(engine_options) without async_scheduling {beside}: a response may be over a step "
            "before vLLM knows",
        )
    _check_cap(config, f"{beside}, whose tokens are written by weights that are older")
    whole = "whose batches are not made of whole groups of responses to a prompt"
    if config.advantage_estimator == "group":
        refuse(config, f"expected .training(advantage_estimator='gae') {beside}, {whole}, got 'group'")
    if config.pilots:
        refuse(config, f"expected .early_stopping(pilots=0) {beside}, {whole}, got {config.pilots}")
    if rounds := config.dynamic_sampling_rounds:
        refuse(config, f"expected .generation(dynamic_sampling_rounds=0) {beside}, {whole}, got {rounds}")


def _check_batch(config: ESPOConfig) -> None:
    if config.clip_param_high is not None and config.clip_param_high < config.clip_param:
        refuse(
            config,
            f"expected .training(clip_param_high) of at least clip_param ({config.clip_param}) or None, got "
            f"{config.clip_param_high}",
        )
    if config.dynamic_sampling_rounds and config.rollouts_per_prompt < 2:
        refuse(
            config,
            f"expected .generation(rollouts_per_prompt) >= 2 with dynamic_sampling_rounds="
            f"{config.dynamic_sampling_rounds}: one response has no spread, got {config.rollouts_per_prompt}",
        )
    if config.pilots >= config.rollouts_per_prompt:
        refuse(
            config,
            f"expected .early_stopping(pilots) in [0, rollouts_per_prompt={config.rollouts_per_prompt}), "
            f"got {config.pilots}",
        )
    if config.stop_credit == "audited" and config.pilots:
        refuse(
            config,
            f"expected .early_stopping(pilots=0) with stop_credit='audited', whose responses run on with one "
            f"probability, got {config.pilots}",
        )
    if config.controller == "false_positive_rate" and not config.shadow_fraction:
        refuse(
            config,
            "expected .early_stopping(shadow_fraction) > 0 with controller='false_positive_rate', which learns from "
            "responses that run on, got 0",
        )
    prompts, rest = divmod(config.total_train_batch_size, config.rollouts_per_prompt)
    if rest:
        refuse(
            config,
            f"expected a train batch that .generation(rollouts_per_prompt={config.rollouts_per_prompt}) divides, "
            f"got {config.total_train_batch_size} responses",
        )
    if prompts < config.num_learners:
        refuse(
            config,
            f"expected at least one prompt a batch for each of {config.num_learners} learners (responses to a prompt "
            f"stay together), got {prompts}: raise .training(train_batch_size_per_learner)",
        )
    if not config.in_evaluation and (config.top_p, config.top_k, config.greedy) != (1.0, 0, False):
        refuse(
            config,
            f"expected top_p 1, top_k 0 and greedy False in training (they bias PPO's ratio; put them into "
            f".evaluation(evaluation_config=...)), got {config.top_p}, {config.top_k} and {config.greedy}",
        )
    if config.stop_credit != "reward" and config.advantage_estimator == "group":
        refuse(
            config,
            f"expected .early_stopping(stop_credit='reward') with advantage_estimator='group', which asks no critic, "
            f"got {config.stop_credit!r}",
        )
    if config.share_prompts and config.gradient_checkpointing:
        refuse(
            config,
            "expected .language_model(gradient_checkpointing=False) with .training(share_prompts=True), got True: "
            "recomputing a layer would leave out the prompts' keys and values",
        )
    per_learner = config.train_batch_size_per_learner
    steps = config.num_epochs * -(-per_learner // (config.minibatch_size or per_learner))
    if config.use_kl_loss and steps == 1:
        refuse(
            config,
            f"expected several optimiser steps an iteration with .training(use_kl_loss=True), got one (num_epochs="
            f"{config.num_epochs}, minibatch_size={config.minibatch_size} of {per_learner}): before its step the "
            f"policy is the one that sampled, so the KL is 0 and its coefficient would halve for ever",
        )


def refuse(config: Any, message: str) -> None:
    """Raises a ValueError, in the words of RLlib's configurations."""
    config._value_error(message)
