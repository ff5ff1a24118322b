from __future__ import annotations

import pytest
from hand_made import make_episode

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
