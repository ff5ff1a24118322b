"""Dynamic sampling: groups whose rewards are all alike teach nothing, and others are sampled in their place.

- :func:`with_spread`: the responses of groups that teach something.
- :func:`choose_batch`: what an iteration learns from.
- :func:`log_dropped`: what it costs, into RLlib's metrics.

From DAPO (Yu et al. 2025, arXiv 2503.14476): against its own group a response of such a group has advantage 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from espo_algo.episodes import TokenEpisode

__all__ = ["choose_batch", "log_dropped", "with_spread"]


def with_spread(episodes: Sequence[TokenEpisode]) -> list[TokenEpisode]:
    """The responses to prompts whose responses differ in reward, in their order."""
    rewards = defaultdict(set)
    for episode in episodes:
        rewards[episode.group].add(episode.reward)
    return [episode for episode in episodes if len(rewards[episode.group]) > 1]


def choose_batch(episodes: Sequence[TokenEpisode], size: int) -> list[TokenEpisode]:
    """At most ``size`` responses: groups with spread in the order they were sampled, filled up with the others."""
    spread = with_spread(episodes)
    chosen = {id(episode) for episode in spread}
    return [*spread, *(episode for episode in episodes if id(episode) not in chosen)][:size]


def log_dropped(logger: MetricsLogger, sampled: Sequence[TokenEpisode], batch: Sequence[TokenEpisode]) -> None:
    """Logs ``dynamic_sampling/{spread,dropped_responses,dropped_tokens}`` of an iteration.

    Args:
        logger: The algorithm's.
        sampled: All responses of the iteration that could be learnt from.
        batch: Those of them that are. ``spread`` is their share in groups whose rewards differ.
    """
    for name, number in (
        ("spread", len(with_spread(batch)) / len(batch)),
        ("dropped_responses", len(sampled) - len(batch)),
        ("dropped_tokens", sum(map(len, sampled)) - sum(map(len, batch))),
    ):
        logger.log_value(("dynamic_sampling", name), float(number), reduce="mean", window=1)
