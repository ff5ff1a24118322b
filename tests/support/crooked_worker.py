"""A worker of vLLM's that draws other tokens than the first one, as two GPUs may: their sums may be rounded otherwise.

Needs vLLM.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed import get_tp_group

from espo_algo.rollout.noise import request_noise
from espo_algo.rollout.vllm import worker
from espo_env.early_stopping.rules import regret_value

__all__ = ["CrookedWorker", "paper"]

paper = regret_value
"""A stop rule by its place in a module of the user's, which vLLM's worker processes have to find."""


class CrookedWorker(worker.EarlyStoppingWorker):
    """All but the first worker of an engine have other uniforms.

    With :meth:`mishear` the second one takes token 1 for token 2 besides, in what the first one tells it.
    """

    def install_early_stopping(self, **options: Any) -> None:
        if get_tp_group().rank_in_group > 0:
            worker.request_noise = lambda seed, count: request_noise(seed + 1, count)
        super().install_early_stopping(**options)

    def mishear(self, check_every_step: bool) -> None:
        sampler = self.model_runner.sampler
        sampler.check_every_step = check_every_step
        if get_tp_group().rank_in_group == 1:
            add_up = sampler._add_up
            sampler._add_up = lambda tokens, rows: add_up(tokens.masked_fill_(tokens == 1, 2), rows)
