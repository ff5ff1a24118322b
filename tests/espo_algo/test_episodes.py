from __future__ import annotations

import pickle

import pytest
from hand_made import make_episode, random_episodes

from espo_algo import TokenEpisode
from espo_algo.metrics import rollout_metrics
from espo_env.grading import Grade
from espo_env.types import TRACE_COLUMNS, StopReason


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


def measured(length: int) -> TokenEpisode:
    """With all its columns, and a grade."""
    (episode,) = random_episodes([length], seed=length)
    episode.z, episode.thresholds = episode.regrets * 0.3, episode.values + 2
    episode.correct, episode.grade = True, Grade(True, "7", "numbers are equal")
    return episode


def columns_of(episode: TokenEpisode) -> set[str]:
    return {name for name in TRACE_COLUMNS if len(getattr(episode, name))}


def test_metrics_are_the_same_when_the_columns_are_left_behind() -> None:
    episodes = [measured(length) for length in (1, 3, 40, 1000)]
    left = [episode.without_traces() for episode in episodes]
    assert not set().union(*map(columns_of, left))
    assert rollout_metrics(left) == rollout_metrics(episodes)  # to the last digit
    assert rollout_metrics(pickle.loads(pickle.dumps(left))) == rollout_metrics(episodes)
    # Left behind twice, the first summary stays.
    assert left[-1].without_traces().summary == episodes[-1].summarised()


def test_the_named_columns_come_along_and_the_episode_itself_is_not_changed() -> None:
    episode = measured(5)
    left = episode.without_traces(keep=("logprobs", "regrets"))
    assert columns_of(left) == {"logprobs", "regrets"}
    assert columns_of(episode) == {*TRACE_COLUMNS}
    assert left.regrets is episode.regrets
    assert (left.grade, left.problem, left.reward, left.group) == (
        episode.grade,
        episode.problem,
        episode.reward,
        episode.group,
    )


def test_eight_bytes_a_token_travel_to_a_learner() -> None:
    """Twenty-four did: every column, problem and grade, too."""

    def weight(length: int) -> int:
        columns: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(measured(length).to_learn(), protocol=5, buffer_callback=columns.append)
        return len(pickled) + sum(column.raw().nbytes for column in columns)

    assert (weight(3000) - weight(1000)) / 2000 == pytest.approx(8, abs=0.01)
