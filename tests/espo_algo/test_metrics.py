from __future__ import annotations

import math

import pytest
from hand_made import make_episode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from espo_algo import TokenEpisode
from espo_algo.metrics import log_rollouts, rollout_metrics, tokens_saved_estimate
from espo_env.types import StopReason


def batch() -> list[TokenEpisode]:
    """Right after 4 tokens; wrong after 10; stopped at 2; marked at its third token and right after 6; lost after 1."""

    def traces(length: int, level: float) -> dict[str, list[float]]:
        return {"z": [level] * length, "regrets": [2 * level] * length, "thresholds": [3 * level] * length}

    return [
        make_episode([1, 1, 1, 0], reward=1.0, correct=True, **traces(4, 0.5)),
        make_episode([1] * 9 + [0], reward=0.0, correct=False, **traces(10, 1.0)),
        make_episode([1, 1], StopReason.REGRET, reward=-1.0, mark=1, **traces(2, 4.0)),
        make_episode([1] * 5 + [0], reward=1.0, correct=True, mark=2, **traces(6, 0.0)),
        make_episode([1], StopReason.ERROR, error="KeyError", **traces(1, 99.0)),
    ]


EXPECTED = {
    "episode_return_mean": 0.25,
    "episode_return_min": -1.0,
    "episode_return_max": 1.0,
    "episode_len_mean": 5.5,
    "episode_len_min": 2.0,
    "episode_len_max": 10.0,
    "accuracy": 0.5,
    # 90th percentile of 2, 4, 6, 10: position 2.7
    "response_length": {"mean": 5.5, "p90": 8.8, "max": 10.0},
    "stop_reason": {"eos": 0.6, "length": 0.0, "regret": 0.2, "abort": 0.0, "error": 0.2},
    "early_stopping": {
        "stop_rate": 0.5,
        # Fired after 2 and after 3 tokens.
        "mean_stop_position": 2.5,
        "tokens_generated": 23.0,
        # The others that were longer than 2 tokens had 4, 6 and 10.
        "tokens_saved_estimate": 20 / 3 - 2,
        # Of two that fired one ran on, and was right.
        "false_positive_rate": 1.0,
        "audit_tokens": 3.0,
        "z": 20 / 22,
        "regret": 40 / 22,
        "threshold": 60 / 22,
    },
    # No values were measured.
    "value_auroc": dict.fromkeys(("0", "25", "50", "75"), math.nan),
}


def test_every_metric_by_hand() -> None:
    got = rollout_metrics(batch())
    assert got.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        assert got[name] == pytest.approx(expected, rel=1e-6, nan_ok=True), name
    assert sum(got["stop_reason"].values()) == pytest.approx(1.0)


def test_half_of_two_marked_ones_is_a_false_positive() -> None:
    wrong = make_episode([1, 0], correct=False, mark=0)
    assert rollout_metrics([*batch(), wrong])["early_stopping"]["false_positive_rate"] == 0.5


def test_nothing_to_measure_is_nan_and_raises_nothing() -> None:
    for episodes in ([], batch()[-1:]):
        got = rollout_metrics(episodes)
        numbers = [got["accuracy"], got["episode_return_mean"], *got["response_length"].values()]
        numbers += [v for k, v in got["early_stopping"].items() if "tokens" not in k]
        assert all(math.isnan(number) for number in numbers)
        assert got["early_stopping"]["tokens_saved_estimate"] == 0.0
        assert got["early_stopping"]["tokens_generated"] == sum(map(len, episodes))
    assert sum(rollout_metrics([])["stop_reason"].values()) == 0.0


def test_a_batch_without_stops_has_no_place_of_a_stop() -> None:
    got = rollout_metrics(batch()[:2])["early_stopping"]
    assert got["stop_rate"] == got["tokens_saved_estimate"] == 0.0
    assert math.isnan(got["mean_stop_position"])
    assert math.isnan(got["false_positive_rate"])


def test_tokens_saved_compare_with_longer_responses_only() -> None:
    ended = [make_episode([1] * length) for length in (2, 4, 8)]
    stops = [make_episode([1] * length, StopReason.REGRET) for length in (1, 4, 9)]
    # Against the means of (2, 4, 8), of (8) alone - as long is not longer - and of none.
    assert tokens_saved_estimate([*ended, *stops]) == pytest.approx((14 / 3 - 1) + (8 - 4) + 0)
    assert tokens_saved_estimate(stops) == 0.0


def test_logged_numbers_are_the_batchs_and_counters_add_up() -> None:
    logger = MetricsLogger(root=True)
    log_rollouts(logger, batch()[:1], ("env_runners",))
    log_rollouts(logger, batch(), ("env_runners",))
    got = logger.reduce(compile=True)["env_runners"]
    for name, expected in EXPECTED.items():
        assert got[name] == pytest.approx(expected, rel=1e-6, nan_ok=True), name
    assert (got["num_env_steps_sampled"], got["num_episodes"]) == (27, 6)
    assert (got["num_env_steps_sampled_lifetime"], got["num_episodes_lifetime"]) == (27, 6)
    assert got["num_lost_episodes_lifetime"] == 1
    assert got["lost_episodes"] == {"KeyError": 1}
    log_rollouts(logger, batch()[1:], ("env_runners",))
    again = logger.reduce(compile=True)["env_runners"]
    assert again["num_env_steps_sampled"] == 19
    assert again["num_env_steps_sampled_lifetime"] == 46
    assert again["num_lost_episodes_lifetime"] == 2


def test_given_up_responses_are_counted_by_their_reason() -> None:
    logger = MetricsLogger(root=True)
    log_rollouts(logger, [make_episode([1], StopReason.ABORT)])
    assert logger.reduce(compile=True)["lost_episodes"] == {"abort": 1}
