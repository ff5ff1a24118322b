"""The code that runs inside vLLM's workers; it alone builds on the internals of vLLM's model runner and sampler.

- :class:`EarlyStoppingWorker`: is mixed into vLLM's worker (``worker_extension_cls``); its methods are what
  :class:`~espo_algo.rollout.vllm.engine.VLLMEngine` calls.
- :class:`EarlyStoppingSampler`: takes the place of vLLM's sampler.
- :class:`CriticMixin`: gives one of vLLM's language models a value head, and where wanted a critic trunk.
- :data:`ARCHITECTURES`: the language models that have one; registered with vLLM on import.

How a stop works: the sampler draws tokens and judges them on the device, with the code of the embedded engine. Where
the detector fires it hands vLLM the end-of-sequence token in place of the one it drew, so that vLLM's own scheduler
ends the response in that step and refills its slot in the next (one step later with asynchronous scheduling, as after
every end). What was really drawn stands in the sampler's columns,
which leave the device once, when the response has ended.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from vllm.distributed import get_tp_group
from vllm.model_executor.models import ModelRegistry
from vllm.platforms import current_platform
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.sampler import Sampler

from espo_algo.rollout.engine import EngineSettings, SamplingSettings
from espo_algo.rollout.noise import request_noise
from espo_algo.rollout.sampling import draw, end_broken, trace
from espo_algo.rollout.vllm.support import SUPPORTED_ARCHITECTURES
from espo_env.early_stopping import DetectorSettings, DetectorState, FailureDetector, decide
from espo_env.types import TRACE_COLUMNS

__all__ = [
    "ARCHITECTURES",
    "CriticMixin",
    "EarlyStoppingSampler",
    "EarlyStoppingWorker",
    "WrittenResponse",
    "on_cpu",
    "sampler_bytes",
]

WrittenResponse: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32], int, bool, float, int]
"""Tokens written here, shape (T,); the columns of :data:`~espo_env.types.TRACE_COLUMNS`, shape (len(TRACE_COLUMNS), T);
which of them is marked, or -1; whether the response was stopped; the detector's smoothed regret; a checksum of the
tokens that this worker's model was given. Workers but the first have the checksum alone."""

_FACTOR = 6364136223846793005
"""Of the checksums, which are int64 and overflow; odd, so that every token of a response counts to its end."""


class CriticMixin:
    """Adds a value head, and where wanted a critic trunk, to one of vLLM's causal LMs; stands before it in the bases.

    The LM's trunk has to be its attribute ``model``. Names of parameters are those of
    :class:`~espo_algo.learning.model.LanguageModelWithCritic`, without ``policy.``.

    Attributes:
        values: Values of the last forward pass, float32, in the order of its logits. In vLLM there is one row a
            request, that of its last scheduled token, so row ``i`` is ``V(s_t)`` where the logits are those of ``a_t``.
    """

    values: Tensor
    model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.critic_trunk = None
        if vllm_config.additional_config["critic"] == "separate":
            self.critic_trunk = type(self.model)(vllm_config=vllm_config, prefix="critic_trunk")
            # vLLM names what it has compiled by class and configuration, so this trunk would be given the policy's.
            # On GPUs a decode step is one CUDA graph all the same.
            self.critic_trunk.do_not_compile = True
        self.value_head = nn.Linear(vllm_config.model_config.get_hidden_size(), 1, dtype=torch.float32)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states, shape (tokens, D); where there are two trunks both side by side, (tokens, 2 D)."""
        inputs = (input_ids, positions, intermediate_tensors, inputs_embeds)
        hidden = super().forward(*inputs)  # type: ignore[misc]
        return hidden if self.critic_trunk is None else torch.cat((hidden, self.critic_trunk(*inputs)), -1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        """Logits, shape (rows, V); keeps the rows' values."""
        policy = critic = hidden_states
        if self.critic_trunk is not None:
            policy, critic = hidden_states.chunk(2, dim=-1)
        self.values = self.value_head(critic.float())[:, 0]
        return super().compute_logits(policy.contiguous())  # type: ignore[misc]


def _with_critic(architecture: str) -> str:
    name = f"EarlyStopping{architecture}"
    language_model = ModelRegistry.models[architecture].load_model_cls()
    ModelRegistry.register_model(name, type(name, (CriticMixin, language_model), {}))
    return name


