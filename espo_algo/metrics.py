"""Metrics of a batch of responses: accuracy, lengths, stops, marks, lost responses.

- :func:`rollout_metrics`: shares and means of one batch, from its episodes alone.
- :func:`rollout_counts`: counts of one batch.
- :func:`log_rollouts`: both into RLlib's metrics, under RLlib's names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from espo_algo.critic_quality import success_auroc
from espo_algo.episodes import TokenEpisode
from espo_env.types import StopReason, Trajectory

__all__ = ["carried_metrics", "log_rollouts", "rollout_counts", "rollout_metrics", "tokens_saved_estimate"]

NAN = math.nan


def rollout_metrics(episodes: Sequence[TokenEpisode]) -> dict[str, Any]:
    """Metrics of one batch; NaN where there is nothing to measure.

    Args:
        episodes: All responses of the batch, lost ones included.

    Returns:
        - ``episode_return_*``, ``episode_len_*`` (tokens), ``accuracy`` (share of the finished responses that were
          graded right; a stopped or cut one is not right), ``response_length/{mean,p90,max}``: over finished responses.
        - ``stop_reason/*``: shares of all responses, sum 1.
        - ``early_stopping/stop_rate``: share of finished responses that were stopped or marked;
          ``mean_stop_position``: tokens written until then; ``tokens_generated``; ``tokens_saved_estimate``;
          ``false_positive_rate``: share of marked responses that ran on and were right; ``audit_tokens``: tokens that
          these wrote behind their marks;
          ``z``, ``regret``, ``threshold``: means over tokens.
        - ``value_auroc/{0,25,50,75}``: how well the value behind so many percent of a response's tokens tells a right
          answer in the end, see :func:`~espo_algo.critic_quality.success_auroc`.
    """
    finished = [e for e in episodes if e.is_trainable]
    lengths = np.array([len(e) for e in finished])
    returns = np.array([e.get_return() for e in finished])
    marks = np.array([e.mark for e in finished if e.mark >= 0])
    ran_on = [e for e in finished if e.mark >= 0 and e.stop_reason is not StopReason.REGRET]
    reasons = Counter(e.stop_reason for e in episodes)
    return {
        EPISODE_RETURN_MEAN: _over(np.mean, returns),
        EPISODE_RETURN_MIN: _over(np.min, returns),
        EPISODE_RETURN_MAX: _over(np.max, returns),
        EPISODE_LEN_MEAN: _over(np.mean, lengths),
        EPISODE_LEN_MIN: _over(np.min, lengths),
        EPISODE_LEN_MAX: _over(np.max, lengths),
        "accuracy": _over(np.mean, np.array([e.correct is True for e in finished])),
        "response_length": {
            "mean": _over(np.mean, lengths),
            "p90": _over(lambda x: np.percentile(x, 90), lengths),
            "max": _over(np.max, lengths),
        },
        "stop_reason": {reason.value: reasons[reason] / max(len(episodes), 1) for reason in StopReason},
        "early_stopping": {
            "stop_rate": len(marks) / len(finished) if finished else NAN,
            "mean_stop_position": _over(np.mean, marks + 1),
            "tokens_generated": float(sum(len(e) for e in episodes)),
            "tokens_saved_estimate": tokens_saved_estimate(finished),
            "false_positive_rate": _over(np.mean, np.array([e.correct is True for e in ran_on])),
            "audit_tokens": float(sum(len(e) - 1 - e.mark for e in ran_on)),
            **_trace_means(finished),
        },
        "value_auroc": success_auroc(finished),
    }


def tokens_saved_estimate(episodes: Sequence[Trajectory]) -> float:
    """Tokens that the stopped responses would still have cost.

    A response stopped after ``t`` tokens is compared with those of the batch that ended by themselves after more than
    ``t``: their mean length less ``t``. Where there is none, nothing is counted. An estimate from below, because
    failing responses tend to run longer than the ones that were let run.
    """
    natural = np.sort([len(e) for e in episodes if e.stop_reason is not StopReason.REGRET])
    saved = 0.0
    for episode in episodes:
        if episode.stop_reason is StopReason.REGRET:
            longer = natural[np.searchsorted(natural, len(episode), side="right") :]
            saved += float(longer.mean()) - len(episode) if len(longer) else 0.0
    return saved


def carried_metrics(episodes: Sequence[TokenEpisode], version: int) -> dict[str, float]:
    """What was carried over in a batch, n >= 1.

    Args:
        episodes: What is learnt from.
        version: Of the weights that learn.

    Returns:
        ``share``: responses that several weights have written; ``tokens``: share of the tokens that are older than the
        weights that finished their response; ``lag_{mean,max}``: updates between the weights that wrote a response's
        first token and those that learn from it.
    """
    lags = np.array([version - e.first_version for e in episodes])
    old = sum(s.tokens for e in episodes for s in e.segments if s.version != e.weights_version)
    return {
        "share": float(np.mean([len({s.version for s in e.segments}) > 1 for e in episodes])),
        "tokens": old / sum(map(len, episodes)),
        "lag_mean": float(lags.mean()),
        "lag_max": float(lags.max()),
    }


def rollout_counts(episodes: Sequence[TokenEpisode], tokens: int | None = None) -> dict[str, Any]:
    """Counts of one batch.

    Args:
        episodes: All responses of the batch, lost ones included.
        tokens: What was written for it; None for all of their tokens.

    Returns:
        ``num_env_steps_sampled`` (tokens), ``num_episodes``, ``num_lost_episodes``; ``lost_episodes/*``: by the name of
        the error; ``grades/*``: by the reason of the verdict (a grader that ran out of time gives a verdict too).
    """
    lost = Counter(e.error or e.stop_reason.value for e in episodes if not e.is_trainable)
    return {
        NUM_ENV_STEPS_SAMPLED: sum(len(e) for e in episodes) if tokens is None else tokens,
        NUM_EPISODES: len(episodes),
        "num_lost_episodes": sum(lost.values()),
        "lost_episodes": dict(lost),
        "grades": dict(Counter(e.grade.reason for e in episodes if e.grade is not None)),
    }


def log_rollouts(
    logger: MetricsLogger, episodes: Sequence[TokenEpisode], key: tuple[str, ...] = (), tokens: int | None = None
) -> None:
    """Logs :func:`rollout_metrics` and :func:`rollout_counts`, and sums of these over the whole run.

    Args:
        logger: The algorithm's.
        episodes: All responses of the batch, lost ones included.
        key: Where, e.g. ``("env_runners",)``.
        tokens: As for :func:`rollout_counts`.
    """
    logger.log_dict(rollout_metrics(episodes), key=key, reduce="mean", window=1)
    counts = rollout_counts(episodes, tokens)
    for name, lifetime in (
        (NUM_ENV_STEPS_SAMPLED, NUM_ENV_STEPS_SAMPLED_LIFETIME),
        (NUM_EPISODES, NUM_EPISODES_LIFETIME),
        ("num_lost_episodes", "num_lost_episodes_lifetime"),
    ):
        logger.log_value((*key, name), counts[name], reduce="sum")
        logger.log_value((*key, lifetime), counts[name], reduce="lifetime_sum")
    for group in ("lost_episodes", "grades"):
        for name, count in counts[group].items():
            logger.log_value((*key, group, name), count, reduce="sum")


def _over(function: Any, values: np.ndarray) -> float:
    return float(function(values)) if len(values) else NAN


def _trace_means(episodes: Sequence[TokenEpisode]) -> dict[str, float]:
    summaries = [episode.summarised() for episode in episodes]
    measured = sum(summary.measured for summary in summaries)
    sums = {name: sum(getattr(summary, name) for summary in summaries) for name in ("z", "regret", "threshold")}
    return {name: total / measured if measured else NAN for name, total in sums.items()}
