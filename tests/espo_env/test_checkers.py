"""What the environment checkers of Gymnasium, Stable-Baselines3, TorchRL and RLlib say of every registered id."""

from __future__ import annotations

import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from ray.rllib.env.multi_agent_env import make_multi_agent
from ray.rllib.utils.pre_checks.env import check_multiagent_environments
from registered_envs import WITH_TASK, options

from espo_env import RegretTermination

EVERY_ID = [*WITH_TASK, "espo_env/TokenGeneration-v0"]


def make(env_id, **extra):
    own = {"task": "coin_task:CoinTask", "max_new_tokens": 9} if "TokenGeneration" in env_id else options(env_id)
    return gym.make(env_id, **own, **extra)


def confident(observation, action):
    return 0.0, 1.0


FORMS = {
    "bare": make,
    "wrapped": lambda env_id: RegretTermination(make(env_id)),
    "wrapped with signals": lambda env_id: RegretTermination(make(env_id), signals=confident),
    "made with signals": lambda env_id: make(env_id, signals=confident),
}


def stable_baselines(env):
    from stable_baselines3.common.env_checker import check_env

    if not isinstance(env.action_space, gym.spaces.Dict):
        return check_env(env)
    with pytest.warns(UserWarning, match="not supported by Stable Baselines 3"):
        return check_env(env)


def gymnasium(env):
    if env is env.unwrapped or not isinstance(env, RegretTermination):
        return check_gymnasium(env.unwrapped)
    with pytest.warns(UserWarning, match="different from the unwrapped version"):
        return check_gymnasium(env, skip_render_check=True)


def torchrl(env):
    from torchrl.envs import GymWrapper, check_env_specs

    check_env_specs(GymWrapper(env))


def rllib(env):
    check_multiagent_environments(make_multi_agent(lambda config: env)({"num_agents": 1}))


@pytest.mark.parametrize("check", [stable_baselines, gymnasium, torchrl, rllib])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("env_id", EVERY_ID)
def test_a_checker_has_nothing_to_say(env_id, form, check):
    if check in (stable_baselines, torchrl):
        pytest.importorskip("stable_baselines3" if check is stable_baselines else "torchrl")
    env = FORMS[form](env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check(env)


@pytest.mark.parametrize("check", [stable_baselines, torchrl, rllib])
def test_nor_of_an_environment_of_gymnasiums(check):
    for signals in (None, confident):
        check(RegretTermination(gym.make("CartPole-v1"), signals=signals))
