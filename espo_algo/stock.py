"""The failure detector under stock RLlib algorithms: PPO, IMPALA and APPO as they come.

- :func:`configure_stock`: sets everything below on an algorithm's configuration.
- :class:`SignalsToEnv`: hands the wrapper regret and value of each sampled token.
- :class:`TokenPolicyModule`: a language model as these algorithms want their module.
- :class:`StopShares`: metrics of how episodes ended.

They step the wrapped environment token by token, without a cache: a full forward pass a token, and whole observations
in the episodes. That is for comparing algorithms on small models; language models are trained with
:class:`~espo_algo.espo.ESPO`. Statistics and tolerance of the detector adapt, see :mod:`espo_algo.stock_adaptation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.impala.impala import IMPALAConfig
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis.target_network_api import TARGET_NETWORK_ACTION_DIST_INPUTS, TargetNetworkAPI
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from espo_algo.config import ESPOConfig
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.environment import make_registered
from espo_algo.schema import CriticKind
from espo_algo.stock_adaptation import AdaptStock, EarlyStoppingCarrier, KeepEpisodes
from espo_env.early_stopping import (
    CriticWarmup,
    EarlyStoppingState,
    StatisticsStart,
    ToleranceController,
    step_regret,
)
from espo_env.types import StopReason
from espo_env.wrappers import RegretTermination

__all__ = ["SignalsToEnv", "StopShares", "TokenPolicyModule", "configure_stock"]

Config = TypeVar("Config", bound=AlgorithmConfig)

_ENV_NAME = "espo_env/RegretTermination"


def configure_stock(
    config: Config,
    env: str,
    *,
    model: str | Path,
    critic: CriticKind = "shared",
    env_config: Mapping[str, Any] | None = None,
    state: EarlyStoppingState | None = None,
    **early_stopping: Any,
) -> Config:
    """Lets a stock algorithm train a language model on a token environment with early stopping.

    Args:
        config: Of PPO, IMPALA or APPO; changed and given back. Its environment, module, callbacks and connectors
            between the two are set.
        env: Gymnasium id of a token environment.
        model: Hugging Face folder or hub name of a decoder-only causal language model.
        critic: ``"shared"`` or ``"separate"``.
        env_config: The environment's keyword arguments.
        state: What early stopping starts from and adapts by. None: statistics and ``beta`` as given below, stopping on
            from the beginning, the paper's controller.
        early_stopping: Those of :class:`~espo_env.RegretTermination`; ``rule="never"`` for the plain algorithm.

    Raises:
        TypeError: If the algorithm is none of these; the wrapper needs a policy's logits and a state-value function.
        ValueError: If an argument of the wrapper is out of its range.

    Example::

        config = configure_stock(
            PPOConfig(), "espo_env/Arithmetic-v0", model="path/to/model", env_config={"max_new_tokens": 32}, beta=1.5
        )
        algo = config.env_runners(num_env_runners=2, num_envs_per_env_runner=32).build_algo()
    """
    if isinstance(config, ESPOConfig) or not isinstance(config, PPOConfig | IMPALAConfig):
        raise TypeError(f"expected the configuration of PPO, IMPALA or APPO, got {type(config).__name__}")
    made = {"id": env, "env_config": dict(env_config or {}), "early_stopping": early_stopping}
    with _make_env(made) as example:
        spaces = {"observation_space": example.observation_space, "action_space": example.unwrapped.action_space}
        detector = example.get_wrapper_attr("detector")
    made["detector_settings"] = detector.settings
    if state is None:
        given = detector.state
        start: StatisticsStart = "zero_one" if "statistics" in early_stopping else "first_batch"
        warmup = CriticWarmup(done=given.enabled)
        state = EarlyStoppingState(given.statistics, ToleranceController(given.beta), warmup, start)
    config.environment(
        _ENV_NAME,
        env_config=made,
        # Else RLlib's own piece would put the bare token in the place of the signals.
        normalize_actions=False,
        clip_actions=False,
    )
    config.env_runners(env_to_module_connector=partial(_carry_state, state), module_to_env_connector=_signals_to_env)
    config.rl_module(
        rl_module_spec=RLModuleSpec(TokenPolicyModule, model_config={"model": str(model), "critic": critic}, **spaces)
    )
    config.callbacks([StopShares, AdaptStock])
    return config


def _make_env(made: Mapping[str, Any]) -> KeepEpisodes:
    env = make_registered(made["id"], made["env_config"])
    return KeepEpisodes(RegretTermination(env, **made["early_stopping"]))


def _carry_state(state: EarlyStoppingState, env: Any = None, spaces: Any = None, device: Any = None) -> ConnectorV2:
    return EarlyStoppingCarrier(state, env)


def _signals_to_env(env: Any = None, spaces: Any = None) -> ConnectorV2:
    return SignalsToEnv()


tune.register_env(_ENV_NAME, _make_env)


class SignalsToEnv(ConnectorV2):
    """Turns tokens into ``{"token", "regret", "value"}`` for the environment; episodes keep the tokens."""

    def __call__(self, *, rl_module: Any, batch: dict[str, Any], episodes: Any, **kwargs: Any) -> dict[str, Any]:
        """Adds ``Columns.ACTIONS_FOR_ENV``; each column maps episodes to a list of one item."""
        tokens = batch[Columns.ACTIONS]
        (logits, values) = (
            [batch[name][key][0] for key in tokens] for name in (Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS)
        )
        regrets = step_regret(np.stack(logits), np.array([token for (token,) in tokens.values()]))
        batch[Columns.ACTIONS_FOR_ENV] = {
            key: [{"token": np.int64(token), "regret": np.float32(regret), "value": np.float32(value)}]
            for (key, (token,)), regret, value in zip(tokens.items(), regrets, values, strict=True)
        }
        return batch


class TokenPolicyModule(TorchRLModule, TargetNetworkAPI, ValueFunctionAPI):
    """Next-token logits and value of an observation.

    ``model_config`` keys: ``model`` (folder or hub name) and ``critic``.
    """

    def setup(self) -> None:
        """Builds the model; RLlib calls it once."""
        self.model = LanguageModelWithCritic.from_pretrained(
            self.model_config["model"], self.model_config["critic"], vocab_size=int(self.action_space.n)
        )

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        policy, critic = _last_hidden(self.model, batch)
        return {Columns.ACTION_DIST_INPUTS: self.model.project(policy), Columns.VF_PREDS: self.model.value(critic)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        policy, critic = _last_hidden(self.model, batch)
        return {Columns.ACTION_DIST_INPUTS: self.model.project(policy), Columns.EMBEDDINGS: critic}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Values, shape (B,)."""
        return self.model.value(_last_hidden(self.model, batch)[1] if embeddings is None else embeddings)

    def make_target_networks(self) -> None:
        """Copies the model as the target network, which APPO asks for."""
        self.target_model = make_target_network(self.model)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """The model with its target network, which APPO asks for."""
        return [(self.model, self.target_model)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The target network's logits, which APPO asks for."""
        policy, _ = _last_hidden(self.target_model, batch)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.target_model.project(policy)}


def _last_hidden(model: LanguageModelWithCritic, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    observation = batch[Columns.OBS]
    return model.last_hidden(observation["tokens"], observation["length"])


class StopShares(RLlibCallback):
    """Logs ``stop_reason/{eos,length,regret}``: shares of the episodes."""

    def on_episode_end(self, *, episode: Any, metrics_logger: Any = None, **kwargs: Any) -> None:
        """Logs how the episode ended; RLlib calls this."""
        reason = episode.get_infos(-1)["stop_reason"]
        for each in (StopReason.EOS, StopReason.LENGTH, StopReason.REGRET):
            metrics_logger.log_value(("stop_reason", str(each)), float(reason is each), reduce="mean", window=100)
