from __future__ import annotations

import pytest
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from hand_made import make_episode

from espo_algo import TokenEpisode
from espo_algo.metrics import rollout_counts
from espo_algo.rollout.dynamic_sampling import choose_batch, with_spread
from espo_env.types import StopReason


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
    seen, reasons = 0, set()
    for _ in range(3):
        sampled = algo._sample()
        batch = algo._choose(sampled)
        assert len(batch) == 32
        assert len(with_spread(batch)) == 32
        # A round samples no more than what is missing.
        assert len(with_spread(sampled)) <= 32
        groups = {e.group for e in sampled}
        assert len({e.seed for e in sampled}) == len(sampled) == 2 * len(groups)
        seen += rollout_counts(sampled)["num_env_steps_sampled"]
        algo._update(batch)
        algo._adapt(sampled)
        algo.send_weights(algo.env_runner_group)
        reasons |= {e.stop_reason for e in sampled}
    assert StopReason.REGRET in reasons
    result = algo.train()
    dropped = result["dynamic_sampling"]
    assert dropped["spread"] == 1.0
    assert dropped["dropped_responses"] > 0
    assert dropped["dropped_tokens"] >= dropped["dropped_responses"]
    # What was dropped was sampled all the same.
    runs = result["env_runners"]
    assert runs["num_env_steps_sampled_lifetime"] == seen + runs["num_env_steps_sampled"]
    assert runs["num_env_steps_sampled"] == sum(map(len, algo.latest_episodes)) + dropped["dropped_tokens"]
    # No critic takes part: its value head is as it began.
    head = algo.get_module().model.value_head
    assert all(float(p.abs().max()) == 0.0 for p in head.parameters())
    algo.stop()
