from __future__ import annotations

import pytest
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from hand_made import make_episode

from espo_algo import TokenEpisode
from espo_algo.rollout.dynamic_sampling import choose_batch, with_spread


def episodes(*rows: tuple[int, float]) -> list[TokenEpisode]:
    return [make_episode([1], group=group, reward=reward, request_id=i) for i, (group, reward) in enumerate(rows)]


def test_groups_of_like_rewards_are_taken_last() -> None:
    sampled = episodes((0, 1), (0, 1), (1, 0), (1, 1), (2, 0), (2, 0), (3, 1), (3, 0), (4, 0))
    assert [e.request_id for e in with_spread(sampled)] == [2, 3, 6, 7]
    assert [e.request_id for e in choose_batch(sampled, 6)] == [2, 3, 6, 7, 0, 1]
    assert [e.request_id for e in choose_batch(sampled, 2)] == [2, 3]
    assert len(choose_batch(sampled, 99)) == len(sampled)


@pytest.mark.usefixtures("ray_session")
def test_dapo_by_configuration_alone(coin_config) -> None:
    """With early stopping, whose stops are members of their groups."""
    config = coin_config().generation(rollouts_per_prompt=2, dynamic_sampling_rounds=9)
    config.training(
        advantage_estimator="group",
        normalize_advantages=False,
        vf_loss_coeff=0.0,
        clip_param_high=0.28,
        overlong_buffer=4,
        overlong_penalty=0.5,
    )
    config.early_stopping(beta="auto", warmup_max_fraction=0.0, planned_iterations=10, fail_reward=0.0)
    algo = config.build_algo()
    results = []
    for _ in range(4):
        results.append(algo.train())
        assert len(with_spread(algo.latest_episodes)) == len(algo.latest_episodes) == 32
        runs, dropped = results[-1]["env_runners"], results[-1]["dynamic_sampling"]
        assert dropped["spread"] == 1.0
        # What was dropped was sampled all the same.
        assert runs["num_episodes"] == 32 + dropped["dropped_responses"]
        assert runs["num_env_steps_sampled"] == sum(map(len, algo.latest_episodes)) + dropped["dropped_tokens"]
    assert sum(result["dynamic_sampling"]["dropped_tokens"] for result in results) > 0
    assert runs["num_env_steps_sampled_lifetime"] == sum(r["env_runners"]["num_env_steps_sampled"] for r in results)
    assert any(result["env_runners"]["stop_reason"]["regret"] > 0 for result in results)
    # No critic takes part: its value head is as it began.
    head = algo.get_module().model.value_head
    assert all(float(p.abs().max()) == 0.0 for p in head.parameters())
    algo.stop()
