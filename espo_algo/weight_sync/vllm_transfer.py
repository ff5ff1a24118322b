"""Weights straight from the learners' GPUs into vLLM's, through vLLM's weight-transfer API.

- :func:`transfer_weights`: sends them from the learners to every runner of a group.

``"nccl"`` broadcasts across GPUs and nodes; ``"ipc"`` hands a runner the memory of a learner on the same GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from ray.exceptions import GetTimeoutError, RayActorError
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from espo_algo.errors import TrainingError
from espo_algo.learning.sharding import keep_only_shards
from espo_algo.weight_sync.calls import ask_learners, ask_runners, replace_runners
from espo_algo.weight_sync.vllm_sender import BACKENDS, RunnerClient, as_vllm_source
from espo_algo.weight_sync.weight_pass import WeightPass
from espo_env.early_stopping import EarlyStoppingState

if TYPE_CHECKING:
    from espo_algo.learning.learner import ESPOLearner

__all__ = ["transfer_weights"]

_CALLS = 4
"""Calls that a transfer makes on the runners, one after the other, each with its time limit."""


@dataclass(slots=True)
class _Sender:
    """This process's sending side for a group of runners; of no use any more when one of them has another engine."""

    engines: tuple[str, ...]
    client: RunnerClient
    weights: WeightPass
    vllm: Any


_senders: dict[str, _Sender] = {}


def transfer_weights(
    learner_group: LearnerGroup,
    env_runner_group: EnvRunnerGroup,
    backend: str,
    workers_each: int,
    timeout: float,
    sender: str = "training",
) -> int:
    """Sends the learners' weights and state of early stopping to every healthy runner, and waits until they have them.

    A runner that dies or hangs on the way, or before the first piece, leaves the others with half of the weights or in
    half of a group, from which vLLM has no way back. All of them are restarted then; they are served when back,
    as every restarted runner is.

    Args:
        learner_group: All learners take part; the first one speaks.
        env_runner_group: Runners with a :class:`~espo_algo.rollout.vllm.engine.VLLMEngine`.
        backend: One of :data:`~espo_algo.weight_sync.vllm_sender.BACKENDS`.
        workers_each: vLLM's workers in each runner.
        timeout: Seconds that a runner may take to answer a call.
        sender: Name of the learners' sending side, one for each group of runners.

    Returns:
        The version of the weights.

    Raises:
        TrainingError: If a learner did not answer in time, or a runner raised, naming it.
    """
    engines = dict(ask_runners(env_runner_group, lambda runner: (runner.worker_index, runner.engine.identity), timeout))
    actors = env_runner_group._worker_manager.actors()
    send = partial(
        _send,
        runners=[actors[index] for index in engines],
        engines=tuple(engines.values()),
        backend=backend,
        workers_each=workers_each,
        timeout=timeout,
        name=sender,
    )
    (state, version), *_ = ask_learners(learner_group, send, (_CALLS + 1) * timeout)
    if not engines:
        return version  # none is healthy; one that comes back is served then
    if state is None:
        replace_runners(env_runner_group, engines, "one of them died or hung while weights were sent to all of them")
    else:
        ask_runners(env_runner_group, lambda runner: runner.weights_transferred(state, version), timeout)
    return version


def _send(
    learner: ESPOLearner,
    runners: list[Any],
    engines: tuple[str, ...],
    backend: str,
    workers_each: int,
    timeout: float,
    name: str,
) -> tuple[EarlyStoppingState | None, int]:
    """Runs in every learner; no state comes back where a runner has died."""
    module, version = learner.language_module, learner._weights_seq_no
    if not engines:
        return None, version
    client = RunnerClient(runners, workers_each, timeout)
    # Put back once it has served: after an error it is of no use.
    sender = _senders.pop(name, None)
    weights = WeightPass(module) if sender is None or sender.engines != engines else sender.weights
    if learner.sharded:
        keep_only_shards(module)
    weights.begin()
    try:
        if sender is None or sender.engines != engines:
            if sender is not None:
                sender.vllm.shutdown()
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            opened = BACKENDS[backend].open(client, as_vllm_source(weights), rank, len(runners) * workers_each, timeout)
            sender = _Sender(engines, client, weights, opened)
        client = sender.client
        client.hang_up = sender.vllm.shutdown
        if client.failure is None or BACKENDS[backend].collective:
            sender.vllm.send_weights()
        else:
            client.hang_up()
    except Exception:
        if client.failure is None:
            raise
    finally:
        if learner.sharded:
            weights.finish()
    if client.failure is None and sender is not None:
        _senders[name] = sender
        return module.early_stopping, version
    if isinstance(client.failure, RayActorError | GetTimeoutError):
        return None, version
    raise TrainingError(f"expected new weights to reach all runners within {timeout} s, got {client.failure!r}")
