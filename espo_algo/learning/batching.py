"""From episodes to the tensors of an update. Responses stay whole everywhere.

- :class:`SequenceBatch`: some whole sequences, as one forward pass takes them.
- :class:`ResponseStates`: the hidden states that a batch needs.
- :class:`TrainingBatch`: what a module asks of a batch.
- :class:`MicroBatches`, :class:`Minibatch`: the batches whose gradients are accumulated into one step.
- :func:`pack`: groups sequences under a token budget.
- :func:`by_prompt`: groups responses by what they answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.model import LanguageModelWithCritic

__all__ = [
    "MicroBatches",
    "Minibatch",
    "ResponseStates",
    "SequenceBatch",
    "TrainingBatch",
    "by_prompt",
    "pack",
]


@dataclass(frozen=True, slots=True)
class ResponseStates:
    """Last hidden states of a batch of ``n`` responses with ``N`` tokens.

    Attributes:
        policy: Shape (N, D): the policy's, from which each response token is predicted.
        critic: Shape (N, D): the critic's at the same places; equal to the policy's where they share a trunk.
        last: Shape (n, D): the critic's behind each response's last token.
    """

    policy: Tensor
    critic: Tensor
    last: Tensor


class TrainingBatch(Protocol):
    """What a module and a loss ask of a batch; its length is the number of response tokens."""

    actions: Tensor
    columns: dict[str, Tensor]
    entropy_gradient: bool

    def __len__(self) -> int: ...

    def response_states(self, model: LanguageModelWithCritic) -> ResponseStates:
        """Runs the model."""
        ...


@dataclass(slots=True)
class SequenceBatch:
    """``n`` prompts with their responses, padded on the right to the longest, ``L`` tokens.

    What belongs to response tokens is flat, of length ``N`` (their number), in the order of the sequences: no loss
    ever sees padding. Causal attention keeps padding on the right from being seen, so there is no attention mask.

    Attributes:
        input_ids: Shape (n, L), int64.
        predicts: Shape (n, L), bool: this position's hidden state predicts a response token.
        last: Shape (n,), int64: the position of each sequence's last token.
        actions: Shape (N,), int64: the response tokens.
        columns: Further columns of shape (N,), float32, e.g. ``advantages``.
        entropy_gradient: Whether the entropy is part of the loss.
    """

    input_ids: Tensor
    predicts: Tensor
    last: Tensor
    actions: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    entropy_gradient: bool = False

    @classmethod
    def from_episodes(
        cls, episodes: Sequence[TokenEpisode], device: torch.device | str, **columns: Sequence[NDArray[np.float32]]
    ) -> SequenceBatch:
        """Pads the episodes to one batch, and moves it to the device.

        Args:
            episodes: The responses, n >= 1.
            device: Where the tensors go.
            columns: For each name the arrays of shape (T_i,), in the order of the episodes.
        """
        prompts = np.array([len(e.prompt_tokens) for e in episodes])
        ends = prompts + np.array([len(e) for e in episodes])
        input_ids = np.zeros((len(episodes), ends.max()), np.int64)
        for row, episode in enumerate(episodes):
            input_ids[row, : prompts[row]] = episode.prompt_tokens
            input_ids[row, prompts[row] : ends[row]] = episode.response_tokens
        position = np.arange(input_ids.shape[1])
        predicts = (position >= prompts[:, None] - 1) & (position < ends[:, None] - 1)
        actions = np.concatenate([e.response_tokens for e in episodes]).astype(np.int64)
        return cls(
            torch.from_numpy(input_ids).to(device),
            torch.from_numpy(predicts).to(device),
            torch.from_numpy(ends - 1).to(device),
            torch.from_numpy(actions).to(device),
            {name: torch.from_numpy(np.concatenate(column)).to(device) for name, column in columns.items()},
        )

    def __len__(self) -> int:
        return len(self.actions)

    def response_states(self, model: LanguageModelWithCritic) -> ResponseStates:
        """Runs the model."""
        hidden, critic = model.hidden_states(self.input_ids)
        rows = torch.arange(len(self.last), device=self.last.device)
        return ResponseStates(hidden[self.predicts], critic[self.predicts], critic[rows, self.last])


@dataclass(slots=True)
class MicroBatches:
    """Batches that go through the model one after the other and share one optimiser step.

    Its length is in tokens, because RLlib counts module steps with ``len``.
    """

    batches: list[TrainingBatch]

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)


@dataclass(slots=True)
class Minibatch:
    """One optimiser step's data, with what RLlib's ``Learner.update`` asks of a ``MultiAgentBatch``.

    Attributes:
        policy_batches: ``{module_id: micro-batches}``.
    """

    policy_batches: dict[str, MicroBatches]

    def env_steps(self) -> int:
        """Number of response tokens."""
        return sum(len(batches) for batches in self.policy_batches.values())


def pack(lengths: NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
    """Groups sequences of like length so that ``number * longest`` stays within a budget.

    Args:
        lengths: Tokens of each sequence, prompt included, shape (n,).
        max_tokens: Budget of a group, padding included. A longer sequence gets a group of its own.

    Returns:
        Index arrays; every sequence stands in exactly one.
    """
    order = np.argsort(-lengths, kind="stable")
    groups = []
    start = 0
    while start < len(order):
        # The first one of a group is its longest.
        count = max(1, max_tokens // int(lengths[order[start]]))
        groups.append(order[start : start + count])
        start += count
    return groups


def by_prompt(episodes: Sequence[TokenEpisode]) -> list[list[int]]:
    """Indices of the responses to each prompt, prompts in the order of their first response."""
    groups: dict[int, list[int]] = {}
    for index, episode in enumerate(episodes):
        groups.setdefault(episode.group, []).append(index)
    return list(groups.values())