ARCHITECTURES = {architecture: _with_critic(architecture) for architecture in SUPPORTED_ARCHITECTURES}
"""The name in vLLM's registry of each supported architecture with a critic."""


def on_cpu() -> bool:
    """Whether the installed vLLM computes on the CPU."""
    return current_platform.is_cpu()


def sampler_bytes(settings: EngineSettings, max_length: int, vocab_size: int) -> int:
    """What an :class:`EarlyStoppingSampler` takes of the accelerator's memory, in bytes.

    A uniform, a token and a trace for each token of each slot; in a step the logits, their weights (float32) and the
    sums of these (float64). Nucleus sampling sorts the logits besides, which is not counted.
    """
    a_token, a_logit = 8 + 4 + 4 * len(TRACE_COLUMNS), 4 + 4 + 8
    return settings.num_slots * (max_length * a_token + vocab_size * a_logit)


class EarlyStoppingSampler:
    """Draws, judges and writes down a token for every row of a batch.

    A request has a slot of its own from its first token until :meth:`collect`. vLLM may preempt and reorder requests
    as it likes: at most ``num_slots`` have begun and not ended at any time, because it resumes before it admits.

    Args:
        runner: vLLM's model runner.
        num_slots: Most requests that run at the same time.
        max_new_tokens: Longest response.
        vocab_size: How many tokens there are to choose from.
        eos_token_id: The end-of-sequence token.
        detector: Rule and constants of the failure detector.

    Where the model is split over several workers, the first one draws and judges for all: they would agree but for the
    rounding of parallel sums, and with one token's difference their caches would part for good. Each worker adds up
    what it was told, for the engine to compare when a response has ended.

    Attributes:
        check_every_step: Whether the workers compare their sums after every step, which waits for the device.
    """

    def __init__(
        self,
        runner: Any,
        *,
        num_slots: int,
        max_new_tokens: int,
        vocab_size: int,
        eos_token_id: int,
        detector: DetectorSettings,
    ) -> None:
        self.sampling = SamplingSettings()
        self.detector = FailureDetector(num_slots, detector)
        self.num_live = 0
        self.check_every_step = False
        self._runner = runner
        self._device = runner.device
        self._vocab_size = vocab_size
        self._eos_token_id = eos_token_id
        self._slot_of: dict[str, int] = {}
        self._free = list(range(num_slots))[::-1]
        # The batch of the last step, and its slots on the device.
        self._batch: list[str] = []
        self._slots = self._on_device(np.zeros(0, np.int64))
        # By slot: tokens written so far, place of the mark, most tokens, whether to mark only, whether stopped, sum,
        # whether its end is still to come.
        state = self._on_device(np.zeros((7, num_slots), np.int64))
        self._steps, self._marks, self._horizons, self._marks_only, self._stopped, self._sums, self._going = state
        self._uniforms = torch.zeros(num_slots, max_new_tokens, dtype=torch.float64, device=self._device)
        self._tokens = torch.zeros(num_slots, max_new_tokens, dtype=torch.int32, device=self._device)
        self._trace = torch.zeros(len(TRACE_COLUMNS), num_slots, max_new_tokens, device=self._device)

    def __call__(self, logits: Tensor, sampling_metadata: Any) -> SamplerOutput:
        """One step, called by vLLM.

        Args:
            logits: Shape (rows, padded V), a row for each request of the runner's batch.
            sampling_metadata: vLLM's settings; how to draw is set here for the whole engine.
        """
        batch, self.num_live = self._runner.input_batch, len(logits)
        if batch.req_ids != self._batch:
            self._enter(list(batch.req_ids))
        # Rows whose prompt is not through yet: vLLM throws away what is drawn for them.
        partial = self._runner.discard_request_mask.np[: self.num_live]
        rows = self._on_device(np.flatnonzero(~partial)) if partial.any() else None
        group = get_tp_group()
        if group.world_size == 1:
            tokens = self._sample(logits, rows)
        else:
            tokens = torch.zeros(len(logits), 1, dtype=torch.int32, device=self._device)
            if group.is_first_rank:
                tokens.copy_(self._sample(logits, rows))
            group.device_communicator.broadcast(tokens)  # on the stream of the forward pass
            self._add_up(tokens, rows)
        return SamplerOutput(sampled_token_ids=tokens, logprobs_tensors=None)

    def _sample(self, logits: Tensor, rows: Tensor | None) -> Tensor:
        """What vLLM gets to see of each row's next token: int32, shape (rows, 1); zeros beside ``rows``, if given."""
        values, slots = self._runner.get_model().values, self._slots
        if rows is None:
            return self._judge(logits, values, slots)
        tokens = torch.zeros(self.num_live, 1, dtype=torch.int32, device=self._device)
        if len(rows):
            tokens[rows] = self._judge(logits[rows], values[rows], slots[rows])
        return tokens

    def _add_up(self, tokens: Tensor, rows: Tensor | None) -> None:
        """Adds a step's tokens to the checksums of their responses."""
        slots, given = (self._slots, tokens) if rows is None else (self._slots[rows], tokens[rows])
        self._sums[slots] = self._sums[slots] * _FACTOR + given[:, 0]
        if self.check_every_step:
            group = get_tp_group()
            own = self._sums[self._slots].cpu()
            each = [torch.empty_like(own) for _ in range(group.world_size)]
            torch.distributed.all_gather(each, own, group=group.cpu_group)
            if other := [rank for rank, sums in enumerate(each) if not sums.equal(each[0])]:
                raise RuntimeError(f"expected the first worker's tokens on all workers, got others on {other}")

    def _judge(self, logits: Tensor, values: Tensor, slots: Tensor) -> Tensor:
        """Draws, judges and writes down a token for each row; int32, shape (rows, 1), as :meth:`_sample`."""
        steps = self._steps[slots]
        drawn = draw(logits[:, : self._vocab_size].float(), self._uniforms[slots, steps], self.sampling)
        end_broken(drawn, values, self._eos_token_id)
        verdict = self.detector.update(drawn.regrets, values, slots)
        natural = (drawn.tokens == self._eos_token_id) | (steps + 1 >= self._horizons[slots])
        # Asynchronous scheduling runs a response once more before vLLM sees that it has ended: that does not count.
        going = self._going[slots]
        fires = verdict.stop & (going > 0)
        stopped, self._marks[slots] = decide(fires, natural, steps, self._marks[slots], self._marks_only[slots])
        self._tokens[slots, steps] = drawn.tokens.int()
        self._trace[:, slots, steps] = trace(drawn, values, verdict)
        self._stopped[slots] |= stopped.long()
        self._steps[slots] = steps + going
        self._going[slots] = going * ~(natural | stopped)
        return torch.where(stopped, self._eos_token_id, drawn.tokens).int()[:, None]

    def collect(self, request_ids: list[str]) -> list[WrittenResponse]:
        """Copies responses to the host and gives up their slots; empty ones for requests that have not begun."""
        nothing = np.zeros(0, np.int32), np.zeros((len(TRACE_COLUMNS), 0), np.float32), -1, False, 0.0, 0
        responses: dict[str, WrittenResponse] = dict.fromkeys(request_ids, nothing)
        begun = [request_id for request_id in request_ids if request_id in self._slot_of]
        if begun:
            slots = [self._slot_of.pop(request_id) for request_id in begun]
            self._free += slots
            index = self._on_device(np.array(slots))
            state = self._steps[index], self._marks[index], self._stopped[index], self._sums[index]
            lengths, marks, stopped, sums = torch.stack(state).cpu().numpy()
            z = torch.as_tensor(self.detector.smoothed(index)).cpu().numpy()
            tokens = self._tokens[index, : lengths.max()].cpu().numpy()
            columns = self._trace[:, index, : lengths.max()].cpu().numpy()
            for row, request_id in enumerate(begun):
                written = slice(lengths[row])
                responses[request_id] = (
                    tokens[row, written].copy(),
                    columns[:, row, written].copy(),
                    int(marks[row]),
                    bool(stopped[row]),
                    float(z[row]),
                    int(sums[row]),
                )
        return list(responses.values())

    def _enter(self, batch: list[str]) -> None:
        """Takes note of a changed batch, and sets up the requests that are new in it."""
        fresh = [request_id for request_id in batch if request_id not in self._slot_of]
        for request_id in fresh:
            self._slot_of[request_id] = self._free.pop()
        self._batch = batch
        self._slots = self._on_device(np.array([self._slot_of[request_id] for request_id in batch]))
        if not fresh:
            return
        params = [self._runner.requests[request_id].sampling_params for request_id in fresh]
        slots = np.array([self._slot_of[request_id] for request_id in fresh])
        horizons = np.array([p.max_tokens for p in params])
        uniforms = np.zeros((len(fresh), horizons.max()))
        draws = np.zeros(len(fresh), np.float32)
        # Of a response that is carried on the sampler knows the tokens from here on alone.
        written = np.array([p.extra_args["written"] for p in params])
        for row, p in enumerate(params):
            noise, draws[row] = request_noise(p.extra_args["seed"], written[row] + p.max_tokens)
            uniforms[row, : p.max_tokens] = noise[written[row] :]
        index = self._on_device(slots)
        self._steps[index] = 0
        self._marks[index] = self._on_device(np.array([0 if p.extra_args["marked"] else -1 for p in params]))
        self._stopped[index] = 0
        self._sums[index] = 1
        self._going[index] = 1
        self._horizons[index] = self._on_device(horizons)
        self._marks_only[index] = self._on_device(np.array([int(p.extra_args["mark_only"]) for p in params]))
        self._uniforms[index, : uniforms.shape[1]] = self._on_device(uniforms)
        success = np.array([p.extra_args["prompt_success"] for p in params], np.float32)
        z = np.array([p.extra_args["z"] for p in params], np.float32)
        steps = written.astype(np.float32)
        self.detector.reset(index, *map(self._on_device, (draws, success, z, steps)))

    def _on_device(self, array: NDArray) -> Tensor:
        tensor = torch.from_numpy(array)
        # From pinned memory, because the host would wait for the forward pass otherwise.
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)


