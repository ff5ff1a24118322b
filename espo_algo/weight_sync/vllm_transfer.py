"""Weights straight from the learners' GPUs into vLLM's, through vLLM's weight-transfer API.

- :func:`transfer_weights`: from the learners to every runner, or an error.
- :class:`RunnerClient`: how vLLM's sending side reaches the runners.
- :data:`SENDERS`: what each backend's sending side has to know.

``"nccl"`` broadcasts across GPUs and nodes; ``"ipc"`` hands a runner the memory of a learner on the same GPU. Without
either, weights go through Ray's object store, which works everywhere.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from espo_algo.regret_control import RegretControl
from espo_algo.rollout.vllm.engine import engine_weights
from espo_algo.weight_sync.packing import first_result, reach_all

__all__ = ["SENDERS", "RunnerClient", "transfer_weights"]

logger = logging.getLogger(__name__)


def _nccl(rank: int, num_workers: int) -> Any:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    address = ray.util.get_node_ip_address()
    return NCCLTrainerInitInfo(rank=rank, master_address=address, master_port=port, world_size=1 + num_workers)


def _ipc(rank: int, num_workers: int) -> Any:
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    return IPCTrainerInitInfo(rank=rank, packed=True)


SENDERS: dict[str, Callable[[int, int], Any]] = {"nccl": _nccl, "ipc": _ipc}
"""By vLLM's name for the backend: the learner's rank and the number of vLLM's workers -> vLLM's ``TrainerInitInfo``."""

_open: dict[tuple[str, ...], Any] = {}
"""This process's senders, by the engines that they serve."""


class RunnerClient:
    """Makes vLLM's four calls on all runners at once.

    Args:
        runners: Actors.
        workers_each: vLLM's workers in each.
        timeout: Seconds that a call may take.

    Attributes:
        hang_up: Is called where a call fails: the sender may be waiting for a runner that is gone.
    """

    def __init__(self, runners: list[Any], workers_each: int, timeout: float) -> None:
        self.hang_up: Callable[[], None] = lambda: None
        self._runners = runners
        self._workers_each = workers_each
        self._timeout = timeout

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Engines do not know of each other: each is told which ranks its workers have."""
        offset = init_info.get("rank_offset")
        infos = [dict(init_info) for _ in self._runners]
        if offset is not None:
            for number, info in enumerate(infos):
                info["rank_offset"] = offset + number * self._workers_each
        self._call("init_weight_transfer_engine", [{"init_info": info} for info in infos])

    def start_weight_update(self) -> None:
        """Before the first piece."""
        self._call("start_weight_update", [{}] * len(self._runners))

    def update_weights(self, update_info: Any) -> None:
        """One piece; returns when every runner has it."""
        self._call("update_weights", [{"update_info": update_info}] * len(self._runners))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """After the last piece. The version is stamped with the regret state."""
        self._call("finish_weight_update", [{}] * len(self._runners))

    def _call(self, method: str, arguments: list[dict[str, Any]]) -> None:
        calls = zip(self._runners, arguments, strict=True)
        answers = [runner.apply.remote(partial(_call_vllm, method=method, kwargs=kwargs)) for runner, kwargs in calls]
        try:
            ray.get(answers, timeout=self._timeout)
        except Exception:
            self.hang_up()
            raise


def transfer_weights(
    learner_group: LearnerGroup, env_runner_group: EnvRunnerGroup, backend: str, workers_each: int, timeout: float
) -> None:
    """Sends the learners' weights and regret state to every healthy runner, and waits until they have it.

    A runner that dies on the way leaves the others with half of the weights, from which vLLM has no way back. All of
    them are restarted then; they are served when they are back, as every restarted runner is.

    Args:
        learner_group: All learners take part; the first one speaks.
        env_runner_group: Runners with a :class:`~espo_algo.rollout.vllm.engine.VLLMEngine`.
        backend: One of :data:`SENDERS`.
        workers_each: vLLM's workers in each runner.
        timeout: Seconds that a runner may take to answer.

    Raises:
        RuntimeError: If a runner that is still healthy did not answer in time.
    """
    engines = dict(reach_all(env_runner_group, lambda runner: (runner.worker_index, runner.engine.identity), timeout))
    if not engines:
        return  # none is healthy; one that comes back is served then
    actors = env_runner_group._worker_manager.actors()
    send = partial(
        _send,
        runners=[actors[index] for index in engines],
        engines=tuple(engines.values()),
        backend=backend,
        workers_each=workers_each,
        timeout=timeout,
    )
    control, version = first_result(learner_group.foreach_learner(send))
    if control is None:
        logger.warning("a runner died while weights were sent to %s: all of them are restarted", sorted(engines))
        for index in engines:
            ray.kill(actors[index], no_restart=False)
        return
    reach_all(env_runner_group, lambda runner: runner.weights_transferred(control, version), timeout)


def _send(
    learner: Learner, runners: list[Any], engines: tuple[str, ...], backend: str, workers_each: int, timeout: float
) -> tuple[RegretControl | None, int]:
    """Runs in every learner; no regret state comes back where a runner has died."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    module = learner.module[DEFAULT_MODULE_ID].unwrapped()

    class PolicySource(WeightSource):
        """The policy and critic, in the dtypes and by the names that the engines know."""

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            for name, parameter in engine_weights(module.model).items():
                yield name, parameter if name.startswith("value_head") else parameter.to(module.dtype)

        def metadata(self) -> list[ParamMeta]:
            return [
                ParamMeta(name, parameter.dtype if name.startswith("value_head") else module.dtype, parameter.shape)
                for name, parameter in engine_weights(module.model).items()
            ]

    try:
        # Put back once it has served: after an error it is of no use.
        sender = _open.pop(engines, None)
        if sender is None:
            for old in [key for key in _open if set(key) & set(engines)]:  # a runner of theirs was restarted
                _open.pop(old).shutdown()
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            client = RunnerClient(runners, workers_each, timeout)
            sender = WeightTransferTrainerFactory.trainer_init(
                SENDERS[backend](rank, len(runners) * workers_each), client=client, source=PolicySource()
            )
            client.hang_up = sender.shutdown
        sender.send_weights()
    except RayActorError:
        return None, learner._weights_seq_no
    except GetTimeoutError as error:
        raise RuntimeError(f"expected new weights to reach all runners within {timeout} s, got no answer") from error
    _open[engines] = sender
    return module.regret_control, learner._weights_seq_no


def _call_vllm(runner: Any, method: str, kwargs: dict[str, Any]) -> None:
    runner.engine.transfer(method, **kwargs)
