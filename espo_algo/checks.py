"""Checks of a configuration before anything is started.

- :func:`check_values`: each value by itself, against the schema (``espo_algo/schema``).
- :func:`check_inherited`: RLlib's own settings.
- :func:`check_model`: that the model is within reach; :func:`check_task`: the task against the model.

``combinations.py`` checks settings against each other. Every complaint names what was expected, what came, and the
section of the configuration that mends it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium as gym
from huggingface_hub import HfApi, try_to_load_from_cache
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from espo_algo.combinations import refuse
from espo_algo.learning.lora import check_lora
from espo_algo.learning.model import check_keys_and_values
from espo_algo.learning.sharding import block_names
from espo_algo.rollout.engines import get_engine
from espo_algo.rollout.environment import make_vector_env
from espo_algo.schema import COMMAND_LINE, FIELDS, SECTIONS, UNREAD, WITHOUT_FIELD, check_sections, section_keys
from espo_env.token_mdp import TokenMDP

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["check_inherited", "check_model", "check_task", "check_values"]

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
        ValueError: As :func:`~espo_algo.combinations.check_settings`.
    """
    _check_unread(config)
    if not config.use_kl_loss:
        defaults = PPOConfig()
        for name in ("kl_coeff", "kl_target"):
            if (got := getattr(config, name)) != getattr(defaults, name):
                refuse(config, f"expected .training(use_kl_loss=True) beside {name}={got}, got False")
    if config.minibatch_size and config.minibatch_size > config.train_batch_size_per_learner:
        refuse(
            config,
            f"expected .training(minibatch_size) of at most train_batch_size_per_learner responses "
            f"({config.train_batch_size_per_learner}), got {config.minibatch_size}",
        )


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
        refuse(
            config,
            f"expected a model with at least the tokenizer's {mdp.vocab_size} tokens, "
            f"got {config.model_name!r} with {model.vocab_size}",
        )
    context = getattr(model, "max_position_embeddings", None)
    if context is not None and mdp.max_length > context:
        refuse(
            config,
            f"expected prompts and responses of at most {context} tokens (the context of {config.model_name!r}), got "
            f"prompts of up to {mdp.task.max_prompt_tokens} and .generation(max_new_tokens={mdp.max_new_tokens})",
        )
    if config.lora_settings is not None:
        try:
            check_lora(config.lora_settings, model)
        except ValueError as error:
            refuse(config, f".language_model(lora): target_modules: {error}")
    if config.sharding:
        try:
            block_names(model)
        except ValueError as error:
            refuse(config, f".language_model(sharding={config.sharding!r}): {error}")
    if config.share_prompts:
        try:
            check_keys_and_values(model, mdp.max_length)
        except ValueError as error:
            refuse(config, f".training(share_prompts=True): {error}")
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
                refuse(config, f"expected {what} left at {default!r}, which nothing here reads, got {got!r}{hint}")
