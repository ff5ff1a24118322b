"""The vLLM engine: continuous batching on GPUs and, the same code, on a CPU.

- :class:`VLLMEngine`: the engine protocol on vLLM's step loop.
- :func:`engine_weights`: a model's weights by the names that vLLM knows; :func:`engine_names`: these names.

vLLM schedules, runs the model and keeps its cache; tokens are drawn and judged by the embedded engine's code, see
:mod:`espo_algo.rollout.vllm.worker`. So the same weights and seeds give the same responses as there, up to rounding.
vLLM takes over its process (threads, memory binding): give it an actor of its own.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.engine import EngineSettings, GenerationRequest, SamplingSettings
from espo_algo.rollout.partial import PartialResponse, extended
from espo_algo.rollout.vllm.start import start_vllm
from espo_env.early_stopping import DetectorState, stop_reason
from espo_env.types import TRACE_COLUMNS, Segment, StopReason

__all__ = ["VLLMEngine", "engine_names", "engine_weights"]

_SHARED_MEMORY = "/dev/shm"
_FILE_HEADER = 1 << 20  # names and shapes, generously

AnyWeight = TypeVar("AnyWeight")


class VLLMEngine:
    """An :class:`~espo_algo.rollout.engine.Engine` for ``support.SUPPORTED_ARCHITECTURES``.

    vLLM has its own copy of the weights; the module may be on any device.

    Args:
        model: Policy and critic; vLLM computes in the policy's dtype.
        settings: ``options`` are further fields of vLLM's ``EngineArgs``, such as ``gpu_memory_utilization``. On the
            CPU the cache has room for every slot's longest response, and nothing is compiled, if they do not say
            otherwise. With ``enable_sleep_mode`` vLLM gives the GPU's memory back whenever it rests (weights wait in
            the machine's memory, the cache is dropped), so that a learner can use it; on the CPU vLLM ignores that.
            With ``async_scheduling`` vLLM prepares a step while the one before it runs; a slot is refilled a step later
            then, and a row is computed in vain for every response that ends by its token or by a stop.
            With ``check_every_step`` several workers compare their tokens after every step, and not only those of a
            response when it has ended, to find where they part; each step waits for the device then.

    Raises:
        ImportError: If no vLLM, or none of a version in ``support.SUPPORTED_VLLM``, is installed.
        ValueError: If a setting is out of range, the architecture is not supported, or the memory does not hold the
            model and one response of ``max_length``.
    """

    def __init__(self, model: LanguageModelWithCritic, settings: EngineSettings) -> None:
        if settings.eos_token_id is None:
            raise ValueError("expected an eos_token_id, by which vLLM ends a stopped response, got None")
        self.max_length = settings.check(model)
        self.num_slots = settings.num_slots
        self._model = model
        self._eos_token_id = settings.eos_token_id
        self._num_workers = settings.num_workers
        self._stopping = True
        self._weights_version = 0
        self._submitted = 0
        # By vLLM's name for it; vLLM's workers know a request by a longer one, which comes second.
        self._requests: dict[str, tuple[GenerationRequest, str]] = {}
        self._idle = True
        self._receives = False
        self._sleeps = bool(settings.options.get("enable_sleep_mode", False))
        self.identity = uuid.uuid4().hex
        """Unlike that of every other engine, and of this one after a restart."""
        options = dict(settings.options)
        check_every_step = options.pop("check_every_step", False)
        self._engine = start_vllm(model, replace(settings, options=options), self.max_length)
        self._call(
            "install_early_stopping",
            check_every_step=check_every_step,
            num_slots=settings.num_slots,
            max_new_tokens=self.max_length - 1,
            vocab_size=model.vocab_size,
            eos_token_id=settings.eos_token_id,
            detector=settings.detector,
        )
        self._call("configure_early_stopping", sampling=settings.sampling)
        self.weights_changed(0)

    @property
    def num_unfinished(self) -> int:
        """Requests submitted and not finished yet, waiting ones included."""
        return len(self._requests)

    @property
    def num_live(self) -> int:
        """Slots in use in the last step, those included whose prompt is still being read."""
        return 0 if self._idle else self._call("count_live")

    def set_sampling(self, sampling: SamplingSettings) -> None:
        """Sets how tokens are drawn from now on.

        Raises:
            RuntimeError: If responses are unfinished.
        """
        self._expect_idle("set_sampling")
        self._call("configure_early_stopping", sampling=sampling)

    def set_detector_state(self, state: DetectorState) -> None:
        """Sets the detector's statistics, tolerance and warm-up flag from now on.

        Raises:
            RuntimeError: If responses are unfinished.
        """
        self._expect_idle("set_detector_state")
        self._call("configure_early_stopping", state=state)
        self._stopping = state.enabled

    def weights_changed(self, version: int) -> None:
        """Gives vLLM the module's weights, and stamps the episodes to come.

        Raises:
            RuntimeError: If responses are unfinished: they would mix two policies; or if vLLM keeps its prefix cache,
                which the old weights computed.
        """
        self._expect_idle("weights_changed")
        self._wake_up()
        weights = engine_weights(self._model)
        if self._num_workers == 1:
            self._call("take_weights", weights)
        else:  # workers are processes: one file in memory for all of them, instead of a pickled copy for each
            with tempfile.TemporaryDirectory(dir=_shared_memory(weights)) as folder:
                file = str(Path(folder, "weights.safetensors"))
                save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, file)
                self._call("take_weights", file)
        self._forget_old_weights(version)
        self.rest()

    def transfer(self, method: str, **kwargs: Any) -> None:
        """One call of vLLM's weight-transfer API, in every worker.

        Raises:
            RuntimeError: If responses are unfinished.
        """
        self._expect_idle(method)
        self._wake_up()
        if method == "init_weight_transfer_engine":
            if self._receives:  # from a group that is no more
                self._call("shutdown_weight_transfer_engine")
            self._receives = True
        self._call(method, **kwargs)

    def weights_transferred(self, version: int) -> None:
        """Like :meth:`weights_changed`, after new weights came by :meth:`transfer`.

        Raises:
            RuntimeError: As there.
        """
        self._expect_idle("weights_transferred")
        self._call("refresh_output_embedding")
        self._forget_old_weights(version)
        self.rest()

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queues prompts; they are admitted in this order.

        Raises:
            ValueError: If a request cannot be answered; none of them is queued then.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for request in requests:
            request.check(self._model.config.vocab_size, self.max_length)
        if requests:
            self._wake_up()
        for request in requests:
            before = request.partial or PartialResponse()
            params = SamplingParams(
                temperature=0.0,  # vLLM's own sampling is not used; this prepares the least for it
                max_tokens=request.max_new_tokens - len(before),
                ignore_eos=True,  # the one of the model's configuration; the task's is the one that counts
                stop_token_ids=[self._eos_token_id],
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                extra_args={
                    "seed": request.seed,
                    "mark_only": request.mark_only,
                    "prompt_success": request.prompt_success,
                    "written": len(before),
                    "marked": before.mark >= 0,
                    "z": before.z,
                },
            )
            name = str(self._submitted)
            self._submitted += 1
            prompt = {"type": "token", "prompt_token_ids": request.context().tolist()}
            self._requests[name] = request, self._engine.add_request(name, prompt, params)

    def step(self) -> list[TokenEpisode]:
        """Admits what fits, writes one token for every live slot, gives back what has finished (rewards unset)."""
        self._idle = not self._requests
        if self._idle:
            return []
        return self._take([output.request_id for output in self._engine.step() if output.finished])

    def abort(self) -> list[TokenEpisode]:
        """Gives up everything unfinished; the episodes end with ``StopReason.ABORT`` and hold what was written."""
        self._engine.abort_request(list(self._requests))
        episodes = self._take(list(self._requests))
        for episode in episodes:
            episode.stop_reason = StopReason.ABORT
        return episodes

    def suspend(self) -> dict[int, PartialResponse]:
        """Takes everything unfinished out, to be carried on by any engine that has the model: request -> response.

        With ``async_scheduling`` a response may be over that vLLM does not know of yet: not there.
        """
        self._engine.abort_request(list(self._requests))
        self._idle = True
        return {
            request.request_id: PartialResponse(tokens, trace, mark, z, self._segments(request, len(tokens)))
            for request, tokens, trace, mark, _, z in self._written(list(self._requests))
        }

    def rest(self) -> None:
        """With ``enable_sleep_mode``: gives the GPU's memory back until the next prompts or weights come.

        Raises:
            RuntimeError: If responses are unfinished.
        """
        self._expect_idle("rest")
        if self._sleeps and not self._engine.is_sleeping():
            self._engine.sleep(level=1)

    def shutdown(self) -> None:
        """Stops vLLM; the engine is of no use afterwards."""
        self._requests.clear()
        self._engine.engine_core.shutdown()

    def _forget_old_weights(self, version: int) -> None:
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("expected vLLM to drop its prefix cache, which the old weights computed, got a refusal")
        self._weights_version = version

    def _wake_up(self) -> None:
        if self._sleeps and self._engine.is_sleeping():
            self._engine.wake_up()

    def _take(self, names: list[str]) -> list[TokenEpisode]:
        """Responses that vLLM is through with, see :meth:`_written`."""
        return [
            TokenEpisode(
                prompt_tokens=request.prompt_tokens,
                response_tokens=tokens,
                stop_reason=stop_reason(len(tokens) > 0 and tokens[-1] == self._eos_token_id, stopped),
                mark=mark,
                segments=self._segments(request, len(tokens)),
                request_id=request.request_id,
                seed=request.seed,
                weights_version=self._weights_version,
                **dict(zip(TRACE_COLUMNS, trace, strict=True)),
            )
            for request, tokens, trace, mark, stopped, _ in self._written(names)
        ]

    def _segments(self, request: GenerationRequest, tokens: int) -> tuple[Segment, ...]:
        return extended(request.partial, tokens, self._weights_version, self._stopping)

    def _written(
        self, names: list[str]
    ) -> list[tuple[GenerationRequest, NDArray[np.int32], NDArray[np.float32], int, bool, float]]:
        """Takes responses out: request, tokens, trace, mark, whether it was stopped, the detector's smoothed regret.

        Raises:
            RuntimeError: If the workers' models were not given the same tokens.
        """
        if not names:
            return []
        taken = [self._requests.pop(name) for name in names]
        responses = []
        written, *others = self._engine.collective_rpc("collect_responses", args=([internal for _, internal in taken],))
        for worker, other in enumerate(others, start=1):
            if apart := sum(one[-1] != two[-1] for one, two in zip(written, other, strict=True)):
                raise RuntimeError(
                    f"expected the first worker's tokens on all {self._num_workers} workers, got others on worker "
                    f"{worker} in {apart} of {len(written)} responses"
                )
        for (request, _), (tokens, trace, mark, stopped, z, _) in zip(taken, written, strict=True):
            if (before := request.partial) is not None:
                tokens = np.concatenate((before.response_tokens, tokens))
                z = z if len(tokens) > len(before) else before.z
                trace = np.concatenate((before.trace, trace), axis=1)
                mark = before.mark if before.mark >= 0 or mark < 0 else len(before) + mark
            responses.append((request, tokens, trace, mark, stopped, z))
        return responses

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls every worker, and gives back what the first one answers: it is the one that draws and judges."""
        return self._engine.collective_rpc(method, args=args, kwargs=kwargs)[0]

    def _expect_idle(self, what: str) -> None:
        if self.num_unfinished:
            raise RuntimeError(f"expected no unfinished responses at {what}, got {self.num_unfinished}")


def _shared_memory(weights: Mapping[str, Tensor]) -> str | None:
    """A folder in memory that has room for a file of the weights; None for the usual temporary folder.

    Containers often have no more than 64 MB of it.
    """
    needed = sum(tensor.nbytes for tensor in weights.values()) + _FILE_HEADER
    return _SHARED_MEMORY if Path(_SHARED_MEMORY).is_dir() and disk_usage(_SHARED_MEMORY).free > needed else None


def engine_weights(model: LanguageModelWithCritic) -> dict[str, Tensor]:
    """All weights by the names that vLLM's model has for them in a checkpoint; views, a tied one once."""
    return {name: parameter.detach() for name, parameter in engine_names(dict(model.named_parameters())).items()}


def engine_names(weights: Mapping[str, AnyWeight]) -> dict[str, AnyWeight]:
    """Weights of a :class:`LanguageModelWithCritic` by the names that vLLM's model has for them in a checkpoint."""
    return {name.removeprefix("policy."): weight for name, weight in weights.items()}
