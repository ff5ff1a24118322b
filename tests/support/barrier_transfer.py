"""A weight transfer in which the learners wait for each other, as with vLLM's "ipc", on CPUs.

The learners are actors in a gloo group; the runners are actors whose engine only counts the calls. Everything between
them is the library's.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from ray.rllib.core import DEFAULT_MODULE_ID

from espo_algo.weight_sync import vllm_transfer
from espo_algo.weight_sync.vllm_transfer import BACKENDS, Backend

PIECES = 3


class BarrierSender:
    """Sends in pieces; before and after each one, all learners wait for each other."""

    closed = 0

    def __init__(self, client: Any, rank: int) -> None:
        self.client, self.rank = client, rank
        if rank == 0:
            client.init_weight_transfer_engine({"rank_offset": 1})

    def send_weights(self) -> None:
        if self.rank == 0:
            self.client.start_weight_update()
        for piece in range(PIECES):
            dist.barrier()
            if self.rank == 0:
                self.client.update_weights({"piece": piece})
            dist.barrier()
        if self.rank == 0:
            self.client.finish_weight_update()
        dist.barrier()

    def shutdown(self) -> None:
        BarrierSender.closed += 1


class LearnerActor:
    """A learner of which the transfer sees the module and the version alone."""

    def __init__(self, rank: int, port: int) -> None:
        BACKENDS["barrier"] = Backend(lambda client, source, rank, *_: BarrierSender(client, rank), collective=True)
        vllm_transfer._source = lambda module: module  # these senders have no bytes to send
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        module = SimpleNamespace(early_stopping="state")
        module.unwrapped = lambda: module
        self.learner = SimpleNamespace(module={DEFAULT_MODULE_ID: module}, _weights_seq_no=5)

    def send(self, runners: list[Any], engines: tuple[str, ...], timeout: float, name: str = "training") -> Any:
        return vllm_transfer._send(self.learner, runners, engines, "barrier", 1, timeout, name)

    def closed(self) -> int:
        return BarrierSender.closed


class RunnerActor:
    """A runner whose engine counts calls, and dies or raises at one of them."""

    def __init__(self, dies_at: str = "", raises_at: str = "") -> None:
        self.engine = SimpleNamespace(transfer=self.transfer)
        self.calls: list[str] = []
        self.dies_at, self.raises_at = dies_at, raises_at

    def transfer(self, method: str, **kwargs: Any) -> None:
        self.calls.append(method)
        if method == self.dies_at:
            os._exit(1)
        if method == self.raises_at:
            raise RuntimeError(f"cannot {method}")

    def apply(self, function: Any) -> Any:
        return function(self)

    def seen(self) -> list[str]:
        return self.calls
