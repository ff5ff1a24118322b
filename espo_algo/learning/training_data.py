"""Whole responses as RLlib's training data.

- :class:`WholeEpisodeTrainingData`: what RLlib's LearnerGroup shards over its learners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.rllib.core.learner.training_data import TrainingData

from espo_algo.learning.batching import by_prompt

__all__ = ["WholeEpisodeTrainingData"]


@dataclass
class WholeEpisodeTrainingData(TrainingData):
    """Training data of whole responses, dealt to learners prompt by prompt.

    RLlib's own sharding cuts episodes to equal numbers of time steps, which would tear responses from their reward. The
    responses to a prompt stay together, because an advantage may be measured against them.
    """

    def shard(
        self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: Any
    ) -> list[tuple[TrainingData, dict[str, Any]]]:
        """Deals the prompts so that learners get equal numbers of them (to one) and about equal tokens.

        Args:
            num_shards: Number of learners.
            len_lookback_buffer: Not used; RLlib passes it.
            kwargs: Those of ``LearnerGroup.update``.

        Returns:
            For each learner its data and ``{"num_total_minibatches": ...}``, the same for all: a learner that made
            fewer steps would leave the others waiting for its gradients.

        Raises:
            ValueError: If there are fewer prompts than learners.
        """
        assert self.episodes is not None
        members = by_prompt(self.episodes)
        if len(members) < num_shards:
            raise ValueError(
                f"expected responses to at least one prompt for each of {num_shards} learners, got {len(members)}"
            )
        lengths = [len(e.prompt_tokens) + len(e) for e in self.episodes]
        longest_first = np.argsort([-sum(lengths[i] for i in group) for group in members], kind="stable")
        dealt: list[list[int]] = [[] for _ in range(num_shards)]
        for start in range(0, len(longest_first), num_shards):
            # Back and forth, so that no learner always gets the longest.
            deal = range(num_shards) if (start // num_shards) % 2 == 0 else range(num_shards - 1, -1, -1)
            for shard, group in zip(deal, longest_first[start : start + num_shards], strict=False):
                dealt[shard] += members[group]
        # In the batch's own order, so that one learner sees what a local one would.
        shards = [[self.episodes[index] for index in sorted(indices)] for indices in dealt]
        size = kwargs["minibatch_size"] or len(self.episodes)
        steps = min(-(-max(map(len, shards)) // size), min(map(len, shards)))
        return [
            (WholeEpisodeTrainingData(episodes=shard), {"num_total_minibatches": steps * kwargs["num_epochs"]})
            for shard in shards
        ]
