from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from espo_env import Adaptation, RegretStatistics, RegretTermination, VectorRegretTermination
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, ToleranceController


def lake(**options):
    return RegretTermination(gym.make("FrozenLake-v1", max_episode_steps=2), **options)


def play(env, *regrets):
    env.reset(seed=0)
    for regret in regrets:
        env.step({"token": 0, "regret": regret, "value": 0.5})


def test_several_environments_share_one_state():
    left, right = lake(), gym.wrappers.RecordEpisodeStatistics(lake())
    state = EarlyStoppingState(
        tolerance=ToleranceController(beta=1.0, target=0.25), warmup=CriticWarmup(done=True), start="zero_one"
    )
    adaptation = Adaptation(left, right, state=state)
    assert left.detector.state == state.detector_state
    play(left, 1.0, 1.0)
    play(right, 50.0)  # z = 0.1 * 10, above 0.5: stopped
    assert adaptation.num_episodes == 2
    after = adaptation.update()
    assert after.statistics.mean == pytest.approx(0.01 * 52 / 3)
    assert after.tolerance.beta == pytest.approx(1.0 + 0.1 * (0.5 - 0.25))
    assert adaptation.stop_rate == 0.5
    for env in (left, right):
        assert env.get_wrapper_attr("detector").state == after.detector_state


def test_an_episode_counts_when_it_has_ended_and_nothing_changes_without_one():
    env = lake()
    adaptation = Adaptation(env)
    play(env, 1.0)
    assert adaptation.update() == EarlyStoppingState()
    play(env, 1.0, 2.0)
    assert adaptation.update().num_updates == 1
    assert adaptation.update().num_updates == 1


def test_without_a_critic_only_the_planned_updates_end_the_warm_up():
    env = lake()
    adaptation = Adaptation(env, state=EarlyStoppingState(warmup=CriticWarmup(total_steps=30)))
    enabled = []
    for _ in range(4):
        play(env, 1.0, 2.0)
        adaptation.update()
        enabled.append(env.detector.state.enabled)
    assert enabled == [False, False, True, True]


def test_a_vector_environment_moves_like_single_ones():
    vector = VectorRegretTermination(
        SyncVectorEnv(
            [lambda: gym.make("FrozenLake-v1", max_episode_steps=2)] * 2, autoreset_mode=AutoresetMode.SAME_STEP
        )
    )
    adaptation = Adaptation(vector)
    vector.reset(seed=0)
    for regret in (1.0, 3.0):
        vector.step({"token": np.zeros(2, int), "regret": np.float32([regret, 0]), "value": np.ones(2, np.float32)})
    assert adaptation.update().statistics == RegretStatistics(mean=1.0, var=1.5)
    assert vector.detector.state.statistics == RegretStatistics(mean=1.0, var=1.5)


def test_wrong_environments_are_named():
    with pytest.raises(ValueError, match="expected an environment, got none"):
        Adaptation()
    with pytest.raises(ValueError, match=r"expected an environment with RegretTermination or .*, got <TimeLimit"):
        Adaptation(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="expected one set of constants, got DetectorSettings"):
        Adaptation(lake(), lake(smoothing=0.5))
