from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from espo_env import Adaptation, RegretTermination
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, step_regret
from espo_env.signals import AdaptInSB3, SB3QSignals, SB3Signals


class Keep(gym.Wrapper):
    """Keeps what the environment was asked, and what it was told about it."""

    def __init__(self, env):
        super().__init__(env)
        self.kept, self.last = [], None

    def reset(self, **kwargs):
        self.last, info = self.env.reset(**kwargs)
        return self.last, info

    def step(self, action):
        before = self.last
        self.last, *rest, info = self.env.step(action)
        self.kept.append((before, int(action), info["regret"], info["value"]))
        return self.last, *rest, info


def cart(signals, **options):
    return Keep(RegretTermination(gym.make("CartPole-v1"), signals=signals, **{"rule": "never"} | options))


def passes(policy):
    """Counts the forward passes of a policy's action head."""
    count = []
    policy.action_net.register_forward_hook(lambda *_: count.append(1))
    return count


def expected(policy, observation, action):
    with torch.no_grad():
        tensors, _ = policy.obs_to_tensor(observation)
        logits = policy.get_distribution(tensors).distribution.logits
        return step_regret(logits, torch.tensor([action])).item(), policy.predict_values(tensors).item()


def assert_own_signals(policy, env, normalise=lambda observation: observation):
    for observation, action, regret, value in env.kept:
        assert (regret, value) == pytest.approx(expected(policy, normalise(observation), action), abs=1e-5)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_a_rollout_needs_no_second_forward_pass(algorithm):
    signals = SB3Signals()
    venv = DummyVecEnv([lambda: cart(signals)] * 3)
    model = algorithm("MlpPolicy", venv, n_steps=8, learning_rate=0.0, seed=0, device="cpu")
    signals.attach(model)
    count = passes(model.policy)
    model.collect_rollouts(venv, model._setup_learn(24)[1], model.rollout_buffer, 8)
    assert len(count) == 8
    for env in venv.envs:
        assert len(env.kept) == 8
        assert any(regret > 0 for *_, regret, _ in env.kept)
        assert_own_signals(model.policy, env)


def test_what_lies_between_environment_and_policy_is_in_them():
    signals = SB3Signals()
    venv = VecNormalize(DummyVecEnv([lambda: cart(signals)] * 2), norm_obs=True, training=False)
    venv.obs_rms.mean[:], venv.obs_rms.var[:] = 0.5, 4.0
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=16, seed=0, device="cpu")
    signals.attach(model)
    model.collect_rollouts(venv, model._setup_learn(16)[1], model.rollout_buffer, 8)
    for env in venv.envs:
        assert_own_signals(model.policy, env, venv.normalize_obs)
    count, env = passes(model.policy), venv.envs[0]
    env.kept.clear()
    env.reset(seed=0)
    env.step(1)
    assert count
    assert_own_signals(model.policy, env, venv.normalize_obs)


def test_actions_that_the_policy_has_not_drawn_get_a_pass_of_their_own():
    signals = SB3Signals()
    env = cart(signals)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    signals.attach(model)
    evaluate_policy(model, env, n_eval_episodes=2, warn=False)
    assert_own_signals(model.policy, env)
    env.reset(seed=0)
    for _ in range(5):
        (drawn,), *_ = model.policy(model.policy.obs_to_tensor(env.last)[0])  # and another one is played
        env.step(1 - int(drawn))
    assert_own_signals(model.policy, env)


def test_dqn_is_asked_for_its_q_values():
    signals = SB3QSignals()
    env = cart(signals)
    model = DQN("MlpPolicy", env, seed=0, device="cpu", learning_starts=20)
    signals.attach(model)
    model.learn(20)
    assert any(regret > 0 for *_, regret, _ in env.kept)
    with torch.no_grad():
        for observation, action, regret, value in env.kept:
            (q_values,) = model.q_net(model.policy.obs_to_tensor(observation)[0]).numpy()
            assert (regret, value) == pytest.approx((q_values.max() - q_values[action], q_values.max()), abs=1e-6)


@pytest.mark.parametrize(("kind", "wrong"), [(SB3Signals, DQN), (SB3QSignals, PPO)])
def test_other_models_are_refused_and_a_missing_one_is_named(kind, wrong):
    signals = kind()
    env = cart(signals)
    with pytest.raises(TypeError, match=f"of Stable-Baselines3, got {wrong.__name__}"):
        signals.attach(wrong("MlpPolicy", env, device="cpu"))
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"expected attach\(model\) in the process of the environment"):
        env.step(0)
    assert copy.deepcopy(signals) is signals


def test_statistics_and_tolerance_move_between_rollouts():
    signals = SB3Signals()
    venv = DummyVecEnv([lambda: cart(signals, rule="regret_value", beta=3.0)] * 2)
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0, device="cpu")
    signals.attach(model)
    adaptation = Adaptation(*venv.envs, state=EarlyStoppingState(warmup=CriticWarmup(loss_threshold=1e9, patience=2)))
    seen, update = [], adaptation.update

    def watched(critic_loss, explained_variance):
        state = update(critic_loss, explained_variance)
        seen.append((critic_loss, explained_variance, state))
        return state

    adaptation.update = watched
    model.learn(4 * 128, callback=AdaptInSB3(adaptation))
    losses, explained, states = zip(*seen, strict=True)
    assert len(seen) == 3  # before each rollout but the first
    assert np.isfinite(losses).all()
    assert np.isfinite(explained).all()
    assert [state.warmup.done for state in states] == [False, True, True]
    assert states[2].tolerance.beta != 7.0
    for env in venv.envs:
        assert env.get_wrapper_attr("detector").state == adaptation.state.detector_state
