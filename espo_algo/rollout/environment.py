"""The environment of a configuration.

- :func:`make_vector_env`: the token environment with a slot for each of the engine's, wrapped for early stopping.
- :func:`make_registered`: a registered environment by its id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from ray.rllib.env.env_context import EnvContext
from ray.tune.registry import ENV_CREATOR, _global_registry

from espo_env.token_env import TokenGenerationEnv
from espo_env.token_vector_env import TokenGenerationVectorEnv
from espo_env.wrappers import VectorRegretTermination

__all__ = ["make_registered", "make_vector_env"]


def make_vector_env(config: Any, worker_index: int = 0) -> VectorRegretTermination:
    """The configured environment with ``num_envs_per_env_runner`` slots, wrapped for early stopping.

    ``config.env`` is a Gymnasium id, a name registered with ``tune.register_env``, or a class or function that takes an
    ``EnvContext``. It must give a token environment or its vector form. A single environment is vectorised; further
    wrappers around it step token by token and are left out here, because responses are played whole.

    Raises:
        TypeError: If it gives something else.
    """
    slots, kwargs = config.num_envs_per_env_runner, config.token_env_config
    if isinstance(config.env, str) and not _global_registry.contains(ENV_CREATOR, config.env):
        create: Callable[[EnvContext], Any] = partial(make_registered, config.env)
    else:
        create = _global_registry.get(ENV_CREATOR, config.env) if isinstance(config.env, str) else config.env
    env = create(EnvContext(kwargs, worker_index=worker_index))
    if isinstance(env, gym.Env) and isinstance(env.unwrapped, TokenGenerationEnv):
        # Views, not copies: the engine is given prompts, nobody keeps observations.
        env = env.unwrapped.vectorize(slots, AutoresetMode.DISABLED, copy=False)
    if not isinstance(env, TokenGenerationVectorEnv):
        raise TypeError(f"expected a token environment (espo_env.TokenGenerationEnv or its vector form), got {env!r}")
    return VectorRegretTermination(env, fail_reward=config.stop_reward, rule=config.rule)


def make_registered(env_id: str, context: Mapping[str, Any]) -> gym.Env:
    """Makes a registered environment, without Gymnasium's checks in every step.

    Raises:
        TypeError: If it does not take these keyword arguments.
    """
    try:
        return gym.make(env_id, disable_env_checker=True, **context)
    except TypeError as error:
        raise TypeError(
            f"expected {env_id!r} to be a token environment that takes {sorted(context)}: {error}"
        ) from error
