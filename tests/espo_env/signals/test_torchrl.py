from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from torch import nn

pytest.importorskip("torchrl")
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs import GymWrapper, SerialEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import ActorValueOperator, OneHotCategorical, ProbabilisticActor, ValueOperator

from espo_env import RegretTermination
from espo_env.early_stopping import step_regret
from espo_env.signals import ActionWithSignals, TorchRLSignals


def modules(action):
    torch.manual_seed(0)
    logits = TensorDictModule(nn.Linear(4, 2), in_keys=["observation"], out_keys=["logits"])
    return logits, ValueOperator(nn.Linear(4, 1), in_keys=["observation"])


def kept(env):
    """The signals that the environment has acted on, step by step."""
    signals = []
    step = env.step

    def watched(action):
        out = step(action)
        signals.append((out[-1]["regret"], out[-1]["value"]))
        return out

    env.step = watched
    return signals


@pytest.mark.parametrize("categorical", [False, True])
def test_an_action_carries_the_policys_own_signals(categorical):
    inner = RegretTermination(gym.make("CartPole-v1"), rule="never")
    signals = kept(inner)
    env = GymWrapper(inner, categorical_action_encoding=categorical)
    logits, critic = modules("token")
    distribution = torch.distributions.Categorical if categorical else OneHotCategorical
    actor = ProbabilisticActor(logits, in_keys=["logits"], out_keys=["token"], distribution_class=distribution)
    policy = TensorDictSequential(actor, critic, ActionWithSignals())
    with set_exploration_type(ExplorationType.RANDOM):
        rollout = env.rollout(8, policy)
    index = rollout["token"] if categorical else rollout["token"].argmax(-1)
    regrets = step_regret(rollout["logits"], index)
    torch.testing.assert_close(torch.tensor(signals), torch.stack([regrets, rollout["state_value"][:, 0]], 1))
    assert regrets.max() > 0
    assert not rollout["regret"].requires_grad


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_actor_critic_gives_the_signals_of_plain_actions(wrapped):
    logits, critic = modules("action")
    common = TensorDictModule(nn.Identity(), in_keys=["observation"], out_keys=["hidden"])
    actor = ProbabilisticActor(
        TensorDictModule(logits.module, in_keys=["hidden"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=OneHotCategorical,
    )
    actor_critic = ActorValueOperator(common, actor, ValueOperator(critic.module, in_keys=["hidden"]))
    inner = RegretTermination(gym.make("CartPole-v1"), rule="never", signals=TorchRLSignals(actor_critic))
    signals = kept(inner)
    rollout = GymWrapper(inner).rollout(8, actor_critic)
    regrets = step_regret(rollout["logits"], rollout["action"].argmax(-1))
    torch.testing.assert_close(torch.tensor(signals), torch.stack([regrets, rollout["state_value"][:, 0]], 1))


def test_many_environments_at_once():
    def make():
        return GymWrapper(RegretTermination(gym.make("CartPole-v1"), rule="never"), categorical_action_encoding=True)

    logits, critic = modules("token")
    actor = ProbabilisticActor(
        logits, in_keys=["logits"], out_keys=["token"], distribution_class=torch.distributions.Categorical
    )
    env = SerialEnv(3, make)
    with set_exploration_type(ExplorationType.RANDOM):
        rollout = env.rollout(8, TensorDictSequential(actor, critic, ActionWithSignals()))
    assert rollout["regret"].shape == (3, 8, 1)
    regrets = step_regret(rollout["logits"].reshape(-1, 2), rollout["token"].reshape(-1))
    torch.testing.assert_close(rollout["regret"].reshape(-1), regrets.detach())
    env.close()
