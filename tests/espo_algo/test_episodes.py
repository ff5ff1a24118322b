from __future__ import annotations

import numpy as np
import pytest
from hand_made import make_episode
from ray.rllib.core.columns import Columns

from espo_algo import ESPOConfig
from espo_env.types import StopReason


@pytest.mark.parametrize(
    ("reason", "truncated", "terminated", "trainable"),
    [
        (StopReason.EOS, False, True, True),
        (StopReason.REGRET, False, True, True),
        (StopReason.LENGTH, False, True, True),
        (StopReason.LENGTH, True, False, True),
        (StopReason.ABORT, True, False, False),
        (StopReason.ERROR, True, False, False),
    ],
)
def test_which_responses_are_terminal_and_which_are_learned_from(
    reason: StopReason, truncated: bool, terminated: bool, trainable: bool
) -> None:
    episode = make_episode([5, 0], reason, truncated=truncated)
    assert (episode.terminated, episode.is_trainable) == (terminated, trainable)


def test_nothing_is_learned_from_an_empty_response() -> None:
    assert not make_episode([]).is_trainable


def test_steps_and_return() -> None:
    episode = make_episode([5, 6, 0], reward=0.5)
    assert (len(episode), episode.env_steps(), episode.agent_steps(), episode.get_return()) == (3, 3, 3, 0.5)


@pytest.mark.parametrize("truncated", [False, True])
def test_rllib_accepts_the_same_episode(config: ESPOConfig, truncated: bool) -> None:
    mdp = config.check_task()
    episode = make_episode(
        [5, 6, 0],
        StopReason.LENGTH,
        prompt=[1, 2],
        reward=-1.0,
        truncated=truncated,
        logprobs=[-1.0, -2.0, -3.0],
        regrets=[0.0, 0.5, 0.25],
        values=[0.1, 0.2, 0.3],
        request_id=7,
    )
    single = episode.to_single_agent_episode(mdp.observation_space(), mdp.action_space())
    single.validate()
    assert len(single) == 3
    assert single.id_ == "7"
    assert (single.is_terminated, single.is_truncated) == (not truncated, truncated)
    assert list(single.get_actions()) == [5, 6, 0]
    assert single.get_rewards() == [0.0, 0.0, -1.0]
    observations = single.get_observations()
    assert [int(o["length"]) for o in observations] == [2, 3, 4, 5]
    assert all(mdp.observation_space().contains(o) for o in observations)
    assert observations[0]["tokens"][:6].tolist() == [1, 2, 0, 0, 0, 0]
    assert observations[-1]["tokens"][:6].tolist() == [1, 2, 5, 6, 0, 0]
    for name, column in ((Columns.ACTION_LOGP, "logprobs"), ("regret", "regrets"), (Columns.VF_PREDS, "values")):
        np.testing.assert_array_equal(single.get_extra_model_outputs(name), getattr(episode, column))
    assert single.get_infos(-1) == {"stop_reason": StopReason.LENGTH}


def test_columns_that_nobody_measured_stay_away(config: ESPOConfig) -> None:
    mdp = config.check_task()
    single = make_episode([5, 0]).to_single_agent_episode(mdp.observation_space(), mdp.action_space())
    single.validate()
    assert not single.extra_model_outputs
