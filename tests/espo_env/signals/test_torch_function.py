from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch

from espo_env import RegretTermination, VectorRegretTermination
from espo_env.signals import QSignals, TorchSignals

LOGITS = torch.tensor([[1.0, 3.0, 0.5], [2.0, 2.0, -1.0]])
VALUES = torch.tensor([[0.25], [-0.5]])


def test_regret_and_value_by_hand():
    signals = TorchSignals(lambda observations: (LOGITS, VALUES))
    regrets, values = signals(np.zeros((2, 4)), np.array([0, 1]))
    assert regrets.tolist() == [2.0, 0.0]
    assert values.tolist() == [0.25, -0.5]
    signals = TorchSignals(lambda observations: (LOGITS[:1], VALUES[0]))
    assert signals(np.zeros(4), np.int64(2)) == (2.5, 0.25)


def test_of_q_values_the_regret_is_the_gap_and_the_value_the_best():
    signals = QSignals(lambda observations: LOGITS)
    regrets, values = signals(np.zeros((2, 4)), [2, 2])
    assert regrets.tolist() == [2.5, 3.0]
    assert values.tolist() == [3.0, 2.0]


@pytest.mark.parametrize("observation", [3, np.int64(3), np.float32([1, 2]), {"a": np.float32([1, 2]), "b": 3}, (3, 4)])
def test_observations_of_any_space_get_an_axis_in_front(observation):
    seen = []

    def function(observations):
        seen.append(observations)
        return LOGITS[:1], VALUES[:1]

    TorchSignals(function)(observation, 0)
    (got,) = seen
    parts = got.values() if isinstance(got, dict) else got if isinstance(got, tuple) else [got]
    for part in parts:
        assert part.shape[0] == 1
        assert part.ndim <= 2


def test_nothing_is_differentiated():
    head = torch.nn.Linear(4, 3)
    signals = TorchSignals(lambda observations: ((out := head(observations)), out[:, 0]))
    regret, value = signals(np.ones(4, np.float32), 0)
    assert isinstance(regret, float)
    assert isinstance(value, float)


def test_copies_ask_the_same_policy():
    signals = TorchSignals(lambda observations: (LOGITS, VALUES))
    assert copy.deepcopy({"signals": signals})["signals"] is signals


def test_one_environment_and_many_are_given_the_same():
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 3)
    signals = TorchSignals(lambda observations: ((out := head(observations))[:, :2], out[:, 2]))
    one = RegretTermination(gym.make("CartPole-v1"), signals=signals)
    many = VectorRegretTermination(gym.make_vec("CartPole-v1", 2, "sync"), signals=signals)
    one.reset(seed=1)
    many.reset(seed=0)
    for action in (0, 1, 1):
        info, infos = one.step(action)[-1], many.step(np.array([1 - action, action]))[-1]
        for name in ("regret", "value", "z", "threshold"):
            assert infos[name][1] == pytest.approx(info[name], rel=1e-5)
