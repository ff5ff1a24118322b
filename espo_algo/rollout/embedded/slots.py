"""The responses that the embedded engine is writing: requests, tokens, traces and counters by slot.

- :class:`ResponseSlots`: one response a slot, on the host and on the device.

Step ``t`` of a response is written to column ``prompt_length - 1 + t``, the position of the token before it. So one
position a slot is enough: it names the column in the cache, in the uniforms and in the trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.engine import GenerationRequest
from espo_algo.rollout.noise import request_noise
from espo_algo.rollout.partial import PartialResponse, extended
from espo_env.early_stopping import decide, stop_reason
from espo_env.types import TRACE_COLUMNS, StopReason

__all__ = ["ResponseSlots"]


class ResponseSlots:
    """Arrays with a row for each of ``num_slots`` responses; the first ``count`` slots are those in use.

    Args:
        num_slots: Responses at the same time.
        max_length: Most tokens of a prompt and its response.
        device: Where the sampling runs.
    """

    def __init__(self, num_slots: int, max_length: int, device: torch.device) -> None:
        self.requests: list[GenerationRequest] = []
        """The request of each slot in use."""
        # Host. Lengths and ends count prompt and response; unpacking gives views of the rows.
        self._host = np.zeros((5, num_slots), np.int64)
        self.prompt_length, self.length, self._end, self._mark, self._mark_only = self._host
        # Device.
        self._rows = torch.arange(num_slots, device=device)
        self._positions = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._inputs = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._uniforms = torch.zeros(num_slots, max_length, dtype=torch.float64, device=device)
        self._tokens = torch.zeros(num_slots, max_length, dtype=torch.int32, device=device)
        self._trace = torch.zeros(len(TRACE_COLUMNS), num_slots, max_length, device=device)

    @property
    def positions(self) -> Tensor:
        """Position of each slot's input token, shape (count,)."""
        return self._positions[: len(self.requests)]

    @property
    def inputs(self) -> Tensor:
        """The last token of each slot, which the next one follows, shape (count,)."""
        return self._inputs[: len(self.requests)]

    @property
    def uniforms(self) -> Tensor:
        """This step's uniforms, shape (count,)."""
        return self._uniforms[self._rows[: len(self.requests)], self.positions]

    def start(self, slots: list[int]) -> NDArray[np.float32]:
        """Sets up the responses to new :attr:`requests` of these slots, with what there is of them already.

        Returns:
            Their Exp(1) variates for the detector, shape (len(slots),).
        """
        requests = [self.requests[slot] for slot in slots]
        lengths = np.array([len(request.prompt_tokens) for request in requests])
        written = np.array([request.num_written for request in requests])
        marks = [-1 if request.partial is None else request.partial.mark for request in requests]
        horizons = np.array([request.max_new_tokens for request in requests])
        marks_only = [request.mark_only for request in requests]
        self._host[:, slots] = [lengths, lengths + written, lengths + horizons, marks, marks_only]
        uniforms = np.zeros((len(slots), (lengths + horizons).max() - 1))
        draws = np.zeros(len(slots), np.float32)
        for row, request in enumerate(requests):
            noise, draws[row] = request_noise(request.seed, request.max_new_tokens)
            uniforms[row, lengths[row] - 1 : lengths[row] - 1 + len(noise)] = noise
        index = self._on_device(slots)
        self._uniforms[index, : uniforms.shape[1]] = self._on_device(uniforms)
        self._positions[index] = self._on_device(lengths + written - 1)
        self._inputs[index] = self._on_device([int(request.context()[-1]) for request in requests])
        for slot, request, length in zip(slots, requests, lengths.tolist(), strict=True):
            if request.partial is not None:
                columns = slice(length - 1, length - 1 + len(request.partial))
                self._tokens[slot, columns] = self._on_device(request.partial.response_tokens)
                self._trace[:, slot, columns] = self._on_device(request.partial.trace)
        return draws

    def move(self, source: int, target: int) -> None:
        """Copies a response to another slot."""
        self.requests[target] = self.requests[source]
        self._host[:, target] = self._host[:, source]
        for column in (self._positions, self._inputs, self._uniforms, self._tokens):
            column[target] = column[source]
        self._trace[:, target] = self._trace[:, source]

    def write(self, tokens: Tensor, trace: Tensor) -> None:
        """Writes a token and its trace to every slot in use, on the device.

        Args:
            tokens: Shape (count,), int64.
            trace: Shape (len(TRACE_COLUMNS), count).
        """
        positions = self.positions
        rows = self._rows[: len(positions)]
        self._trace[:, rows, positions] = trace
        self._tokens[rows, positions] = tokens.int()
        self.inputs.copy_(tokens)
        positions += 1

    def judge(
        self, at_end_token: NDArray[np.bool_], fired: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], list[StopReason]]:
        """Counts the token just written; says which responses have ended with it, and marks where the detector fired.

        Args:
            at_end_token: Whether the token is the end-of-sequence token, shape (count,).
            fired: Whether the detector fires here, shape (count,).

        Returns:
            The slots of the responses that have ended, ascending, and why.
        """
        used = slice(0, len(self.requests))
        length, mark = self.length[used], self._mark[used]
        length += 1
        natural = at_end_token | (length >= self._end[used])
        steps = length - self.prompt_length[used] - 1
        stopped, mark[:] = decide(fired, natural, steps, mark, self._mark_only[used])
        ended = np.flatnonzero(natural | stopped)
        return ended, [stop_reason(at_end_token[row], stopped[row]) for row in ended]

    def episodes(
        self, slots: NDArray[np.int64], reasons: Sequence[StopReason], version: int, stopping: bool
    ) -> list[TokenEpisode]:
        """Copies responses to the host, all in one go.

        Args:
            slots: Where they are.
            reasons: Why each of them is over.
            version: Of the weights that have written here.
            stopping: Whether the detector was to fire meanwhile.
        """
        return [
            TokenEpisode(
                prompt_tokens=request.prompt_tokens,
                response_tokens=tokens,
                stop_reason=reason,
                mark=int(self._mark[slot]),
                segments=extended(request.partial, len(tokens), version, stopping),
                request_id=request.request_id,
                seed=request.seed,
                weights_version=version,
                **dict(zip(TRACE_COLUMNS, trace, strict=True)),
            )
            for slot, reason, (request, tokens, trace) in zip(slots, reasons, self._written(slots), strict=True)
        ]

    def partials(
        self, slots: NDArray[np.int64], z: NDArray[np.float32], version: int, stopping: bool
    ) -> dict[int, PartialResponse]:
        """The same for responses that are not over: request -> response.

        Args:
            slots: Where they are.
            z: The detector's, of each.
            version: As for :meth:`episodes`.
            stopping: As there.
        """
        return {
            request.request_id: PartialResponse(
                tokens,
                trace,
                int(self._mark[slot]),
                float(now),
                extended(request.partial, len(tokens), version, stopping),
            )
            for slot, now, (request, tokens, trace) in zip(slots, z, self._written(slots), strict=True)
        }

    def _written(
        self, slots: NDArray[np.int64]
    ) -> list[tuple[GenerationRequest, NDArray[np.int32], NDArray[np.float32]]]:
        if not len(slots):
            return []
        index, width = self._on_device(slots), int(self.length[slots].max())
        tokens = self._tokens[index, :width].cpu().numpy()
        trace = self._trace[:, index, :width].cpu().numpy()
        responses = []
        for row, slot in enumerate(slots):
            written = slice(self.prompt_length[slot] - 1, self.length[slot] - 1)
            responses.append((self.requests[slot], tokens[row, written].copy(), trace[:, row, written].copy()))
        return responses

    def _on_device(self, numbers: NDArray | list[int]) -> Tensor:
        return torch.as_tensor(numbers, device=self._rows.device)
