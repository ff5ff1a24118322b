"""The engine protocol, with the records that an engine is built from and is given.

- :class:`GenerationRequest`: one prompt to answer.
- :class:`SamplingSettings`: how tokens are drawn.
- :class:`EngineSettings`: what an engine is built from, beside its model.
- :class:`Engine`: the protocol that every engine keeps.

A loop over an engine::

    engine.submit(requests)
    while engine.num_unfinished:
        for episode in engine.step():   # one token for every live slot
            ...                         # finished; its slot is refilled before the next step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.partial import PartialResponse
from espo_env.early_stopping import DetectorSettings, DetectorState

if TYPE_CHECKING:
    from espo_algo.learning.model import LanguageModelWithCritic

__all__ = ["Engine", "EngineSettings", "GenerationRequest", "SamplingSettings"]


@dataclass(slots=True)
class GenerationRequest:
    """One prompt to answer, or one whose answer is to be carried on.

    Attributes:
        request_id: Given back on the episode.
        prompt_tokens: Shape (P,), P >= 1.
        seed: Seed of this response's sampling; the tokens do not depend on what else is in the batch.
        max_new_tokens: Horizon ``T_max``; a response of that length ends with ``StopReason.LENGTH``.
        mark_only: Let the response run on where the detector fires, and write down the place (``Trajectory.mark``).
        prompt_success: How often other responses to the prompt were right, in [0, 1], for stop rules that ask.
        partial: What there is of the response, whose next token is drawn with the uniform of that step; None for a new
            one. Only for engines of a kind that ``carries``.
    """

    request_id: int
    prompt_tokens: NDArray[np.int32]
    seed: int
    max_new_tokens: int
    mark_only: bool = False
    prompt_success: float = 1.0
    partial: PartialResponse | None = None

    @property
    def num_written(self) -> int:
        """Tokens that the response has when it is submitted."""
        return 0 if self.partial is None else len(self.partial)

    def context(self) -> NDArray[np.int32]:
        """All tokens that the next one follows, at least one."""
        if self.partial is None:
            return self.prompt_tokens
        return np.concatenate((self.prompt_tokens, self.partial.response_tokens))

    def check(self, vocab_size: int, max_length: int) -> None:
        """Raises a ValueError if an engine with this vocabulary and length cannot answer it."""
        prompt, new = self.prompt_tokens, self.max_new_tokens
        if not len(prompt):
            raise ValueError(f"expected a prompt of at least one token, got none (request {self.request_id})")
        if prompt.min() < 0 or prompt.max() >= vocab_size:
            raise ValueError(f"expected token ids in [0, {vocab_size}), got {prompt.min()} to {prompt.max()}")
        if new < 1:
            raise ValueError(f"expected max_new_tokens >= 1, got {new}")
        if self.num_written >= new:
            raise ValueError(f"expected less than max_new_tokens={new} tokens to go on from, got {self.num_written}")
        if len(prompt) + new > max_length:
            raise ValueError(
                f"expected prompt and new tokens within max_length {max_length} (the engine's, at most the "
                f"model's context), got {len(prompt)} + {new} = {len(prompt) + new}"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"expected a seed in [0, 2**64), got {self.seed}")


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How tokens are drawn.

    Regrets and log-probabilities are those of the distribution that is sampled from. ``top_p`` and ``top_k`` bias the
    ratio of PPO, so they are for evaluation only.

    Attributes:
        temperature: > 0.
        top_p: Nucleus sampling, in (0, 1]; 1 is off.
        top_k: Keep the k likeliest tokens; 0 is off.
        greedy: Take the likeliest token; the others are ignored.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    greedy: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"expected temperature > 0 (greedy=True for the likeliest token), got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected top_p in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"expected top_k >= 0, got {self.top_k}")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine is built from, beside its model: ``MyEngine(model, settings)``.

    Attributes:
        num_slots: How many responses are written at the same time.
        max_length: Most tokens of a prompt and its response; cut to the model's context. Sets the cache's size.
        eos_token_id: The end-of-sequence token; None where responses end at their horizon only.
        detector: Rule and constants of the failure detector.
        sampling: How tokens are drawn until ``set_sampling``.
        num_workers: Processes that the model is split over (tensor parallel).
        weight_transfer: Backend by which weights may arrive beside Ray's object store, see
            :mod:`espo_algo.weight_sync.vllm_transfer`; None for none.
        options: ``engine_options``: settings that only this kind of engine has.
    """

    num_slots: int
    max_length: int
    eos_token_id: int | None
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    num_workers: int = 1
    weight_transfer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, model: LanguageModelWithCritic) -> int:
        """Checks the settings against the model.

        Returns:
            ``max_length``, cut to the model's context.

        Raises:
            ValueError: If the end-of-sequence token or the length cannot be.
        """
        end, context = self.eos_token_id, getattr(model.config, "max_position_embeddings", None)
        if end is not None and not 0 <= end < model.vocab_size:
            raise ValueError(f"expected eos_token_id in [0, vocab_size={model.vocab_size}), got {end}")
        if self.max_length < 2:
            raise ValueError(f"expected max_length >= 2 (a prompt token and a new one), got {self.max_length}")
        return min(self.max_length, context or self.max_length)


class Engine(Protocol):
    """A batched policy with the failure detector inside.

    A stop is taken in the step that shows it: nothing is generated behind it, and the slot is refilled before the
    next step. A response that ends by itself on a step (end-of-sequence token, horizon) is not stopped on that step.
    """

    num_slots: int
    """How many responses are written at the same time."""

    @property
    def num_unfinished(self) -> int:
        """Requests submitted and not finished yet, waiting ones included."""
        ...

    @property
    def num_live(self) -> int:
        """Slots in use after the last step's admissions."""
        ...

    def set_sampling(self, sampling: SamplingSettings) -> None:
        """Sets how tokens are drawn from now on. Only while nothing is unfinished."""
        ...

    def set_detector_state(self, state: DetectorState) -> None:
        """Sets the detector's statistics, tolerance and warm-up flag from now on. Only while nothing is unfinished."""
        ...

    def weights_changed(self, version: int) -> None:
        """Takes over the model's new weights, and stamps the episodes with their version.

        Raises:
            RuntimeError: If responses are unfinished: they would mix two policies.
        """
        ...

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queues prompts; they are admitted in this order.

        Raises:
            ValueError: If a prompt is empty or does not fit the context.
        """
        ...

    def step(self) -> list[TokenEpisode]:
        """Admits what fits, writes one token for every live slot, gives back what has finished (rewards unset)."""
        ...

    def abort(self) -> list[TokenEpisode]:
        """Gives up everything unfinished; the episodes end with ``StopReason.ABORT``."""
        ...

    def suspend(self) -> dict[int, PartialResponse]:
        """Takes everything unfinished out, to be carried on by any engine that has the model: request -> response.

        Only a kind of engine that ``carries`` is asked; see :class:`~espo_algo.rollout.engines.EngineKind`.
        """
        ...

    def rest(self) -> None:
        """Called where no work follows for now; an engine may give its accelerator's memory back until more comes."""
        ...

    def shutdown(self) -> None:
        """Frees the engine's memory."""
        ...
