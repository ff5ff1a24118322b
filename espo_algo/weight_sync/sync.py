"""The weight sync that the algorithm calls.

- :func:`sync_weights`: sends new weights to a group of runners, by the configured way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from espo_algo.weight_sync.object_store import broadcast_weights

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["sync_weights"]


def sync_weights(learner_group: LearnerGroup, env_runner_group: EnvRunnerGroup, config: ESPOConfig) -> int:
    """Sends the learners' weights and state of early stopping to every healthy runner, and waits until they have them.

    Args:
        learner_group: All learners take part; the first one speaks.
        env_runner_group: Training's or evaluation's.
        config: The group's own: ``weight_transfer`` says which way, ``weight_sync_timeout_s`` how long each may take.

    Returns:
        The version of the weights.

    Raises:
        RuntimeError: If a learner or a healthy runner did not answer in time, naming it.
    """
    timeout = config.weight_sync_timeout_s
    if config.weight_transfer is None:
        return broadcast_weights(learner_group, env_runner_group, timeout)
    from espo_algo.weight_sync.vllm_transfer import transfer_weights

    return transfer_weights(
        learner_group,
        env_runner_group,
        config.weight_transfer,
        config.workers_per_env_runner,
        timeout,
        sender="evaluation" if config.in_evaluation else "training",
    )
