"""The runner that writes responses.

- :class:`ESPOEnvRunner`: a registered Gymnasium environment, an engine, and the policy's weights.
- :func:`make_vector_env`, :func:`make_registered`: the environment out of a configuration, or out of its id.

A runner keeps nothing from one call to the next but its weights: which problems to answer and with which seeds comes
from the algorithm, so a restarted runner has lost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from gymnasium.vector import AutoresetMode
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.tune.registry import ENV_CREATOR, _global_registry

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.rl_module import LanguageModelRLModule
from espo_algo.metrics import log_rollouts
from espo_algo.regret_control import RegretControl
from espo_algo.rollout.collect import ResponsePlan, collect
from espo_algo.rollout.engine import Engine
from espo_env.token_env import TokenGenerationEnv
from espo_env.token_vector_env import TokenGenerationVectorEnv
from espo_env.wrappers import VectorRegretTermination

__all__ = ["ESPOEnvRunner", "make_registered", "make_vector_env"]


class ESPOEnvRunner(EnvRunner, Checkpointable):
    """Answers problems with the current policy; RLlib's ``env_runner_cls``.

    With remote runners the algorithm's local one is a shell without environment, model and engine.

    Attributes:
        weights_version: The learner's number of the weights it has; -1 before the first.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self._spaces = kwargs.get("spaces")
        self.weights_version = -1
        self.module: LanguageModelRLModule | None = None
        self.engine: Engine | None = None
        if self.worker_index == 0 and self.num_workers > 0 and not config.create_env_on_local_worker:
            return
        self.make_env()
        self.make_module()

    def make_env(self) -> None:
        """Builds the environment from the registered id, with a slot for each engine slot."""
        self.env = make_vector_env(self.config, self.worker_index)

    def make_module(self) -> None:
        """Builds module and engine; weights arrive with the first ``set_state``."""
        config = self.config
        # vLLM has the GPUs to itself, and is given the module's weights.
        gpus = config.num_gpus_per_env_runner if self.worker_index and config.engine == "torch" else 0
        device = get_device(config, gpus)
        spec = config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build().to(device)
        self.engine = config.build_engine(self.module.model, self.env.unwrapped.mdp)

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        plans: list[ResponsePlan] | None = None,
        **kwargs: Any,
    ) -> list[TokenEpisode]:
        """Answers problems, and gives back a graded episode for each, lost ones included.

        Args:
            num_timesteps: RLlib's other unit: as many responses as would need that many tokens at full length.
            num_episodes: For evaluation: the first so many problems of the split (each as often as
                ``rollouts_per_prompt`` says), shared out over the evaluation runners.
            plans: For training: what to answer.
            kwargs: Not used; RLlib's signature.
        """
        if self.engine is None or self.module is None:
            raise RuntimeError(
                "expected a runner with an environment, got the local shell beside remote runners; for evaluation set "
                ".evaluation(evaluation_interval=...), which makes runners for it"
            )
        if plans is None:
            if num_episodes is None:
                num_episodes = -(-(num_timesteps or 1) // self.config.max_new_tokens)
            plans = self._evaluation_plans(num_episodes)
        self.engine.set_regret_state(self.module.regret_control.engine_state)
        episodes = collect(self.engine, self.env, plans)
        self.num_env_steps_sampled_lifetime += sum(len(e) for e in episodes)
        if self.config.in_evaluation:
            # In training the algorithm logs, over all runners' episodes at once.
            log_rollouts(self.metrics, episodes)
            self.metrics.log_value(WEIGHTS_SEQ_NO, self.weights_version, reduce="min", window=1)
        return episodes

    def _evaluation_plans(self, num_episodes: int) -> list[ResponsePlan]:
        config = self.config
        workers, first = max(self.num_workers, 1), max(self.worker_index - 1, 0)
        count = self.env.unwrapped.task.num_problems(self.env.unwrapped.mdp.split)
        numbers = first + workers * np.arange(num_episodes)
        mark = config.stops_in_evaluation == "mark"
        return [
            ResponsePlan(int(n) // config.rollouts_per_prompt % count, response_seed(self.config.seed, n), mark)
            for n in numbers
        ]

    def get_metrics(self) -> dict[str, Any]:
        """RLlib's statistics since the last call."""
        return self.metrics.reduce()

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """The environment's spaces, under the keys RLlib asks for."""
        if self.env is None:
            return self._spaces
        single = (self.env.single_observation_space, self.env.unwrapped.single_action_space)
        return {
            INPUT_ENV_SPACES: (self.env.observation_space, self.env.unwrapped.action_space),
            INPUT_ENV_SINGLE_SPACES: single,
            DEFAULT_MODULE_ID: single,
        }

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The version of the weights, and the weights if asked for by name: in a checkpoint the learner keeps them."""
        state: dict[str, Any] = {WEIGHTS_SEQ_NO: self.weights_version}
        named = components is not None and self._check_component(COMPONENT_RL_MODULE, components, not_components)
        if self.module is not None and named:
            state[COMPONENT_RL_MODULE] = self.module.get_state(inference_only=True)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over weights and regret state, always: whoever sends them knows why."""
        if self.module is None or self.engine is None or COMPONENT_RL_MODULE not in state:
            return
        weights = state[COMPONENT_RL_MODULE]
        weights = ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights
        self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
        self.weights_version = int(state.get(WEIGHTS_SEQ_NO, 0))
        self.engine.weights_changed(self.weights_version)

    def weights_transferred(self, control: RegretControl, version: int) -> None:
        """What is left of a sync after vLLM's weight transfer: the regret state and the version."""
        from espo_algo.rollout.vllm.engine import VLLMEngine

        if self.module is None or not isinstance(self.engine, VLLMEngine):
            raise RuntimeError(f"expected a vLLM engine, got {self.engine!r}")
        self.module.regret_control = control
        self.weights_version = version
        self.engine.weights_transferred(version)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """How a checkpoint builds the runner again."""
        return (), {"config": self.config}

    def assert_healthy(self) -> None:
        """Raises an AssertionError if the runner has no engine."""
        assert self.engine is not None or self.worker_index == 0

    def stop(self) -> None:
        """Frees engine and environment."""
        if self.engine is not None:
            self.engine.shutdown()
        if self.env is not None:
            self.env.close()


def response_seed(seed: int | None, number: int) -> int:
    """Sampling seed of the ``number``-th response of a run: it depends on no runner and no batch."""
    return int(np.random.SeedSequence((seed or 0, int(number))).generate_state(1, np.uint64)[0] >> 1)


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
    return VectorRegretTermination(env, fail_reward=config.fail_reward, rule=config.rule)


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
