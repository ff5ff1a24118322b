"""The vector wrapper around Gymnasium's own environments, in every mode."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from letter_task import LetterTask, same

from espo_env import RegretStatistics, RegretTermination, StopReason, TokenGenerationEnv, VectorRegretTermination

MODES = list(AutoresetMode)
N = 3
ENVS = {
    "cart": functools.partial(gym.make, "CartPole-v1", max_episode_steps=12),
    "lake": functools.partial(gym.make, "FrozenLake-v1", is_slippery=False),
    "token": functools.partial(TokenGenerationEnv, LetterTask(), max_new_tokens=5),
}
WRAPPER = {"beta": 0.4, "statistics": RegretStatistics(0.2, 0.5), "fail_reward": -3.0}
FAIL = {"token": np.array([0, 0]), "regret": np.float32([50, 0]), "value": np.float32([0, 1])}
GO_ON = {"token": np.array([0, 0]), "regret": np.zeros(2, np.float32), "value": np.ones(2, np.float32)}


def vector(kind, make, mode, count=N):
    return (AsyncVectorEnv if kind == "async" else SyncVectorEnv)([make] * count, autoreset_mode=mode)


def draw_actions(rng, num_tokens):
    return {
        "token": rng.integers(num_tokens, size=N),
        "regret": rng.exponential(0.8, size=N).astype(np.float32),
        "value": rng.uniform(-0.5, 1.0, size=N).astype(np.float32),
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "kind"), [("cart", "sync"), ("lake", "sync"), ("lake", "async")])
def test_each_slot_behaves_like_a_wrapped_environment(name, kind, mode):
    make = ENVS[name]
    got = VectorRegretTermination(vector(kind, make, mode), **WRAPPER)
    expected = vector("sync", lambda: RegretTermination(make(), **WRAPPER), mode)
    assert got.action_space == expected.action_space
    rng, stops = np.random.default_rng(0), 0
    same(got.reset(seed=1), expected.reset(seed=1))
    for _ in range(60):
        actions = draw_actions(rng, 2)
        left, right = got.step(actions), expected.step(actions)
        same(left, right)
        stops += np.sum(left[1] == -3.0)
        over = left[2] | left[3]
        if mode is AutoresetMode.DISABLED and over.any():
            same(*(env.reset(options={"reset_mask": over.copy()}) for env in (got, expected)))
    assert stops > 10
    got.close()


@pytest.mark.parametrize("mode", MODES)
def test_slots_that_write_tokens_do_too(mode):
    make = ENVS["token"]
    got = VectorRegretTermination(vector("sync", make, mode), **WRAPPER)
    expected = VectorRegretTermination(make().vectorize(N, mode), **WRAPPER)
    same(got.reset(seed=1), expected.reset(seed=1))
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = draw_actions(rng, 4)
        left, right = got.step(actions), expected.step(actions)
        same(left, right)
        over = left[2] | left[3]
        if mode is AutoresetMode.DISABLED and over.any():
            same(*(env.reset(options={"reset_mask": over.copy()}) for env in (got, expected)))


def test_gymnasiums_batched_cart_poles():
    env = VectorRegretTermination(gym.make_vec("CartPole-v1", 2, "vector_entry_point"), **WRAPPER)
    env.reset(seed=0)
    _, rewards, terminations, _, infos = env.step(FAIL)
    assert rewards.tolist() == [-3.0, 1.0]
    assert terminations.tolist() == [True, False]
    assert infos["stop_reason"].tolist() == [StopReason.REGRET, None]
    observations, rewards, terminations, _, infos = env.step(GO_ON)
    assert np.abs(observations[0]).max() <= 0.05  # a new episode
    assert np.abs(observations[1]).max() > 0.1  # two pushes to the left
    assert rewards.tolist() == [0.0, 1.0]
    assert not terminations.any()
    assert infos["_z"].tolist() == [False, True]
    *_, infos = env.step(GO_ON)
    assert infos["_z"].tolist() == [True, True]
    with pytest.raises(ValueError, match=r"expected a CartPoleVectorEnv \(put other wrappers outside\), got <Record"):
        VectorRegretTermination(gym.wrappers.vector.RecordEpisodeStatistics(env.unwrapped))


def test_a_plain_action_of_any_environment_with_a_callable():
    def signals(observations, actions):
        return np.where(actions == 1, 50.0, 0.0)[:, None], np.zeros((2, 1))  # as libraries keep scalars

    env = VectorRegretTermination(vector("sync", ENVS["cart"], AutoresetMode.NEXT_STEP, 2), signals=signals, beta=0.5)
    assert env.action_space == gym.spaces.MultiDiscrete([2, 2])
    env.reset(seed=0)
    assert env.step(np.array([0, 1]))[1].tolist() == [1.0, -1.0]


def test_a_slot_that_is_only_reset_may_be_given_any_action():
    env = VectorRegretTermination(vector("sync", ENVS["lake"], AutoresetMode.NEXT_STEP, 2), **WRAPPER)
    env.reset(seed=0)
    env.step(FAIL)
    observations, *_ = env.step({**GO_ON, "token": np.array([99, 2])})
    assert observations.tolist() == [0, 1]


def test_without_autoreset_a_stopped_slot_has_to_be_reset():
    env = VectorRegretTermination(vector("sync", ENVS["cart"], AutoresetMode.DISABLED, 2), **WRAPPER)
    with pytest.raises(ResetNeeded, match=r"no running episode in slots \[0, 1\]"):
        env.step(FAIL)
    env.reset(seed=0)
    env.step(FAIL)
    with pytest.raises(ResetNeeded, match=r"no running episode in slots \[0\]"):
        env.step(GO_ON)
    env.reset(options={"reset_mask": np.array([True, False])})
    env.step(GO_ON)


def test_wrappers_may_lie_between():
    env = gym.wrappers.vector.TransformReward(
        vector("sync", ENVS["cart"], AutoresetMode.NEXT_STEP, 2), lambda rewards: 10 * rewards
    )
    env = VectorRegretTermination(env, **WRAPPER)
    env.reset(seed=0)
    assert env.step(FAIL)[1].tolist() == [-3.0, 10.0]


@pytest.mark.parametrize("length", [3, 100])
def test_records_are_the_episodes_that_were_stepped_to_their_end(length):
    make, records = functools.partial(ENVS["lake"], max_episode_steps=length), []
    env = VectorRegretTermination(vector("sync", make, AutoresetMode.SAME_STEP, 2), **WRAPPER)
    env.listen(records.append)
    env.reset(seed=0)
    for _ in range(length - 1):
        env.step({**GO_ON, "token": np.array([3, 0])})  # against the walls: nothing happens
    assert [len(env.trajectory(slot)) for slot in range(2)] == [length - 1] * 2
    env.step({**GO_ON, "token": np.array([3, 0]), "regret": np.float32([0.5, 0])})
    if length == 3:
        first, second = records
        assert (first.stop_reason, first.truncated, first.mark, first.reward) == (StopReason.LENGTH, True, -1, 0.0)
        assert second.response_tokens.tolist() == [0, 0, 0]
        assert first.regrets.tolist() == [0.0, 0.0, 0.5]
        assert first.values.tolist() == [1.0, 1.0, 1.0]
        del records[:]
        env.step(FAIL)
        (stopped,) = records
        assert (stopped.stop_reason, stopped.mark, stopped.reward) == (StopReason.REGRET, 0, -3.0)
        assert stopped.z[0] > stopped.thresholds[0]


class Deaf(VectorEnv):
    """Resets everything, whatever it is asked."""

    num_envs = 2
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_action_space = gym.spaces.Discrete(2)
    single_observation_space = gym.spaces.Box(0, 1, (1,))
    observation_space = batch_space(single_observation_space, 2)
    action_space = batch_space(single_action_space, 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, actions):
        return self.observation_space.sample(), np.ones(2), np.zeros(2, bool), np.zeros(2, bool), {}


def test_environments_that_cannot_reset_a_slot_are_found_out():
    env = VectorRegretTermination(Deaf(), **WRAPPER)
    env.reset()
    env.step(FAIL)
    with pytest.raises(RuntimeError, match=r"resets the slots of options\['reset_mask'\] and no other"):
        env.step(GO_ON)


def test_environments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="with a Discrete action space, got Box"):
        VectorRegretTermination(gym.make_vec("Pendulum-v1", 2))
    env = AsyncVectorEnv([ENVS["cart"]], shared_memory=False)
    with pytest.raises(ValueError, match="expected an AsyncVectorEnv with shared_memory=True"):
        VectorRegretTermination(env)
    env.close()
    env = Deaf()
    env.metadata = {}
    with pytest.raises(ValueError, match=r"expected a vector environment with metadata\['autoreset_mode'\], got None"):
        VectorRegretTermination(env)
