"""Weights through Ray's object store, which works everywhere.

- :func:`broadcast_weights`: sends them from the learners to every runner of a group.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from espo_algo.weight_sync.calls import ask_learners, ask_runners

__all__ = ["broadcast_weights"]


def broadcast_weights(learner_group: LearnerGroup, env_runner_group: EnvRunnerGroup, timeout: float) -> int:
    """Sends weights and state of early stopping to every healthy runner, and waits until they have them.

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
    learner_group_is_local = learner_group.is_local

    def collect(learner: Any) -> tuple[Any, int] | None:
        state = learner.weights_to_send()
        if state is None:
            return None
        # Listed, because a bare reference would be fetched on the way.
        return [state if learner_group_is_local else ray.put(state)], state[WEIGHTS_SEQ_NO]

    first, *_ = ask_learners(learner_group, collect, timeout)
    assert first is not None
    (state,), version = first
    if env_runner_group.num_remote_workers():
        references = [ray.put(state) if learner_group_is_local else state]

        def receive(runner: Any) -> None:
            runner.set_state(ray.get(references[0]))

        ask_runners(env_runner_group, receive, timeout)
    if (local := env_runner_group.local_env_runner) is not None:
        local.set_state(state if learner_group_is_local else ray.get(state))
    return version
