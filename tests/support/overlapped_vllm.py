"""Asynchronous scheduling on vLLM's CPU builds, which switch it off: there are no CUDA streams to overlap anything.

Importing it lets the setting be, and makes streams and events of CUDA's do nothing: on a CPU all is done in order.
Scheduler, model runner and sampler are the real ones. For a process of its own. Needs vLLM.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from vllm.platforms.cpu import CpuPlatform

__all__: list[str] = []


class Nothing:
    """A stream or an event."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...


torch.cuda.Event = torch.cuda.Stream = Nothing
torch.cuda.current_stream = Nothing
torch.cuda.stream = nullcontext

_check = CpuPlatform.check_and_update_config


def check_but_overlap(config: Any) -> None:
    wanted = config.scheduler_config.async_scheduling
    _check(config)
    config.scheduler_config.async_scheduling = wanted


CpuPlatform.check_and_update_config = staticmethod(check_but_overlap)
