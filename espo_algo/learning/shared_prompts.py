"""A batch in which a prompt is computed once for all responses to it, and hardly anything is padded.

- :class:`SharedPromptBatch`: prompts, and behind their keys and values the responses in blocks of like length.
- :class:`ResponseBlock`: the responses of one pass.
- :func:`arrange`: which responses go through the model together; :data:`LONGEST`: how long they may be.
- :func:`check_shared_prompts`: whether a model computes the same this way.

The prompts go through the model first and leave their keys and values; then each block of responses attends to those
of its prompts and to itself. Gradients flow back through the keys and values. Sums are taken in another order than in
:class:`~espo_algo.learning.batching.SequenceBatch`: gradients are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.batching import ResponseStates, SequenceBatch
from espo_algo.learning.model import LanguageModelWithCritic
from espo_env.types import StopReason

__all__ = ["LONGEST", "ResponseBlock", "SharedPromptBatch", "arrange", "blocks_of_like_length", "check_shared_prompts"]

LONGEST = 1024
"""Tokens of a response, at most. A longer one is computed with a prompt of its own: attending to a shared one takes a
mask, whose memory and time grow with the square of the length; the prompt is little of it."""

_PASS_TOKENS = 64
"""What another pass through the model costs, in tokens of padding: worked out from step costs."""


@dataclass(slots=True)
class ResponseBlock:
    """``n`` responses of like length, padded on the right to the longest, ``R`` tokens, behind prompts of ``P``.

    Attributes:
        input_ids: Shape (n, R), int64.
        lengths: Shape (n,), int64: tokens of each response.
        prompts: Shape (n,), int64: the prompt of each, as a row of the batch's prompts.
        positions: Shape (n, R), int64: of each token in its sequence.
        predicts: Shape (n, 1 + R), bool: of the prompt's last state and the response's, those that predict a token.
    """

    input_ids: Tensor
    lengths: Tensor
    prompts: Tensor
    positions: Tensor
    predicts: Tensor

    def mask(self, prompt: int, dtype: torch.dtype) -> Tensor:
        """Minus infinity where a token does not attend to another, shape (n, 1, R, P + R).

        In the dtype of the keys: the one form that every attention takes as it is. Made for one pass, never kept for
        all of a minibatch.

        Args:
            prompt: ``P``.
            dtype: Of the keys.
        """
        count, width = self.input_ids.shape
        place = torch.arange(max(prompt, width), device=self.input_ids.device)
        mask = torch.zeros(count, 1, width, prompt + width, dtype=dtype, device=self.input_ids.device)
        # A response begins where its prompt ends.
        mask[..., :prompt].masked_fill_((place[:prompt] >= self.positions[:, :1])[:, None, None], -torch.inf)
        mask[..., prompt:].masked_fill_(place[:width] > place[:width, None], -torch.inf)
        return mask


@dataclass(slots=True)
class SharedPromptBatch:
    """``g`` prompts, padded on the right to the longest, ``P`` tokens, and the responses to them.

    Attributes:
        prompt_ids: Shape (g, P), int64.
        prompt_ends: Shape (g,), int64: the position of each prompt's last token.
        blocks: The responses.
        actions: Shape (N,), int64: the response tokens, in the order of the blocks.
        columns: Further columns of shape (N,), float32, e.g. ``advantages``.
        entropy_gradient: Whether the entropy is part of the loss.
    """

    prompt_ids: Tensor
    prompt_ends: Tensor
    blocks: list[ResponseBlock]
    actions: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    entropy_gradient: bool = False

    @classmethod
    def from_episodes(
        cls,
        episodes: Sequence[TokenEpisode],
        blocks: Sequence[NDArray[np.int64]],
        device: torch.device | str,
        **columns: Sequence[NDArray[np.float32]],
    ) -> SharedPromptBatch:
        """Puts responses together that answer the same prompt, and moves them to the device.

        Args:
            episodes: Responses, of which some are chosen.
            blocks: The chosen ones of each pass, as indices.
            device: Where the tensors go.
            columns: For each name the arrays of shape (T_i,), in the order of the episodes.
        """
        order = np.concatenate(blocks)
        prompts = {episodes[i].prompt_tokens.tobytes(): episodes[i].prompt_tokens for i in order}
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        prompt_ids, prompt_lengths = _padded([*prompts.values()])
        made = []
        for block in blocks:
            input_ids, lengths = _padded([episodes[i].response_tokens for i in block])
            rows = np.array([row_of[episodes[i].prompt_tokens.tobytes()] for i in block])
            before, position = prompt_lengths[rows], np.arange(input_ids.shape[1])
            predicts = np.arange(1 + len(position)) < lengths[:, None]
            arrays = (input_ids, lengths, rows, before[:, None] + position, predicts)
            made.append(ResponseBlock(*(torch.from_numpy(array).to(device) for array in arrays)))
        actions = np.concatenate([episodes[i].response_tokens for i in order]).astype(np.int64)
        return cls(
            torch.from_numpy(prompt_ids).to(device),
            torch.from_numpy(prompt_lengths - 1).to(device),
            made,
            torch.from_numpy(actions).to(device),
            {
                name: torch.from_numpy(np.concatenate([column[i] for i in order])).to(device)
                for name, column in columns.items()
            },
        )

    def __len__(self) -> int:
        return len(self.actions)

    def response_states(self, model: LanguageModelWithCritic) -> ResponseStates:
        """Runs the model; see :class:`~espo_algo.learning.batching.ResponseStates`."""
        caches = [DynamicCache(), DynamicCache()]
        prompts = model.hidden_states(self.prompt_ids, None, None, *caches)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for block in self.blocks:
            mask = block.mask(self.prompt_ids.shape[1], caches[0].layers[0].keys.dtype)
            behind = [_rows(cache, block.prompts) for cache in caches]
            states = model.hidden_states(block.input_ids, mask, block.positions, *behind)
            # The first token of a response is predicted by the last one of its prompt.
            ends = self.prompt_ends[block.prompts]
            policy, critic = (
                torch.cat((prompt[block.prompts, ends][:, None], state), dim=1)
                for prompt, state in zip(prompts, states, strict=True)
            )
            rows = torch.arange(len(block.lengths), device=block.lengths.device)
            parts.append((policy[block.predicts], critic[block.predicts], critic[rows, block.lengths]))
        return ResponseStates(*map(torch.cat, zip(*parts, strict=True)))


def arrange(
    episodes: Sequence[TokenEpisode], chosen: NDArray[np.int64], max_tokens: int
) -> list[list[NDArray[np.int64]]]:
    """Groups chosen responses under a token budget, and splits each group into blocks of like length.

    Args:
        episodes: Responses.
        chosen: Indices of some of them; those to a prompt, wherever they stand, end up behind each other.
        max_tokens: Budget of a group: its responses, and each of its prompts once, padded to the longest. A response
            that does not fit with its prompt gets a group of its own.

    Returns:
        The blocks of each batch, as indices; every chosen response stands in exactly one.
    """
    prompts = {i: episodes[i].prompt_tokens.tobytes() for i in chosen.tolist()}
    first: dict[bytes, int] = {}
    for place, prompt in enumerate(prompts.values()):
        first.setdefault(prompt, place)
    groups: list[list[int]] = []
    longest, tokens, known = 0, 0, set[bytes]()
    for i in sorted(prompts, key=lambda i: (-len(prompts[i]), first[prompts[i]])):
        cost = len(episodes[i]) + (0 if prompts[i] in known else longest)
        if not groups or tokens + cost > max_tokens:
            groups.append([])
            longest, tokens, known = len(episodes[i].prompt_tokens), 0, set()
            cost = longest + len(episodes[i])
        groups[-1].append(i)
        known.add(prompts[i])
        tokens += cost
    lengths = [np.array([len(episodes[i]) for i in group]) for group in groups]
    return [
        [np.array(group)[block] for block in blocks_of_like_length(own)]
        for group, own in zip(groups, lengths, strict=True)
    ]


def blocks_of_like_length(lengths: NDArray[np.int64], pass_tokens: int = _PASS_TOKENS) -> list[NDArray[np.int64]]:
    """Splits responses into blocks with the least padding, where each block costs some tokens of its own.

    Args:
        lengths: Tokens of each response, shape (n,), n >= 1.
        pass_tokens: Cost of a block beside ``number * longest``.

    Returns:
        Index arrays, longest responses first; every response stands in exactly one.
    """
    order = np.argsort(-lengths, kind="stable")
    descending, count = lengths[order], len(lengths)
    # cheapest[i]: cost of the responses from the i-th longest on; a block from i to j costs (j - i) * longest.
    cheapest, end = np.zeros(count + 1), np.zeros(count, np.int64)
    for i in range(count - 1, -1, -1):
        costs = np.arange(1, count - i + 1) * descending[i] + cheapest[i + 1 :]
        end[i] = i + 1 + int(costs.argmin())
        cheapest[i] = pass_tokens + costs.min()
    blocks, start = [], 0
    while start < count:
        blocks.append(order[start : end[start]])
        start = int(end[start])
    return blocks


@torch.no_grad()
def check_shared_prompts(model: LanguageModelWithCritic) -> None:
    """Compares the two kinds of batches on four short responses to two prompts.

    Raises:
        ValueError: If the model does not compute the same: its architecture needs more than keys and values, or
            positions that are not given to it.
    """
    rng, device = np.random.default_rng(0), model.policy.device
    tokens = [rng.integers(0, model.vocab_size, length).astype(np.int32) for length in (3, 1, 2, 4, 1, 3)]
    episodes = [TokenEpisode(tokens[i % 2], tokens[2 + i], StopReason.EOS) for i in range(4)]
    shared = SharedPromptBatch.from_episodes(episodes, [np.arange(2), np.arange(2, 4)], device)
    try:
        got = shared.response_states(model)
    except ValueError as error:
        raise ValueError(
            f"expected an architecture that takes a mask of shape (n, 1, R, P + R) for share_prompts, "
            f"got {type(model.policy).__name__}, which does not: {error}"
        ) from error
    expected = SequenceBatch.from_episodes(episodes, device).response_states(model)
    tolerance = 1e-3 if got.policy.dtype == torch.float32 else 5e-2
    for name in ("policy", "critic", "last"):
        left, right = getattr(got, name), getattr(expected, name)
        if not torch.allclose(left, right, rtol=tolerance, atol=tolerance * float(right.abs().max())):
            raise ValueError(
                f"expected an architecture that computes the same with share_prompts, got "
                f"{type(model.policy).__name__}, whose states differ by {float((left - right).abs().max()):.3g}"
            )


def _padded(sequences: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right-padded tokens, and lengths."""
    lengths = np.array([len(tokens) for tokens in sequences])
    padded = np.zeros((len(sequences), lengths.max()), np.int64)
    for row, tokens in zip(padded, sequences, strict=True):
        row[: len(tokens)] = tokens
    return padded, lengths


def _rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Some rows of a cache, one for each of ``rows``; gradients flow back to it."""
    chosen = DynamicCache()
    for index, layer in enumerate(cache.layers):
        chosen.update(layer.keys[rows], layer.values[rows], index)
    return chosen
