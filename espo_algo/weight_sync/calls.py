"""Calls on runners and learners that wait for every answer, up to a time limit.

- :func:`ask_runners`: a call on every healthy remote runner.
- :func:`replace_runners`: restarts runners that are of no use any more.
- :func:`ask_learners`: a call on every learner.
- :func:`update_learners`: the update of every learner on its share of a batch.
- :func:`check_learners`: whether one has died.

RLlib drops a call that meets a busy actor without a word, and gives errors back as if they were answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.actor_manager import RemoteCallResults

from espo_algo.errors import TrainingError

__all__ = ["ask_learners", "ask_runners", "check_learners", "replace_runners", "update_learners"]

logger = logging.getLogger(__name__)

_HOW_TO_GO_ON = (
    "training cannot go on without a learner: build the algorithm again and restore its newest checkpoint "
    "(restore_from_path, or espo train --resume)"
)

_UNTIL_KILLED = 10.0
"""Seconds in which a killed process stops answering, even on a busy machine."""

T = TypeVar("T")


def ask_runners(env_runner_group: EnvRunnerGroup, call: Callable[[Any], T], timeout: float) -> list[T]:
    """Makes a call on every healthy remote runner.

    Args:
        env_runner_group: Its local runner is left out.
        call: Runs in the runners.
        timeout: Seconds that a runner may take.

    Returns:
        What the runners answered. One that died on the way is left out, and so is one that did not answer in time: it
        is restarted.
    """

    def numbered(runner: Any) -> tuple[int, T]:
        return int(runner.worker_index), call(runner)

    answers = env_runner_group.foreach_env_runner(numbered, local_env_runner=False, timeout_seconds=timeout)
    missing = set(env_runner_group.healthy_worker_ids()) - {runner for runner, _ in answers}
    replace_runners(env_runner_group, missing, f"expected an answer within {timeout} s, got none")
    return [answer for _, answer in answers]


def replace_runners(env_runner_group: EnvRunnerGroup, runners: Iterable[int], why: str) -> None:
    """Restarts runners that hang or have raised: they would keep every later call waiting.

    They are left out until they are back and ``ESPO.restore_env_runners`` has taken them in again.
    """
    manager, killed = env_runner_group._worker_manager, []
    for runner in sorted(runners):
        logger.warning("runner %d is restarted: %s", runner, why)
        manager.set_actor_state(runner, healthy=False)
        killed.append(manager.actors()[runner])
        ray.kill(killed[-1], no_restart=False)
    _wait_until_silent(killed)


def _wait_until_silent(actors: list[Any]) -> None:
    """``ray.kill`` does not wait; an old process that still answers would be taken for the restarted one."""
    deadline = time.monotonic() + _UNTIL_KILLED
    while actors and time.monotonic() < deadline:
        pings = {actor.ping.remote(): actor for actor in actors}
        # One that does not answer hangs, or is being started again.
        ready, _ = ray.wait([*pings], num_returns=len(pings), timeout=0.5)
        actors = [pings[ping] for ping in ready if _succeeded(ping)]
        if actors:
            time.sleep(0.05)


def _succeeded(call: ray.ObjectRef) -> bool:
    try:
        ray.get(call)
    except RayError:
        return False
    return True


def ask_learners(learner_group: LearnerGroup, call: Callable[[Any], T], timeout: float) -> list[T]:
    """Makes a call on every learner.

    Args:
        learner_group: Local or remote.
        call: Runs in the learners.
        timeout: Seconds that a remote learner may take.

    Returns:
        What the learners answered, by rank.

    Raises:
        TrainingError: If a remote learner is dead or did not answer in time, naming it.
        Exception: What the call raised in a learner.
    """
    check_learners(learner_group)
    results = learner_group.foreach_learner(call, timeout_seconds=timeout)
    if learner_group.is_local:
        return [result.get() for result in results]
    return _by_rank(learner_group, results, timeout)


def update_learners(
    learner_group: LearnerGroup, training_data: TrainingData, timeout: float, **options: Any
) -> list[Any]:
    """Like ``LearnerGroup.update``, which waits for as long as it takes.

    Args:
        learner_group: Local or remote.
        training_data: Is dealt to the learners.
        timeout: Seconds that a remote learner may take.
        **options: Those of ``Learner.update``.

    Returns:
        What ``Learner.update`` gave back on each learner, by rank.

    Raises:
        TrainingError: As :func:`ask_learners`.
        Exception: What the update raised in a learner.
    """
    if learner_group.is_local:
        return learner_group.update(training_data=training_data, **options)
    check_learners(learner_group)
    shares = training_data.shard(len(learner_group), **options)
    results = learner_group._worker_manager.foreach_actor(
        "update",
        kwargs=[{"training_data": share, **options, **extra} for share, extra in shares],
        timeout_seconds=timeout,
    )
    return _by_rank(learner_group, results, timeout)


def check_learners(learner_group: LearnerGroup) -> None:
    """Does nothing where every learner answered when it was asked last.

    Raises:
        TrainingError: If one did not, naming it.
    """
    if learner_group.is_local:
        return
    healthy = learner_group._worker_manager.healthy_actor_ids()
    if missing := [rank for rank in range(len(learner_group)) if rank not in healthy]:
        raise TrainingError(f"expected {len(learner_group)} learners, got none at {missing} (dead); {_HOW_TO_GO_ON}")


def _by_rank(learner_group: LearnerGroup, results: RemoteCallResults, timeout: float) -> list[Any]:
    # A process or a node that is gone gives an error of Ray's, or nothing.
    answers = {r.actor_id: r for r in results if r.ok or not isinstance(r.get(), RayActorError)}
    if missing := [rank for rank in range(len(learner_group)) if rank not in answers]:
        raise TrainingError(
            f"expected an answer of {len(learner_group)} learners within {timeout} s, got none from {missing} (dead, "
            f"or still busy); {_HOW_TO_GO_ON}"
        )
    for rank in sorted(answers):
        if not answers[rank].ok:
            error = answers[rank].get()
            error = getattr(error, "cause", None) or error  # what was raised there, not that something was
            raise TrainingError(f"expected an answer of learner {rank}, got {error!r}") from error
    return [answers[rank].get() for rank in sorted(answers)]
