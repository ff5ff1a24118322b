"""Weight transfers in which the learners wait for each other, on CPUs.

``"barrier"``: replicated learners, as with vLLM's "ipc"; ``"gather"``: sharded ones, as with vLLM's "nccl".

The learners are actors in a gloo group; the runners are actors whose engine only counts the calls. Everything between
them is the library's.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from espo_algo.weight_sync import vllm_transfer
from espo_algo.weight_sync.vllm_sender import BACKENDS, Backend

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


class GatheringSender:
    """The first learner sends what all of them gather; it raises when it hangs up in the middle."""

    def __init__(self, client: Any, source: Any, rank: int) -> None:
        self.client, self.source, self.rank, self.hung_up = client, source, rank, False
        if rank == 0:
            client.init_weight_transfer_engine({"rank_offset": 1})

    def send_weights(self) -> None:
        if self.rank:
            for _ in self.source:
                pass
            return
        self.client.start_weight_update()
        for name, tensor in self.source:
            self.client.update_weights({"name": name, "sum": float(tensor.sum())})
            if self.hung_up:
                raise ConnectionError("the group is gone")
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        self.hung_up = True


class Layers(torch.nn.Sequential):
    """Layers whose weights are what a runner is sent."""

    def plain_weights(self) -> dict[str, torch.Tensor]:
        return dict(self.named_parameters())


class ShardedModule(torch.nn.Module):
    """Two linear layers of ones, each sharded by itself."""

    dtype, early_stopping = torch.float32, "state"

    def __init__(self) -> None:
        super().__init__()
        self.model = Layers(torch.nn.Linear(3, 5), torch.nn.Linear(5, 3))
        for layer in self.model:
            for parameter in layer.parameters():
                torch.nn.init.ones_(parameter)
            fully_shard(layer, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


class LearnerActor:
    """A learner of which the transfer sees the module and the version alone."""

    def __init__(self, rank: int, port: int) -> None:
        BACKENDS["barrier"] = Backend(lambda client, source, rank, *_: BarrierSender(client, rank), collective=True)
        BACKENDS["gather"] = Backend(
            lambda client, source, rank, *_: GatheringSender(client, source, rank), collective=False
        )
        vllm_transfer.as_vllm_source = lambda weights: weights  # vLLM's own class is not needed
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        modules = {"barrier": SimpleNamespace(early_stopping="state"), "gather": ShardedModule()}
        self.learners = {
            backend: SimpleNamespace(language_module=module, _weights_seq_no=5, sharded=backend == "gather")
            for backend, module in modules.items()
        }

    def send(self, runners: list[Any], engines: tuple[str, ...], timeout: float, name: str, backend: str) -> Any:
        return vllm_transfer._send(self.learners[backend], runners, engines, backend, 1, timeout, name)

    def closed(self) -> int:
        return BarrierSender.closed


class RunnerActor:
    """A runner whose engine counts calls, and dies or raises at one of them."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(transfer=self.transfer)
        self.begin()

    def begin(self, dies_at: str = "", raises_at: str = "") -> None:
        """Forgets what it has seen; a new process takes many seconds to start."""
        self.calls: list[str] = []
        self.updates: list[dict[str, Any]] = []
        self.dies_at, self.raises_at = dies_at, raises_at

    def transfer(self, method: str, **kwargs: Any) -> None:
        self.calls.append(method)
        self.updates += [kwargs["update_info"]] if method == "update_weights" else []
        if method == self.dies_at:
            os._exit(1)
        if method == self.raises_at:
            raise RuntimeError(f"cannot {method}")

    def apply(self, function: Any) -> Any:
        return function(self)

    def seen(self) -> list[str]:
        return self.calls

    def received(self) -> list[dict[str, Any]]:
        return self.updates
