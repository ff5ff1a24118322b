"""vLLM's sending side on a learner, for each way of its weight-transfer API.

- :class:`RunnerClient`: how it reaches the runners.
- :data:`BACKENDS`: how it is opened; :func:`form_group`: how learner and runners' workers meet for it.
- :func:`as_vllm_source`: the weights as it reads them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import ray
import torch
from packaging.version import Version
from torch import Tensor

from espo_algo.weight_sync.weight_pass import WeightPass

__all__ = ["BACKENDS", "Backend", "RunnerClient", "as_vllm_source", "form_group"]


class RunnerClient:
    """The client of vLLM's sending side: makes each of its four calls on all runners at once.

    Args:
        runners: Actors.
        workers_each: vLLM's workers in each.
        timeout: Seconds that a call may take.

    Attributes:
        failure: What the first call that failed raised. It is kept and not raised, and every later call does nothing:
            other learners may be waiting for this one in a collective, which it has to enter all the same.
        hang_up: Is called where a call fails: the sender may be waiting for a runner that is gone.
    """

    def __init__(self, runners: list[Any], workers_each: int, timeout: float) -> None:
        self.failure: Exception | None = None
        self.hang_up: Callable[[], None] = lambda: None
        self._runners = runners
        self._workers_each = workers_each
        self._timeout = timeout

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Opens the receiving sides. Each engine is told its workers' ranks: engines do not know of each other."""
        offset = init_info.get("rank_offset")
        infos = [dict(init_info) for _ in self._runners]
        if offset is not None:
            for number, info in enumerate(infos):
                info["rank_offset"] = offset + number * self._workers_each
        self._call("init_weight_transfer_engine", [{"init_info": info} for info in infos])

    def start_weight_update(self) -> None:
        """Opens an update, before the first piece of the weights."""
        self._call("start_weight_update", [{}] * len(self._runners))

    def update_weights(self, update_info: Any) -> None:
        """Sends one piece of the weights; returns when every runner has it."""
        self._call("update_weights", [{"update_info": update_info}] * len(self._runners))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Closes an update, after the last piece. The version comes later, with the state of early stopping."""
        self._call("finish_weight_update", [{}] * len(self._runners))

    def _call(self, method: str, arguments: list[dict[str, Any]]) -> None:
        if self.failure is not None:
            return
        calls = zip(self._runners, arguments, strict=True)
        answers = [runner.apply.remote(partial(_call_vllm, method=method, kwargs=kwargs)) for runner, kwargs in calls]
        try:
            ray.get(answers, timeout=self._timeout)
        except Exception as error:
            self.failure = error
            self.hang_up()


def _open_nccl(client: RunnerClient, source: Any, rank: int, num_workers: int, timeout: float) -> Any:
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.weight_transfer.nccl_common import worker_init_payload
    from vllm.distributed.weight_transfer.nccl_engine import (
        NCCLTrainerWeightTransferEngine,
        NCCLWeightTransferInitInfo,
    )
    from vllm.utils.nccl import unpinned_nccl_env

    sender = NCCLTrainerWeightTransferEngine(client=client, source=source, is_sender=rank == 0)
    if rank:
        return sender

    def invitation(address: str, port: int) -> dict[str, Any]:
        return worker_init_payload(
            NCCLWeightTransferInitInfo(
                master_address=address,
                master_port=port,
                rank_offset=1,
                world_size=1 + num_workers,
                packed=sender.packed,
                packed_buffer_size_bytes=sender.packed_buffer_size_bytes,
                packed_num_buffers=sender.packed_num_buffers,
            )
        )

    device = torch.accelerator.current_device_index()

    def connect(group: Any) -> Any:
        with unpinned_nccl_env():
            return PyNcclCommunicator(group, device=device)

    sender.model_update_group = form_group(client, invitation, connect, 1 + num_workers, timeout)
    return sender


def form_group(
    client: RunnerClient,
    invitation: Callable[[str, int], dict[str, Any]],
    connect: Callable[[Any], Any],
    world_size: int,
    timeout: float,
) -> Any:
    """Meets the runners' workers in a process group of vLLM's, as its rank 0.

    Args:
        client: Invites the runners.
        invitation: Address and port -> what they are told.
        connect: What is made of the group.
        world_size: Of the group.
        timeout: Seconds until everybody has to be there.

    Returns:
        What ``connect`` gave.

    Raises:
        Exception: ``client.failure``, if a runner did not come; a TimeoutError if that took too long.
    """
    from vllm.distributed.utils import StatelessProcessGroup

    # Handed over while it is bound: between two looks for a free port somebody else could take it.
    listener = socket.socket()
    listener.bind(("", 0))
    listener.listen()
    address, port = ray.util.get_node_ip_address(), listener.getsockname()[1]
    outcome: Future[Any] = Future()

    def meet() -> None:
        try:
            group = StatelessProcessGroup.create(
                address, port, 0, world_size, store_timeout=int(timeout) + 1, listen_socket=listener
            )
            outcome.set_result(connect(group))
        except BaseException as error:
            outcome.set_exception(error)

    invite = partial(client.init_weight_transfer_engine, invitation(address, port))
    # Daemons: where a runner has died, NCCL waits for it for ever, and nothing could end the wait.
    for target in (meet, invite):
        threading.Thread(target=target, daemon=True).start()
    deadline = time.monotonic() + timeout
    while not wait([outcome], timeout=0.05).done:
        if client.failure is not None:
            raise client.failure
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {world_size - 1} workers of runners in the group within {timeout} s")
    if client.failure is not None:
        raise client.failure
    return outcome.result()


def _open_ipc(client: RunnerClient, source: Any, rank: int, num_workers: int, timeout: float) -> Any:
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    return WeightTransferTrainerFactory.trainer_init(
        IPCTrainerInitInfo(rank=rank, packed=True), client=client, source=source
    )


@dataclass(frozen=True, slots=True)
class Backend:
    """One of vLLM's ways of weight transfer, on a learner.

    Attributes:
        open: Client, source of the weights, rank, number of vLLM's workers, time limit -> the sender.
        collective: Whether ``send_weights`` makes the learners wait for each other, so that each of them has to enter
            it even if a runner is dead.
    """

    open: Callable[[RunnerClient, Any, int, int, float], Any]
    collective: bool


BACKENDS = {"nccl": Backend(_open_nccl, collective=False), "ipc": Backend(_open_ipc, collective=True)}
"""By vLLM's name for it."""


def as_vllm_source(weights: WeightPass) -> Any:
    """The weights as vLLM's sending side reads them."""
    from vllm import __version__
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    # A method up to 0.32, and an attribute since.
    declared: Any = cached_property if Version(__version__) >= Version("0.33") else lambda method: method

    class PolicySource(WeightSource):
        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return iter(weights)

        iter_full = __iter__  # what it is called since 0.33

        @declared
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(*shape) for shape in weights.shapes()]

    return PolicySource()


def _call_vllm(runner: Any, method: str, kwargs: dict[str, Any]) -> None:
    runner.engine.transfer(method, **kwargs)
