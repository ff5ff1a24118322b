"""Functions that run in several processes of one gloo group, without Ray."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch.distributed as dist

_SERVER = multiprocessing.get_context("forkserver")
# Imported once, by a process that starts nothing else, and not by every rank.
_SERVER.set_forkserver_preload(
    ["espo_algo.espo", "espo_algo.learning.sharding", "transformers.models.qwen2.modeling_qwen2"]
)


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any, may_die: int = -1) -> list[Any]:
    """Calls ``function(rank, *arguments)`` in each of so many processes.

    Args:
        world_size: How many.
        function: At the top of a module.
        arguments: Can be pickled.
        may_die: The rank of which no answer is expected.

    Returns:
        What each gave back, by rank.

    Raises:
        AssertionError: With what the first process raised, or that it died.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(world_size):
            own, other = _SERVER.Pipe()
            process = _SERVER.Process(
                target=_run, args=(other, Path(folder, "store"), rank, world_size, function, arguments), daemon=True
            )
            process.start()
            other.close()
            pipes.append(own)
            processes.append(process)
        answers: dict[int, Any] = {}
        try:
            while len(answers) < world_size:
                for pipe in wait([pipe for rank, pipe in enumerate(pipes) if rank not in answers]):
                    rank = pipes.index(pipe)  # type: ignore[arg-type]
                    try:
                        fine, answers[rank] = pipes[rank].recv()
                    except EOFError:
                        fine, answers[rank] = rank == may_die, "it died"
                    assert fine, f"rank {rank} of {world_size}: {answers[rank]}"
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [answers[rank] for rank in range(world_size)]


def _run(
    pipe: Connection, store: Path, rank: int, world_size: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    try:
        dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size)
        pipe.send((True, function(rank, *arguments)))
        dist.barrier()
    except BaseException:
        pipe.send((False, traceback.format_exc()))
