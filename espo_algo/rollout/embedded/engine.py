"""The embedded engine: continuous batching in plain torch, on CPU or CUDA.

- :class:`TorchEngine`: runs the very module that the learner trains.

One step::

    admit -> forward -> sample -> judge -> finish

Live responses always fill the first ``n`` slots. A slot that becomes free takes the next waiting prompt before the
next step; when none waits, the last live response moves into it, so that the batch shrinks with the work. A prompt that
is in a slot already is not computed again: its keys and values are copied. What is left of a response that another
engine has begun is read like a prompt (``GenerationRequest.partial``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.embedded.attention import GroupedDecoding
from espo_algo.rollout.embedded.kv_cache import SlotCache
from espo_algo.rollout.embedded.slots import ResponseSlots
from espo_algo.rollout.engine import EngineSettings, GenerationRequest, SamplingSettings
from espo_algo.rollout.partial import PartialResponse
from espo_algo.rollout.sampling import draw, end_broken, trace
from espo_env.early_stopping import DetectorState, FailureDetector
from espo_env.types import StopReason

__all__ = ["TorchEngine"]

PREFILL_TOKENS = 16384
"""Most tokens, padding included, of one prefill pass: bounds its activations."""
_SHORT_PROMPT = 32
"""Prompts up to this length are padded to each other without further thought."""

_FIRED, _END_TOKEN = 1, 2  # bits of the one tensor that a step copies to the host


class TorchEngine:
    """An :class:`~espo_algo.rollout.engine.Engine` for any decoder-only model whose cache is keys and values.

    The module is used as it is (no copy, no change of its train flag) and where it is: move it to its device first.

    Args:
        model: Policy and critic; dropout must be zero.
        settings: The whole model is in this process, so it takes one worker, no weight transfer and no options.

    Raises:
        ValueError: If a setting is out of range, the architecture's state is not plain keys and values, a sliding
            window is shorter than ``max_length``, or decoding through the cache does not give the model's logits.
    """

    def __init__(self, model: LanguageModelWithCritic, settings: EngineSettings) -> None:
        config = model.config
        if (settings.num_workers, settings.weight_transfer, dict(settings.options)) != (1, None, {}):
            raise ValueError(f"expected one worker, no weight transfer and no options, got {settings}")
        if config._attn_implementation not in ("sdpa", "eager"):
            raise ValueError(f"expected attn_implementation 'sdpa' or 'eager', got {config._attn_implementation!r}")
        self.max_length = settings.check(model)
        self.num_slots = num_slots = settings.num_slots
        self._model = model
        self._eos_token_id = -1 if settings.eos_token_id is None else settings.eos_token_id
        self._sampling = settings.sampling
        self._detector = FailureDetector(num_slots, settings.detector)
        self._weights_version = 0
        trunks = [model.trunk] if model.critic_trunk is None else [model.trunk, model.critic_trunk]
        self._caches = [SlotCache(config, num_slots, self.max_length) for _ in trunks]
        self._grouped_decoding = GroupedDecoding(*trunks)

        self._columns = torch.arange(self.max_length, device=model.policy.device)
        self._slots = ResponseSlots(num_slots, self.max_length, model.policy.device)
        self._holes: list[int] = []  # ended responses among the slots in use
        self._waiting: deque[GenerationRequest] = deque()
        self._num_live = 0
        self._check_decoding()

    @property
    def num_unfinished(self) -> int:
        """Requests submitted and not finished yet, waiting ones included."""
        return len(self._waiting) + len(self._slots.requests) - len(self._holes)

    @property
    def num_live(self) -> int:
        """Slots in use after the last step's admissions."""
        return self._num_live

    def set_sampling(self, sampling: SamplingSettings) -> None:
        """Sets how tokens are drawn from now on.

        Raises:
            RuntimeError: If responses are unfinished.
        """
        self._expect_idle("set_sampling")
        self._sampling = sampling

    def set_detector_state(self, state: DetectorState) -> None:
        """Sets the detector's statistics, tolerance and warm-up flag from now on.

        Raises:
            RuntimeError: If responses are unfinished.
        """
        self._expect_idle("set_detector_state")
        self._detector.configure(state)

    def weights_changed(self, version: int) -> None:
        """Stamps the episodes to come; the weights themselves are the module's.

        Raises:
            RuntimeError: If responses are unfinished: they would mix two policies.
        """
        self._expect_idle("weights_changed")
        self._weights_version = version

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queues prompts; they are admitted in this order.

        Raises:
            ValueError: If a request cannot be answered; none of them is queued then.
        """
        for request in requests:
            request.check(self._model.config.vocab_size, self.max_length)
        self._waiting.extend(requests)

    @torch.no_grad()  # not inference_mode: tables that a model builds lazily would break the learner's backward pass
    def step(self) -> list[TokenEpisode]:
        """Admits what fits, writes one token for every live slot, gives back what has finished (rewards unset)."""
        self._admit()
        if not self._num_live:
            return []
        logits, values = self._forward()
        drawn = draw(logits, self._slots.uniforms, self._sampling)
        if self._eos_token_id >= 0:
            end_broken(drawn, values, self._eos_token_id)
        verdict = self._detector.update(drawn.regrets, values, slice(0, self._num_live))
        self._slots.write(drawn.tokens, trace(drawn, values, verdict))
        return self._finish((drawn.tokens == self._eos_token_id) * _END_TOKEN + verdict.stop * _FIRED)

    @torch.no_grad()
    def abort(self) -> list[TokenEpisode]:
        """Gives up everything unfinished; the episodes end with ``StopReason.ABORT`` and hold what was written."""
        slots = self._live_slots()
        episodes = self._slots.episodes(slots, [StopReason.ABORT] * len(slots), *self._writer())
        episodes += [self._empty_episode(request) for request in self._waiting]
        self._drop_all()
        return episodes

    @torch.no_grad()
    def suspend(self) -> dict[int, PartialResponse]:
        """Takes everything unfinished out, to be carried on by any engine that has the model: request -> response."""
        slots = self._live_slots()
        z = torch.as_tensor(self._detector.smoothed(slots)).cpu().numpy()
        partials = self._slots.partials(slots, z, *self._writer())
        partials |= {request.request_id: request.partial or PartialResponse() for request in self._waiting}
        self._drop_all()
        return partials

    def rest(self) -> None:
        """Nothing to do: the cache is kept for the next batch."""

    def shutdown(self) -> None:
        """Drops what is unfinished and frees the cache; a later step takes the memory again."""
        self._drop_all()
        for cache in self._caches:
            cache.free()

    # --- one step ------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Fills free slots with waiting prompts, and closes the gaps that are left."""
        requests, fresh = self._slots.requests, []
        while self._holes and self._waiting:  # from the first one up: what is left lies behind all that is fresh
            fresh.append(self._holes.pop(0))
            requests[fresh[-1]] = self._waiting.popleft()
        while len(requests) < self.num_slots and self._waiting:
            fresh.append(len(requests))
            requests.append(self._waiting.popleft())
        while self._holes:  # from the last one down, so that the last slot in use is this hole or a live one
            hole, last = self._holes.pop(), len(requests) - 1
            if hole != last:
                for cache in self._caches:
                    cache.copy(last, hole, int(self._slots.length[last]))
                self._detector.move(last, hole)
                self._slots.move(last, hole)
            requests.pop()
        self._num_live = len(requests)
        if fresh:
            success = np.array([requests[slot].prompt_success for slot in fresh], np.float32)
            z = np.array([0.0 if (partial := requests[slot].partial) is None else partial.z for slot in fresh])
            steps = np.array([requests[slot].num_written for slot in fresh])
            self._detector.reset(np.array(fresh), self._slots.start(fresh), success, z, steps)
            # All tokens but the last one: that is decoded, together with everyone else's.
            new, known = self._split_by_prompt(fresh)
            for group in _prefill_groups(self._slots.length[new] - 1):
                self._prefill([new[row] for row in group])
            if known and (length := int(self._slots.prompt_length[list(known)].max()) - 1):
                targets, sources = torch.tensor(list(known.items()), device=self._columns.device).T
                for cache in self._caches:
                    cache.copy(sources, targets, length)

    def _split_by_prompt(self, fresh: list[int]) -> tuple[list[int], dict[int, int]]:
        """The slots that have to be computed; for each other fresh one a slot with the same prompt."""
        requests = self._slots.requests
        holders = {requests[slot].prompt_tokens.tobytes(): slot for slot in {*range(len(requests))}.difference(fresh)}
        new, known = [], {}
        for slot in fresh:
            holder = holders.setdefault(requests[slot].prompt_tokens.tobytes(), slot)
            if holder == slot or requests[slot].num_written:
                new.append(slot)
            else:
                known[slot] = holder
        return new, known

    def _prefill(self, slots: list[int]) -> None:
        """Runs prompts and what follows them, right-padded, through the model: only the cache is of interest."""
        prompts = [self._slots.requests[slot].context()[:-1] for slot in slots]
        tokens = np.zeros((len(slots), max(map(len, prompts))), np.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        index = torch.as_tensor(slots, device=self._columns.device)
        for cache in self._caches:
            cache.prefill(index)
        positions = self._columns[: tokens.shape[1]].expand(tokens.shape)
        inputs = torch.as_tensor(tokens, device=self._columns.device)
        self._model.hidden_states(inputs, None, positions, self._caches[0], self._caches[-1])

    def _forward(self) -> tuple[Tensor, Tensor]:
        """Logits (n, V) and values (n,) of the live slots."""
        positions, width = self._slots.positions, int(self._slots.length[: self._num_live].max())
        for cache in self._caches:
            cache.decode(positions, width)
        # Additive and in the model's dtype: the one form that every attention takes as it is.
        mask = torch.zeros(len(positions), 1, 1, width, dtype=self._model.policy.dtype, device=positions.device)
        mask.masked_fill_(self._columns[:width] > positions[:, None, None, None], -torch.inf)
        with self._grouped_decoding:
            policy, critic = self._model.hidden_states(
                self._slots.inputs[:, None], mask, positions[:, None], self._caches[0], self._caches[-1]
            )
        return self._model.project(policy[:, -1]), self._model.value(critic[:, -1])

    def _finish(self, status: Tensor) -> list[TokenEpisode]:
        """Takes the ended responses out; their slots become holes."""
        bits = status.cpu().numpy()  # the step's only wait for the device, unless a response ends
        ended, reasons = self._slots.judge(bits >= _END_TOKEN, (bits & _FIRED) > 0)
        self._holes = ended.tolist()
        return self._slots.episodes(ended, reasons, *self._writer())

    # --- checks and helpers --------------------------------------------------------------------------------------

    def _live_slots(self) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(len(self._slots.requests)), self._holes)

    def _writer(self) -> tuple[int, bool]:
        """Version of the weights that write now, and whether the detector may fire."""
        return self._weights_version, self._detector.state.enabled

    def _empty_episode(self, request: GenerationRequest) -> TokenEpisode:
        return TokenEpisode(
            prompt_tokens=request.prompt_tokens,
            response_tokens=np.zeros(0, np.int32),
            stop_reason=StopReason.ABORT,
            request_id=request.request_id,
            seed=request.seed,
            weights_version=self._weights_version,
        )

    def _drop_all(self) -> None:
        self._waiting.clear()
        self._slots.requests.clear()
        self._holes.clear()
        self._num_live = 0

    def _expect_idle(self, what: str) -> None:
        if self.num_unfinished:
            raise RuntimeError(f"expected no unfinished responses at {what}, got {self.num_unfinished}")

    @torch.no_grad()
    def _check_decoding(self) -> None:
        """Two rows of different length through the cache must give what the bare model gives.

        Position schemes that are computed from a two-dimensional mask, for example, would be silently wrong.
        """
        lengths = [min(3, self.max_length - 1), 1][: self.num_slots]
        prompts = [np.arange(length, dtype=np.int32) % self._model.config.vocab_size for length in lengths]
        self.submit([GenerationRequest(0, prompt, seed=0, max_new_tokens=1) for prompt in prompts])
        try:
            self._admit()
            got = self._forward()[0]
        except ValueError as error:
            raise ValueError(
                f"expected an architecture that decodes with a mask of shape (n, 1, 1, S), "
                f"got {type(self._model.policy).__name__}, which does not: {error}"
            ) from error
        self._drop_all()
        tolerance = 1e-3 if got.dtype == self._model.policy.dtype else 5e-2
        for row, prompt in enumerate(prompts):
            hidden, _ = self._model.hidden_states(torch.as_tensor(prompt, device=got.device)[None].long())
            expected = self._model.project(hidden[0, -1])
            if not torch.allclose(got[row], expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())):
                raise ValueError(
                    f"expected the logits of {type(self._model.policy).__name__} from its cache, got a difference of "
                    f"{float((got[row] - expected).abs().max()):.3g}: "
                    f"its architecture needs more than keys and values, or dropout is on"
                )


def _prefill_groups(lengths: NDArray[np.int64]) -> list[list[int]]:
    """Splits prompts into passes, so that padding at most doubles the work and memory is bounded.

    Args:
        lengths: Tokens of each prompt, shape (n,); those of length 0 need no pass.
    """
    groups: list[list[int]] = []
    longest = 0
    for row in np.argsort(-lengths, kind="stable"):
        length = int(lengths[row])
        if not length:
            break
        too_short = longest > max(2 * length, _SHORT_PROMPT)
        if not groups or too_short or (len(groups[-1]) + 1) * longest > PREFILL_TOKENS:
            groups.append([])
            longest = length
        groups[-1].append(int(row))
    return groups
