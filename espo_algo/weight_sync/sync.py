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


def sync_weights(
    learner_group: LearnerGroup, env_runner_group: EnvRunnerGroup, config: ESPOConfig, timeout: float
) -> int:
    """Sends the learners' weights and state of early stopping to every healthy runner, and waits until they have them.

    Args:
        learner_group: All learners take part; the first one speaks.
        env_runner_group: Training's or evaluation's.
        config: The group's own: ``weight_transfer`` says which way.
        timeout: Seconds that a learner or a runner may take to answer a call; a runner that takes longer is restarted.

    Returns:
        The version of the weights.

    Raises:
        TrainingError: If a learner did not answer in time, naming it.
    """
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
