"""Checks of a configuration before anything is started.

- :func:`check_values`: each value by itself, against the schema (``espo_algo/schema``).
- :func:`check_inherited`, :func:`check_settings`: values against each other.
- :func:`check_model`: that the model is within reach; :func:`check_task`: the task against the model.

Every complaint names what was expected, what came, and the section of the configuration that mends it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from huggingface_hub import HfApi, try_to_load_from_cache
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from espo_algo.learning.advantages import get_advantage_estimator
from espo_algo.learning.lora import check_lora
from espo_algo.learning.model import check_keys_and_values
from espo_algo.learning.optimizers import check_8bit
from espo_algo.learning.sharding import block_names
from espo_algo.model_folder import check_model_folder
from espo_algo.rollout.engines import EngineKind, get_engine
from espo_algo.rollout.environment import make_vector_env
from espo_algo.schema import COMMAND_LINE, FIELDS, SECTIONS, UNREAD, WITHOUT_FIELD, check_sections, section_keys
from espo_env.token_mdp import TokenMDP

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["check_inherited", "check_model", "check_settings", "check_task", "check_values"]


_HUB_TIMEOUT_S = 5
_PROBLEMS_TRIED = 16


def check_values(config: ESPOConfig) -> None:
    """Each keyword's value by itself; those of ``evaluation_config`` when the evaluation's configuration is checked.

    Raises:
        ValueError: With a line for each wrong value: the keyword, what was expected, what came.
    """
    given = {
        section: {
            key: getattr(config, FIELDS.get((section, key), key))
            for key in section_keys(section)
            if (section, key) not in WITHOUT_FIELD
        }
        for section in SECTIONS
        if section not in COMMAND_LINE
    }
    check_sections(given, ".{}({})")


def check_inherited(config: ESPOConfig) -> None:
    """RLlib's own settings, before RLlib checks them: those that nothing reads, and those that count responses here.

    Raises:
        ValueError: As :func:`check_settings`.
    """
    _check_unread(config)
    if not config.use_kl_loss:
        defaults = PPOConfig()
        for name in ("kl_coeff", "kl_target"):
            if (got := getattr(config, name)) != getattr(defaults, name):
                _refuse(config, f"expected .training(use_kl_loss=True) beside {name}={got}, got False")
    if config.minibatch_size and config.minibatch_size > config.train_batch_size_per_learner:
        _refuse(
            config,
            f"expected .training(minibatch_size) of at most train_batch_size_per_learner responses "
            f"({config.train_batch_size_per_learner}), got {config.minibatch_size}",
        )


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
            _refuse(config, f"{what}{error}")
    _check_engine(config, get_engine(config.engine))
    _check_sharding(config)
    _check_ahead(config)
    _check_carried(config)
    if config.moments == "8bit":
        check_8bit()
    _check_batch(config)
    if config.env_config.get("max_new_tokens", config.max_new_tokens) != config.max_new_tokens:
        _refuse(
            config,
            f"expected one horizon, got .generation(max_new_tokens={config.max_new_tokens}) and "
            f"env_config['max_new_tokens']={config.env_config['max_new_tokens']}",
        )
    if config.model_name is None:
        _refuse(config, "expected .language_model(model=folder or hub name), got None")


def check_model(config: ESPOConfig) -> None:
    """Checks that the model is here, or that the hub has it, with one question to the hub that waits for seconds.

    Raises:
        ValueError: If it is not.
    """
    name = str(config.model_name)
    if Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # of the hub, of HTTP, of the network
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"expected .language_model(model) as a folder that exists or a hub name, got {name!r}: there is no such "
            f"folder, and the hub was asked in vain ({type(error).__name__}: {reason})"
        ) from error


def check_task(config: ESPOConfig) -> TokenMDP:
    """Builds the environment and checks it against the model. ``ESPO`` calls it before any actor starts.

    Returns:
        The environment's task and horizon.

    Raises:
        ImportError: If the engine is not installed, or not in a version that is supported; if peft is missing for LoRA.
        ValueError: If the model is not within reach, or the environment cannot be made; if the engine does not support
            the architecture; if it has no layers by the names that LoRA is to adapt; if the tokenizer cannot express
            the task's text, the model lacks tokens of it, or prompt and response do not fit its context.
    """
    check_model(config)
    model = config.pretrained_config
    # The name of the class that the model is loaded as.
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model.model_type, model.model_type)
    get_engine(config.engine).check_requirements(architecture, config.weight_transfer)
    try:
        mdp: TokenMDP = make_vector_env(config).unwrapped.mdp
        for index in range(min(_PROBLEMS_TRIED, mdp.task.num_problems(mdp.split))):
            with contextlib.suppress(LookupError):  # a problem that is broken by itself is counted in training
                mdp.pose(index)
    except (gym.error.Error, OSError, TypeError, ValueError) as error:
        raise ValueError(f".environment(env={config.env!r}, env_config={config.env_config}): {error}") from error
    if mdp.vocab_size > model.vocab_size:
        _refuse(
            config,
            f"expected a model with at least the tokenizer's {mdp.vocab_size} tokens, "
            f"got {config.model_name!r} with {model.vocab_size}",
        )
    context = getattr(model, "max_position_embeddings", None)
    if context is not None and mdp.max_length > context:
        _refuse(
            config,
            f"expected prompts and responses of at most {context} tokens (the context of {config.model_name!r}), got "
            f"prompts of up to {mdp.task.max_prompt_tokens} and .generation(max_new_tokens={mdp.max_new_tokens})",
        )
    if config.lora_settings is not None:
        try:
            check_lora(config.lora_settings, model)
        except ValueError as error:
            _refuse(config, f".language_model(lora): target_modules: {error}")
    if config.sharding:
        try:
            block_names(model)
        except ValueError as error:
            _refuse(config, f".language_model(sharding={config.sharding!r}): {error}")
    if config.share_prompts:
        try:
            check_keys_and_values(model, mdp.max_length)
        except ValueError as error:
            _refuse(config, f".training(share_prompts=True): {error}")
    return mdp


def _check_unread(config: ESPOConfig) -> None:
    defaults = PPOConfig()
    for section, names in UNREAD.items():
        for name, instead in names.items():
            field = FIELDS.get((section, name), name)
            got, default = getattr(config, field), getattr(defaults, field)
            by_rllib = config.in_evaluation and name in ("rollout_fragment_length", "batch_mode")
            if got != default and not by_rllib:
                hint = f"; {instead}" if instead else ""
                what = f".{section}({name})"
                _refuse(config, f"expected {what} left at {default!r}, which nothing here reads, got {got!r}{hint}")


def _check_engine(config: ESPOConfig, kind: EngineKind) -> None:
    if config.engine_options and not kind.takes_options:
        _refuse(
            config,
            f"expected .generation(engine_options) with an engine that takes options, got {config.engine_options!r} "
            f"with engine={config.engine!r}",
        )
    backend = config.weight_transfer
    if backend is not None and backend not in kind.weight_transfers:
        _refuse(
            config,
            f"expected .generation(weight_transfer) None or out of {list(kind.weight_transfers)} with "
            f"engine={config.engine!r}, got {backend!r}",
        )
    if kind.needs_process and not config.num_env_runners and (config.evaluation_interval or not config.in_evaluation):
        where = "evaluation(evaluation_num" if config.in_evaluation else "env_runners(num"
        _refuse(
            config,
            f"expected .{where}_env_runners) >= 1 with engine={config.engine!r}, which takes over its process, got 0",
        )
    gpus = config.num_gpus_per_env_runner
    if kind.needs_gpu and not gpus:
        _refuse(config, f"expected .env_runners(num_gpus_per_env_runner) > 0 with engine={config.engine!r}, got 0")
    limits = {"gpu_memory_utilization", "kv_cache_memory_bytes"}
    if kind.owns_gpus and 0 < gpus < 1 and not limits & config.engine_options.keys():
        _refuse(
            config,
            f"expected .generation(engine_options) with one of {sorted(limits)} where a runner has a part of a GPU "
            f"(num_gpus_per_env_runner={gpus}): by default the engine takes nearly all of its memory",
        )
    if backend == "ipc" and not config.in_evaluation:
        engines = (config.num_env_runners + config.evaluation_num_env_runners) * config.workers_per_env_runner
        if not (config.num_gpus_per_learner and gpus and config.num_learners >= engines):
            _refuse(
                config,
                f"expected a learner on every GPU that has an engine with weight_transfer='ipc', got "
                f"{config.num_learners} learners with num_gpus_per_learner={config.num_gpus_per_learner} for {engines} "
                f"workers of engines with num_gpus_per_env_runner={gpus}",
            )


def _check_sharding(config: ESPOConfig) -> None:
    if config.sharding is None:
        return
    if config.num_learners < 2:
        _refuse(
            config,
            f"expected .learners(num_learners) >= 2 with .language_model(sharding={config.sharding!r}), which shares "
            f"the weights out among learners, got {config.num_learners}",
        )
    if config.moments != "float32":
        _refuse(
            config,
            f"expected .training(moments='float32') with .language_model(sharding='fsdp'), whose moments are dealt out "
            f"like the weights, got {config.moments!r}",
        )
    if config.share_prompts:
        _refuse(
            config,
            "expected .training(share_prompts=False) with .language_model(sharding='fsdp'), whose learners have to "
            "make equal numbers of passes, got True",
        )
    if config.torch_ddp_kwargs:
        _refuse(
            config,
            f"expected .framework(torch_ddp_kwargs) left empty with .language_model(sharding='fsdp'), which uses no "
            f"DDP, got {config.torch_ddp_kwargs}",
        )


def _check_ahead(config: ESPOConfig) -> None:
    if not config.batches_ahead or config.in_evaluation:
        return
    beside = f"with .env_runners(batches_ahead={config.batches_ahead})"
    if not config.num_env_runners:
        _refuse(
            config,
            f"expected .env_runners(num_env_runners) >= 1 {beside}, which write while this process learns, got 0",
        )
    _check_cap(config, f"{beside}, whose responses are written by weights one update older")
    if config.dynamic_sampling_rounds:
        _refuse(
            config,
            f"expected .generation(dynamic_sampling_rounds=0) {beside}: what further rounds sample is known when a "
            f"batch is there, and would keep the learners waiting, got {config.dynamic_sampling_rounds}",
        )


def _check_cap(config: ESPOConfig, older: str) -> None:
    if config.importance_weight_cap is None:
        _refuse(
            config,
            f"expected .training(importance_weight_cap), such as 2, {older} than those that learn from them, got None",
        )


def _check_carried(config: ESPOConfig) -> None:
    if "unfinished_fraction" in (config.evaluation_config or {}):
        _refuse(
            config,
            "expected .env_runners(unfinished_fraction) for training alone, got it in .evaluation(evaluation_config): "
            "an evaluation waits for all of its responses",
        )
    if not config.unfinished_fraction or config.in_evaluation:
        return
    beside = f"with .env_runners(unfinished_fraction={config.unfinished_fraction})"
    if not get_engine(config.engine).carries:
        _refuse(
            config,
            f"expected an engine that carries responses on, such as .generation(engine='torch'), {beside}, got "
            f"{config.engine!r}",
        )
    if config.engine_options.get("async_scheduling"):
        _refuse(
            config,
            f"expected .generation(engine_options) without async_scheduling {beside}: a response may be over a step "
            "before vLLM knows",
        )
    _check_cap(config, f"{beside}, whose tokens are written by weights that are older")
    whole = "whose batches are not made of whole groups of responses to a prompt"
    if config.advantage_estimator == "group":
        _refuse(config, f"expected .training(advantage_estimator='gae') {beside}, {whole}, got 'group'")
    if config.pilots:
        _refuse(config, f"expected .early_stopping(pilots=0) {beside}, {whole}, got {config.pilots}")
    if rounds := config.dynamic_sampling_rounds:
        _refuse(config, f"expected .generation(dynamic_sampling_rounds=0) {beside}, {whole}, got {rounds}")


def _check_batch(config: ESPOConfig) -> None:
    if config.clip_param_high is not None and config.clip_param_high < config.clip_param:
        _refuse(
            config,
            f"expected .training(clip_param_high) of at least clip_param ({config.clip_param}) or None, got "
            f"{config.clip_param_high}",
        )
    if config.dynamic_sampling_rounds and config.rollouts_per_prompt < 2:
        _refuse(
            config,
            f"expected .generation(rollouts_per_prompt) >= 2 with dynamic_sampling_rounds="
            f"{config.dynamic_sampling_rounds}: one response has no spread, got {config.rollouts_per_prompt}",
        )
    if config.pilots >= config.rollouts_per_prompt:
        _refuse(
            config,
            f"expected .early_stopping(pilots) in [0, rollouts_per_prompt={config.rollouts_per_prompt}), "
            f"got {config.pilots}",
        )
    if config.stop_credit == "audited" and config.pilots:
        _refuse(
            config,
            f"expected .early_stopping(pilots=0) with stop_credit='audited', whose responses run on with one "
            f"probability, got {config.pilots}",
        )
    if config.controller == "false_positive_rate" and not config.shadow_fraction:
        _refuse(
            config,
            "expected .early_stopping(shadow_fraction) > 0 with controller='false_positive_rate', which learns from "
            "responses that run on, got 0",
        )
    prompts, rest = divmod(config.total_train_batch_size, config.rollouts_per_prompt)
    if rest:
        _refuse(
            config,
            f"expected a train batch that .generation(rollouts_per_prompt={config.rollouts_per_prompt}) divides, "
            f"got {config.total_train_batch_size} responses",
        )
    if prompts < config.num_learners:
        _refuse(
            config,
            f"expected at least one prompt a batch for each of {config.num_learners} learners (responses to a prompt "
            f"stay together), got {prompts}: raise .training(train_batch_size_per_learner)",
        )
    if not config.in_evaluation and (config.top_p, config.top_k, config.greedy) != (1.0, 0, False):
        _refuse(
            config,
            f"expected top_p 1, top_k 0 and greedy False in training (they bias PPO's ratio; put them into "
            f".evaluation(evaluation_config=...)), got {config.top_p}, {config.top_k} and {config.greedy}",
        )
    if config.stop_credit != "reward" and config.advantage_estimator == "group":
        _refuse(
            config,
            f"expected .early_stopping(stop_credit='reward') with advantage_estimator='group', which asks no critic, "
            f"got {config.stop_credit!r}",
        )
    if config.share_prompts and config.gradient_checkpointing:
        _refuse(
            config,
            "expected .language_model(gradient_checkpointing=False) with .training(share_prompts=True), got True: "
            "recomputing a layer would leave out the prompts' keys and values",
        )
    per_learner = config.train_batch_size_per_learner
    steps = config.num_epochs * -(-per_learner // (config.minibatch_size or per_learner))
    if config.use_kl_loss and steps == 1:
        _refuse(
            config,
            f"expected several optimiser steps an iteration with .training(use_kl_loss=True), got one (num_epochs="
            f"{config.num_epochs}, minibatch_size={config.minibatch_size} of {per_learner}): before its step the "
            f"policy is the one that sampled, so the KL is 0 and its coefficient would halve for ever",
        )


def _refuse(config: Any, message: str) -> None:
    config._value_error(message)