class EarlyStoppingWorker:
    """Methods that vLLM's worker gains; each runs in every worker of an engine."""

    model_runner: Any

    def install_early_stopping(self, check_every_step: bool = False, **options: Any) -> None:
        """Puts an :class:`EarlyStoppingSampler` in the place of vLLM's.

        Args:
            check_every_step: Its attribute.
            options: Its arguments.

        Raises:
            RuntimeError: If this vLLM samples in another way than this module knows.
            ValueError: If its attention does not know the model's head size; it would say so in the first step only.
        """
        for group in (group for groups in self.model_runner.attn_groups for group in groups):
            if not group.backend.supports_head_size(size := group.kv_cache_spec.head_size):
                raise ValueError(
                    f"expected attention heads of a size out of {group.backend.get_supported_head_sizes()} "
                    f"({group.backend.get_name()}), got {size}"
                )
        if type(self.model_runner.sampler) is not Sampler:
            raise RuntimeError(
                f"expected vLLM's model runner with its plain sampler (VLLM_USE_V2_MODEL_RUNNER=0, no speculative "
                f"decoding), got {type(self.model_runner).__module__} with {type(self.model_runner.sampler)}"
            )
        self.model_runner.sampler = EarlyStoppingSampler(self.model_runner, **options)
        self.model_runner.sampler.check_every_step = check_every_step

    def configure_early_stopping(
        self, sampling: SamplingSettings | None = None, state: DetectorState | None = None
    ) -> None:
        """Sets how tokens are drawn, or what the detector runs with."""
        sampler = self.model_runner.sampler
        if sampling is not None:
            sampler.sampling = sampling
        if state is not None:
            sampler.detector.configure(state)

    def collect_responses(self, request_ids: list[str]) -> list[WrittenResponse]:
        """See :meth:`EarlyStoppingSampler.collect`."""
        return self.model_runner.sampler.collect(request_ids)

    def count_live(self) -> int:
        """Requests in the last step's batch."""
        return self.model_runner.sampler.num_live

    def take_weights(self, weights: dict[str, Tensor] | str) -> None:
        """Loads weights by their names in the checkpoint.

        Args:
            weights: Full tensors, or a safetensors file with them.
        """
        named = load_file(weights) if isinstance(weights, str) else weights
        self.reload_weights(weights_iterator=iter(named.items()), is_checkpoint_format=True)  # type: ignore[attr-defined]
        self.refresh_output_embedding()

    def refresh_output_embedding(self) -> None:
        """Packs the output embedding anew: on the CPU vLLM multiplies with a packed copy, which a reload leaves."""
        model = self.model_runner.get_model()
        if current_platform.is_cpu() and model.config.tie_word_embeddings:
            model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
