"""The language model as an RLModule.

- :class:`LanguageModelRLModule`: policy, critic, and the state of early stopping as buffers.
- :func:`state_numbers`, :func:`with_numbers`: that state as numbers, and back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor
from torch.nn import Parameter

from espo_algo.learning.batching import TrainingBatch
from espo_algo.learning.lora import LanguageModelWithLoRA
from espo_algo.learning.model import LanguageModelWithCritic, load_language_model
from espo_algo.learning.scoring import score_responses
from espo_algo.weight_sync.packing import Weight, pack_tensors, tensors_of, unpack_state
from espo_env.early_stopping import AuditedResponse, EarlyStoppingState, FalsePositiveController

__all__ = ["LanguageModelRLModule", "state_numbers", "with_numbers"]

_BASE = "base_sha256"
"""In a state of adapters: which model they belong to."""


class LanguageModelRLModule(TorchRLModule, ValueFunctionAPI):
    """Wraps :class:`LanguageModelWithCritic` for RLlib.

    ``model_config`` keys: ``model`` (folder or hub name), ``critic``, ``dtype``, ``gradient_checkpointing``,
    ``sharding``, ``lora`` (:class:`~espo_algo.learning.lora.LoRASettings` or None) with its ``seed``, ``temperature``,
    and ``early_stopping``, the :class:`~espo_env.early_stopping.EarlyStoppingState` to start from.

    A learner's module loads the weights and keeps them in float32, computing in ``dtype``; with adapters they are
    frozen and kept in ``dtype``. A runner's module (``inference_only``) has the architecture in ``dtype`` and is sent
    its weights, the same ones whether there are adapters or not.
    """

    model: LanguageModelWithCritic

    def setup(self) -> None:
        """Builds the model; RLlib calls it once."""
        config = self.model_config
        self.dtype = getattr(torch, config["dtype"])
        # Sharded weights are cast where they are gathered.
        self.autocast = self.dtype != torch.float32 and config["sharding"] is None
        self.temperature = float(config["temperature"])
        critic, vocab_size, lora = config["critic"], int(self.action_space.n), config["lora"]
        frozen = self.inference_only or lora is not None
        dtype = self.dtype if frozen else torch.float32
        policy = load_language_model(config["model"], dtype, weights=not self.inference_only)
        if lora is None or self.inference_only:
            self.model = LanguageModelWithCritic(policy, critic, vocab_size)
        else:
            self.model = LanguageModelWithLoRA(policy, critic, vocab_size, settings=lora, seed=config["seed"])
        if config["gradient_checkpointing"] and not self.inference_only:
            self.model.checkpoint_gradients()
        self._constants: EarlyStoppingState = config["early_stopping"]
        # float64, so that a checkpoint gives back exactly what was computed.
        for name, number in state_numbers(self._constants).items():
            self.register_buffer(f"regret_{name}", torch.tensor(number, dtype=torch.float64))
        if isinstance(budget := self._constants.tolerance, FalsePositiveController):
            # A row for each response remembered; NaN where there is none yet. 24 bytes each on the way to a runner.
            empty = torch.full((budget.window, len(AuditedResponse._fields)), torch.nan, dtype=torch.float64)
            self.register_buffer("regret_audited", empty)

    @property
    def early_stopping(self) -> EarlyStoppingState:
        """The state of early stopping: read from the buffers, and written to them."""
        numbers = {name: float(getattr(self, f"regret_{name}")) for name in state_numbers(self._constants)}
        state = with_numbers(self._constants, numbers)
        if isinstance(state.tolerance, FalsePositiveController):
            rows = self.regret_audited[~self.regret_audited.isnan().any(1)].tolist()
            audited = tuple(AuditedResponse(critical, known_from, right > 0) for critical, known_from, right in rows)
            state = replace(state, tolerance=replace(state.tolerance, audited=audited))
        return state

    @early_stopping.setter
    def early_stopping(self, state: EarlyStoppingState) -> None:
        for name, number in state_numbers(state).items():
            getattr(self, f"regret_{name}").fill_(number)
        if isinstance(state.tolerance, FalsePositiveController):
            rows = torch.tensor(state.tolerance.audited, dtype=torch.float64).reshape(-1, len(AuditedResponse._fields))
            self.regret_audited.fill_(torch.nan)[: len(rows)] = rows

    def forward_train_as_engines(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """RLlib's ``forward_train`` without an adapter's dropout, which no engine has."""
        with self.model.without_dropout():
            return self.forward_train(batch)

    def _forward_train(self, batch: TrainingBatch, **kwargs: Any) -> dict[str, Tensor]:
        """What the losses need of whole sequences, see :func:`~espo_algo.learning.scoring.score_responses`.

        Args:
            batch: ``n`` sequences with ``N`` response tokens.
            kwargs: Not used; RLlib's signature.
        """
        return score_responses(self.model, batch, self.temperature, self.dtype if self.autocast else None)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """One step for observations of the token environment, recomputed from scratch (engines do not use this).

        Args:
            batch: ``obs`` with ``tokens`` (B, max_length) and ``length`` (B,).
            kwargs: Not used; RLlib's signature.

        Returns:
            ``action_dist_inputs`` (B, V) at the sampling temperature and ``vf_preds`` (B,).
        """
        hidden, critic_hidden = self._last_hidden(batch)
        return {
            Columns.ACTION_DIST_INPUTS: self.model.project(hidden) / self.temperature,
            Columns.VF_PREDS: self.model.value(critic_hidden),
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Values of observations of the token environment.

        Args:
            batch: As in ``_forward``.
            embeddings: Not used; RLlib's signature.

        Returns:
            Shape (B,).
        """
        return self.model.value(self._last_hidden(batch)[1])

    def _last_hidden(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        observation = batch[Columns.OBS]
        return self.model.last_hidden(torch.as_tensor(observation["tokens"]), torch.as_tensor(observation["length"]))

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        """Weights and state of early stopping as numpy arrays, each tied tensor once; of adapters these alone.

        Args:
            components: Not used; RLlib's signature.
            not_components: Not used; RLlib's signature.
            inference_only: For a runner, which takes them over before anything changes: in the dtype that it computes
                in, merged with adapters, and as views where the tensors are on the CPU. Else they are copies.
            kwargs: Not used; RLlib's signature.
        """
        if inference_only:
            return pack_tensors(self.plain_tensors(), self.dtype)
        return {
            name: array.copy() for name, array in pack_tensors(self.own_tensors()).items()
        } | self.base_fingerprint()

    def plain_tensors(self) -> dict[str, Weight]:
        """What a runner is sent: weights of a model without adapters, and the state of early stopping."""
        weights = {f"model.{name}": weight for name, weight in self.model.plain_weights().items()}
        buffers = {name: tensor for name, tensor in tensors_of(self).items() if not isinstance(tensor, Parameter)}
        return weights | buffers

    def own_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: what is trained, and the state of early stopping."""
        return {
            name: tensor
            for name, tensor in tensors_of(self).items()
            if tensor.requires_grad or not isinstance(tensor, Parameter)
        }

    def base_fingerprint(self) -> dict[str, np.ndarray]:
        """Which frozen model a checkpoint's adapters belong to; empty without adapters."""
        if not isinstance(self.model, LanguageModelWithLoRA):
            return {}
        return {_BASE: np.frombuffer(self.model.fingerprint, np.uint8)}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Takes weights and state of early stopping.

        Raises:
            ValueError: If a name is missing or unknown, or if adapters come that belong to another model.
        """
        own = self.base_fingerprint()
        if own and _BASE in state and bytes(state[_BASE]) != bytes(own[_BASE]):
            raise ValueError(
                f"expected adapters of the weights of {self.model_config['model']!r} in {self.model_config['dtype']} "
                f"(SHA-256 {bytes(own[_BASE]).hex()[:12]}...), got some of others "
                f"({bytes(state[_BASE]).hex()[:12]}...): a checkpoint with LoRA needs the model that it was trained on"
            )
        unpack_state(self.own_tensors(), {name: array for name, array in state.items() if name not in own})


def state_numbers(state: EarlyStoppingState) -> dict[str, float]:
    """What changes from batch to batch, but for audited responses, by the names of the buffers."""
    numbers = {
        "mean": state.statistics.mean,
        "var": state.statistics.var,
        "beta": state.tolerance.beta,
        "warmup_done": float(state.warmup.done),
        "warmup_streak": float(state.warmup.streak),
        "warmup_last_loss": state.warmup.last_loss,
        "num_updates": float(state.num_updates),
    }
    if isinstance(state.tolerance, FalsePositiveController):
        numbers["may_stop"] = float(state.tolerance.may_stop)
    return numbers


def with_numbers(constants: EarlyStoppingState, numbers: Mapping[str, float]) -> EarlyStoppingState:
    """The state with these numbers (:func:`state_numbers`), and the constants of another one.

    Raises:
        KeyError: If a number is missing.
    """
    tolerance = replace(constants.tolerance, beta=numbers["beta"])
    if isinstance(tolerance, FalsePositiveController):  # nothing is promised where another controller was at work
        tolerance = replace(tolerance, may_stop=numbers.get("may_stop", 0.0) > 0)
    return replace(
        constants,
        statistics=replace(constants.statistics, mean=numbers["mean"], var=numbers["var"]),
        tolerance=tolerance,
        warmup=replace(
            constants.warmup,
            done=bool(numbers["warmup_done"]),
            streak=int(numbers["warmup_streak"]),
            last_loss=numbers["warmup_last_loss"],
        ),
        num_updates=int(numbers["num_updates"]),
    )
