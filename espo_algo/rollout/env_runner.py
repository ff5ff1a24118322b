"""The runner that writes responses.

- :class:`ESPOEnvRunner`: an environment, an engine, and the policy's weights.

A runner keeps nothing from one call to the next but its weights: which problems to answer and with which seeds comes
from the algorithm, so a restarted runner has lost nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.rl_module import LanguageModelRLModule
from espo_algo.rollout.collect import collect
from espo_algo.rollout.engine import Engine
from espo_algo.rollout.engines import get_engine
from espo_algo.rollout.environment import make_vector_env
from espo_algo.rollout.partial import Answer
from espo_algo.rollout.plans import ResponsePlan, tokens_written
from espo_algo.weight_sync.packing import unpack_pieces
from espo_env.early_stopping import EarlyStoppingState

__all__ = ["ESPOEnvRunner"]


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
        engine = get_engine(config.engine)
        # An engine that has the GPUs to itself is given the module's weights.
        gpus = config.num_gpus_per_env_runner if self.worker_index and not engine.owns_gpus else 0
        device = get_device(config, gpus)
        spec = config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build().to(device)
        self.engine = engine.build(self.module.model, config.engine_settings(self.env.unwrapped.mdp))

    def sample(
        self,
        *,
        plans: Sequence[ResponsePlan] | None = None,
        traces: bool = True,
        enough: int | None = None,
        **kwargs: Any,
    ) -> list[Answer]:
        """Answers problems, and gives back a graded episode for each, lost ones included.

        Args:
            plans: What to answer: the algorithm plans, in training and evaluation alike.
            traces: Whether episodes have all their columns; else those alone that an update reads, in evaluation none.
            enough: How many have to be over, see :func:`~espo_algo.rollout.collect.stream`; of each of the others what
                there is of it comes back, with all columns, for any runner to carry on. None for all of them.
            kwargs: Not used; RLlib's signature.

        Raises:
            ValueError: If there are no plans: a number of episodes or time steps does not say what to answer.
            RuntimeError: If the runner has no environment.
        """
        if plans is None:
            raise ValueError(f"expected sample(plans=...), which ESPO gives its runners, got {sorted(kwargs)}")
        if self.engine is None or self.module is None:
            raise RuntimeError("expected a runner with an environment, got the local shell beside remote runners")
        self.engine.set_detector_state(self.module.early_stopping.detector_state)
        try:
            answers = collect(self.engine, self.env, plans, enough)
        finally:
            self.engine.rest()
        for answer in answers:
            if isinstance(answer, TokenEpisode):
                answer.runner = int(self.worker_index)
        self.num_env_steps_sampled_lifetime += tokens_written(plans, answers)
        if traces:
            return answers
        read: tuple[str, ...] = ()
        if not self.config.in_evaluation:
            read = ("logprobs", *self.module.early_stopping.columns_read(self.config.detector_settings))
        return [answer.without_traces(keep=read) if isinstance(answer, TokenEpisode) else answer for answer in answers]

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
        """Takes over weights and state of early stopping, also those of an older version, as after a restore."""
        if COMPONENT_RL_MODULE not in state:
            return
        weights = state[COMPONENT_RL_MODULE]
        weights = ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights
        self.take_weights([weights.get(DEFAULT_MODULE_ID, weights)], int(state.get(WEIGHTS_SEQ_NO, 0)))

    def take_weights(self, pieces: Iterable[dict[str, np.ndarray]], version: int) -> None:
        """Takes over weights and state of early stopping, one piece after the other.

        Args:
            pieces: See :func:`~espo_algo.weight_sync.packing.unpack_pieces`.
            version: Of the weights.
        """
        if self.module is None or self.engine is None:
            return
        unpack_pieces(self.module, pieces)
        self.weights_version = version
        self.engine.weights_changed(version)

    def weights_transferred(self, state: EarlyStoppingState, version: int) -> None:
        """Takes over the state of early stopping and the version, after a weight transfer has brought the weights.

        Raises:
            RuntimeError: If the engine is not vLLM's, which alone knows a weight transfer.
        """
        from espo_algo.rollout.vllm.engine import VLLMEngine

        if self.module is None or not isinstance(self.engine, VLLMEngine):
            raise RuntimeError(f"expected an engine of vLLM's, got {self.engine!r}")
        self.module.early_stopping = state
        self.weights_version = version
        self.engine.weights_transferred(version)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with which a checkpoint builds the runner again."""
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
