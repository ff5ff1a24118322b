"""Weights through Ray's object store, which works everywhere.

- :func:`broadcast_weights`: sends them from the learners to every runner of a group.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ray
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from espo_algo.weight_sync.calls import ask_learners, ask_runners

__all__ = ["broadcast_weights"]


def broadcast_weights(learner_group: LearnerGroup, env_runner_group: EnvRunnerGroup, timeout: float) -> int:
    """Sends weights and state of early stopping to every healthy runner, and waits until they have them.

    The weights travel in pieces of about a transformer block, so that neither a learner nor a runner holds more than
    one beside its own weights; Ray's object store holds all of them.

    Args:
        learner_group: All learners are asked for their weights, the first one gives them: remote, it puts them into
            the object store itself.
        env_runner_group: Its local runner is served too.
        timeout: Seconds that a learner or a runner may take; a runner that takes longer is restarted.

    Returns:
        The version of the weights.

    Raises:
        TrainingError: If a learner did not answer in time, naming it.
    """
    # From a local learner to a local runner one by one, each made when it is asked for: with LoRA they are copies.
    by_hand = learner_group.is_local and not env_runner_group.num_remote_workers()

    def collect(learner: Any) -> tuple[Iterable[Any], int]:
        pieces = learner.pieces_to_send()
        return pieces if by_hand else [ray.put(piece) for piece in pieces], learner._weights_seq_no

    (pieces, version), *_ = ask_learners(learner_group, collect, timeout)
    if env_runner_group.num_remote_workers():

        def receive(runner: Any) -> None:
            runner.take_weights(map(ray.get, pieces), version)

        ask_runners(env_runner_group, receive, timeout)
    if (local := env_runner_group.local_env_runner) is not None:
        local.take_weights(pieces if by_hand else map(ray.get, pieces), version)
    return version
