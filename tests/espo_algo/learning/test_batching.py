from __future__ import annotations

import numpy as np
import pytest
from hand_made import make_episode, random_episodes
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_algo.learning.batching import MicroBatches, Minibatch, SequenceBatch, pack
from espo_algo.learning.training_data import WholeEpisodeTrainingData


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 120))
def test_pack_keeps_the_budget_and_every_sequence_once(lengths: list[int], budget: int) -> None:
    groups = pack(np.array(lengths), budget)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[i] for i in group)
        assert padded <= budget or len(group) == 1


def test_pack_fills_a_group_before_it_opens_the_next() -> None:
    groups = pack(np.array([3, 10, 4, 4]), 12)
    assert [group.tolist() for group in groups] == [[1], [2, 3, 0]]


def test_a_sequence_batch_lines_up_inputs_predictions_and_actions() -> None:
    first = make_episode([5, 6, 0], prompt=[1, 2])
    second = make_episode([7], prompt=[3, 4, 8, 9])
    batch = SequenceBatch.from_episodes(
        [first, second], "cpu", advantages=[np.float32([0.1, 0.2, 0.3]), np.float32([0.4])]
    )
    assert batch.input_ids.tolist() == [[1, 2, 5, 6, 0], [3, 4, 8, 9, 7]]
    # The last prompt token predicts the first response token; the last response token predicts nothing.
    assert batch.predicts.int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 0, 1, 0]]
    assert batch.last.tolist() == [4, 4]
    assert batch.actions.tolist() == [5, 6, 0, 7]
    np.testing.assert_array_equal(batch.columns["advantages"], np.float32([0.1, 0.2, 0.3, 0.4]))
    assert len(batch) == 4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 100))
def test_each_prediction_stands_one_before_its_action(lengths: list[int], seed: int) -> None:
    episodes = random_episodes(lengths, seed)
    batch = SequenceBatch.from_episodes(episodes, "cpu")
    rows, positions = batch.predicts.nonzero(as_tuple=True)
    assert batch.input_ids[rows, positions + 1].tolist() == batch.actions.tolist()
    assert batch.actions.tolist() == [token for episode in episodes for token in episode.response_tokens.tolist()]
    assert rows.tolist() == [row for row, length in enumerate(lengths) for _ in range(length)]
    for row, episode in enumerate(episodes):
        assert batch.last[row] == len(episode.prompt_tokens) + len(episode) - 1


def test_lengths_count_response_tokens() -> None:
    batches = [SequenceBatch.from_episodes(random_episodes(lengths), "cpu") for lengths in ([3, 2], [4])]
    assert len(MicroBatches(batches)) == 9
    assert Minibatch({"default_policy": MicroBatches(batches)}).env_steps() == 9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 10), st.integers(1, 3))
def test_shards_keep_every_episode_whole_and_learners_in_step(
    lengths: list[int], learners: int, minibatch: int, epochs: int
) -> None:
    if len(lengths) < learners:
        return
    episodes = random_episodes(lengths)
    shards = WholeEpisodeTrainingData(episodes=episodes).shard(learners, minibatch_size=minibatch, num_epochs=epochs)
    dealt = [shard.episodes for shard, _ in shards]
    # The very objects: nothing is cut, copied or lost.
    assert sorted(id(episode) for shard in dealt for episode in shard) == sorted(map(id, episodes))
    counts = [len(shard) for shard in dealt]
    assert max(counts) - min(counts) <= 1
    (total,) = {extra["num_total_minibatches"] for _, extra in shards}
    steps, rest = divmod(total, epochs)
    assert rest == 0
    # No learner can be asked for more steps than it has episodes, nor for steps that exceed the minibatch size
    # unless the smallest shard leaves no choice.
    assert 1 <= steps <= min(counts)
    assert -(-max(counts) // steps) <= minibatch or steps == min(counts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 4))
def test_responses_to_a_prompt_stay_on_one_learner(groups: list[int], learners: int) -> None:
    if len(set(groups)) < learners:
        return
    episodes = random_episodes([3] * len(groups))
    for episode, group in zip(episodes, groups, strict=True):
        episode.group = group
    shards = WholeEpisodeTrainingData(episodes=episodes).shard(learners, minibatch_size=4, num_epochs=1)
    dealt = [{episode.group for episode in shard.episodes} for shard, _ in shards]
    assert sum(map(len, dealt)) == len(set(groups))
    counts = [len(groups_here) for groups_here in dealt]
    assert max(counts) - min(counts) <= 1
    # In the batch's own order.
    for shard, _ in shards:
        assert [e.request_id for e in shard.episodes] == sorted(e.request_id for e in shard.episodes)


def test_shards_share_out_the_tokens() -> None:
    episodes = random_episodes([30, 28, 12, 10, 9, 8, 2, 1])
    shards = WholeEpisodeTrainingData(episodes=episodes).shard(2, minibatch_size=2, num_epochs=1)
    left, right = (sum(len(e.prompt_tokens) + len(e) for e in shard.episodes) for shard, _ in shards)
    assert abs(left - right) < 12


def test_fewer_episodes_than_learners_is_an_error() -> None:
    data = WholeEpisodeTrainingData(episodes=random_episodes([4, 5]))
    with pytest.raises(ValueError, match="at least one prompt for each of 3 learners, got 2"):
        data.shard(3, minibatch_size=1, num_epochs=1)
