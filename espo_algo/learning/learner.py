"""Token-level PPO on whole responses.

- :class:`ESPOLearner`: GAE, micro-batches with gradient accumulation, the PPO loss; replicated or sharded.

RLlib's stock PPO learner cuts episodes into rows of time steps and keeps [T, V] of them. This one overrides the hooks
around ``Learner.update``; what stays RLlib's: the update loop, learning rate and entropy schedules, the adaptive KL
coefficient, DDP, checkpoints, metrics.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.utils import force_list
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.across import AcrossLearners
from espo_algo.learning.advantages import get_advantage_estimator
from espo_algo.learning.batching import MicroBatches, Minibatch, SequenceBatch, TrainingBatch, by_prompt, pack
from espo_algo.learning.credit import Credit, Responses, assign_credit, audit_weight
from espo_algo.learning.lora import LanguageModelWithLoRA
from espo_algo.learning.optimizers import check_moments, clipped_step, make_adamw, weight_scales
from espo_algo.learning.rl_module import LanguageModelRLModule
from espo_algo.learning.sharding import (
    dealt_optimizer_state,
    gathered_optimizer_state,
    keep_only_shards,
    shard_module,
)
from espo_algo.learning.shared_prompts import LONGEST, SharedPromptBatch, arrange, check_shared_prompts
from espo_algo.learning.update import LossSettings, accumulate_gradients, ppo_loss
from espo_algo.learning.update_metrics import UpdateSums, measure_before
from espo_algo.weight_sync.packing import Weight, pack_tensors, pieces_of

__all__ = ["ESPOLearner"]

_COEFFICIENTS = "coefficients"

Columnar = dict[str, list[np.ndarray]]
"""Columns of a batch: for each name one array of shape (T_i,) an episode."""


class ESPOLearner(PPOTorchLearner):
    """PPO on ``TokenEpisode`` objects. ``Learner.update`` expects ``WholeEpisodeTrainingData``.

    Attributes:
        skipped_in_row: Optimiser steps that were left out since the last one that was made.
        skipped_why: What was not finite in the last one that was left out.
    """

    @property
    def language_module(self) -> LanguageModelRLModule:
        """The module itself, without DDP around it."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def speaks(self) -> bool:
        """Whether it is the first of the learners (rank 0), which answers where one answer is enough."""
        return self.config.num_learners <= 1 or torch.distributed.get_rank() == 0

    @property
    def sharded(self) -> bool:
        """Whether the learners share the model's weights out among themselves."""
        return self.config.sharding is not None

    def build(self) -> None:
        """Builds module and optimisers; no connector pipeline turns episodes into rows of time steps."""
        super().build()
        if self.config.share_prompts:
            check_shared_prompts(self.language_module.model)
        self._timestep = 0
        self._sums = UpdateSums(self.device)
        self._across = AcrossLearners(self.config.num_learners, self.device)
        self.skipped_in_row = 0
        self.skipped_why = ""
        self._gathered: dict[str, Any] = {}

    def shutdown(self) -> None:
        """Cuts RLlib's cycles through the learner: its model and optimisers go when nobody refers to it any more.

        Python collects cycles late, and a process may train again and again.
        """
        super().shutdown()
        for name in ("_possibly_compiled_update", "entropy_coeff_schedulers_per_module", "curr_kl_coeffs_per_module"):
            self.__dict__.pop(name, None)

    def _map_module_to_device(self, module: MultiRLModule) -> None:
        if self.sharded:
            shard_module(module[DEFAULT_MODULE_ID], self.device)
        else:
            super()._map_module_to_device(module)

    def _make_modules_ddp_if_necessary(self) -> None:
        if not self.sharded:
            super()._make_modules_ddp_if_necessary()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW for the policy at ``lr`` and for the critic at ``critic_lr``, each with its own gradient clipping."""
        model = self.module[module_id].unwrapped().model
        for name, parameters, lr in (
            ("policy", model.policy_parameters(), config.lr),
            ("critic", model.critic_parameters(), config.critic_lr),
        ):
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=make_adamw(parameters, config.weight_decay, config.moments, model.embeddings()),
                params=parameters,
                lr_or_lr_schedule=lr,
            )

    # --- from episodes to minibatches ---------------------------------------------------------------------------

    def _create_iterator_if_necessary(
        self,
        *,
        training_data: TrainingData,
        num_total_minibatches: int = 0,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        **kwargs: Any,
    ) -> Iterator[Minibatch]:
        """Yields the minibatches of all epochs: ``minibatch_size`` whole responses each, the same count on each rank.

        With several learners ``num_total_minibatches`` says how many; every learner makes that many steps.
        """
        episodes: list[TokenEpisode] = training_data.episodes
        self._pretraining = self.config.pretrains_critic(self.language_module.early_stopping.num_updates)
        self._seed_dropout()
        columns = self._columns(episodes)
        per_epoch = num_total_minibatches // num_epochs or -(-len(episodes) // (minibatch_size or len(episodes)))
        for epoch in range(num_epochs):
            order = np.arange(len(episodes))
            if shuffle_batch_per_epoch:
                # Depends on nothing but the seed and the number of updates, so that a restored run goes on alike.
                order = self._shuffled(
                    episodes, np.random.default_rng((self.config.seed or 0, self._weights_seq_no, epoch))
                )
            for chosen in np.array_split(order, per_epoch):
                batches = [batch for _, batch in self._pack(episodes, columns, chosen)]
                yield Minibatch({DEFAULT_MODULE_ID: MicroBatches(batches)})

    def _seed_dropout(self) -> None:
        """So that a restored run goes on alike; nothing else in a learner asks torch for random numbers."""
        if self.config.lora is not None:
            rank = torch.distributed.get_rank() if self.config.num_learners > 1 else 0
            seed = np.random.SeedSequence((self.config.seed or 0, self._weights_seq_no, rank))
            torch.manual_seed(int(seed.generate_state(1)[0]))

    def _shuffled(self, episodes: list[TokenEpisode], rng: np.random.Generator) -> np.ndarray:
        """The responses in a random order; prompt by prompt where those to a prompt share its computation."""
        if not self.config.share_prompts:
            return rng.permutation(len(episodes))
        members = by_prompt(episodes)
        return np.concatenate([members[group] for group in rng.permutation(len(members))])

    @torch.no_grad()
    def _columns(self, episodes: list[TokenEpisode]) -> Columnar:
        """Scores the episodes under the weights before the update, and computes advantages and value targets."""
        values: list[np.ndarray] = [np.zeros(0)] * len(episodes)
        logprobs = values.copy()
        last_values = np.zeros(len(episodes), np.float32)
        packed = self._pack(episodes, {}, np.arange(len(episodes)))
        missing = self._passes_missing(len(packed))
        score = self.language_module.forward_train_as_engines
        for group, batch in packed:
            out = score(batch)
            ends = np.cumsum([len(episodes[i]) for i in group])[:-1]
            scored = zip(
                group,
                np.split(out[Columns.VF_PREDS].cpu().numpy(), ends),
                np.split(out[Columns.ACTION_LOGP].cpu().numpy(), ends),
                out["last_values"].cpu().numpy(),
                strict=True,
            )
            for i, value, logprob, last_value in scored:
                values[i], logprobs[i], last_values[i] = value, logprob, last_value
        for _ in range(missing):
            score(packed[-1][1])
        credit = self._credit(Responses.from_episodes(episodes, values, last_values))
        measured, ratio = measure_before(
            self._across, values, credit.targets, credit.outcome_weights, logprobs, [e.logprobs for e in episodes]
        )
        self.metrics.log_dict(measured, key=DEFAULT_MODULE_ID, window=1)
        self.metrics.log_value((DEFAULT_MODULE_ID, "mismatch_ratio_max"), ratio, reduce="max", window=1)
        columns = {
            Columns.ACTION_LOGP: logprobs,
            "values": values,
            "targets": credit.targets,
            "advantages": credit.advantages,
        }
        if self.config.credit_settings.weighted:
            columns |= {"policy_weights": credit.policy_weights, "critic_weights": credit.critic_weights}
        if self.config.stop_credit == "audited":
            columns["unweighted_advantages"] = credit.unweighted_advantages
        if self.config.importance_weight_cap is not None:
            columns["sampler_logprobs"] = [e.logprobs for e in episodes]
        return columns

    def _credit(self, responses: Responses) -> Credit:
        settings = self.config.credit_settings
        marked, audited = self._across.sums(float((responses.marks >= 0).sum()), float(responses.audited.sum()))
        # While the critic is pretrained every response runs on, and stands for itself.
        weight = 1.0 if self._pretraining else audit_weight(settings, marked, audited)
        credit = assign_credit(responses, get_advantage_estimator(self.config.advantage_estimator), settings, weight)
        if self.config.normalize_advantages:
            credit = credit.whitened(*self._across.moments(np.concatenate(credit.unweighted_advantages)))
        weighted, unweighted = self._across.sums(*credit.squares())
        audits = weighted / unweighted if unweighted and settings.stop_credit == "audited" else 1.0
        self.metrics.log_value((DEFAULT_MODULE_ID, "audit_variance_ratio"), audits, window=1)
        return credit

    def _pack(
        self, episodes: list[TokenEpisode], columns: Columnar, chosen: np.ndarray
    ) -> list[tuple[np.ndarray, TrainingBatch]]:
        """Micro-batches of the chosen episodes, each with its episodes in the order of its tokens."""
        budget = self.config.max_tokens_per_microbatch
        packed: list[tuple[np.ndarray, TrainingBatch]] = []
        share = np.array([self.config.share_prompts and len(episodes[i]) <= LONGEST for i in chosen], np.bool_)
        for blocks in arrange(episodes, chosen[share], budget):
            shared = SharedPromptBatch.from_episodes(episodes, blocks, self.device, **columns)
            packed.append((np.concatenate(blocks), shared))
        whole = chosen[~share]
        lengths = np.array([len(episodes[i].prompt_tokens) + len(episodes[i]) for i in whole], np.int64)
        for group in (whole[group] for group in pack(lengths, budget)):
            own = {name: [column[i] for i in group] for name, column in columns.items()}
            packed.append((group, SequenceBatch.from_episodes([episodes[i] for i in group], self.device, **own)))
        for _, batch in packed:
            batch.entropy_gradient = self._entropy_coeff != 0.0
        return packed

    # --- one optimiser step -------------------------------------------------------------------------------------

    def _uncompiled_update(self, batch: dict[str, MicroBatches], **kwargs: Any) -> tuple[Any, dict[str, Tensor], Any]:
        """Accumulates the gradients of the micro-batches and steps. The loss is the mean over all learners' tokens."""
        module = self.module[DEFAULT_MODULE_ID]
        batches = batch[DEFAULT_MODULE_ID].batches
        missing = self._passes_missing(len(batches))
        (tokens,) = self._across.sums(len(batch[DEFAULT_MODULE_ID]))
        # DDP averages the learners' gradients; the sum is wanted.
        scale = max(1, self.config.num_learners) / tokens
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)

        def loss_of(micro: TrainingBatch) -> Tensor:
            return self.compute_loss_for_module(
                module_id=DEFAULT_MODULE_ID, config=self.config, batch=micro, fwd_out=module.forward_train(micro)
            )

        # Shards are added up batch by batch: whole gradients would take the memory that sharding saves.
        waits = self.config.num_learners > 1 and not self.sharded
        total = accumulate_gradients(batches, loss_of, scale, module.no_sync if waits else contextlib.nullcontext)
        for _ in range(missing):
            out = module.forward_train(batches[-1])
            (0.0 * (out[Columns.ACTION_LOGP].sum() + out[Columns.VF_PREDS].sum())).backward()
        self._step(batches)
        return {}, {DEFAULT_MODULE_ID: total}, {}

    def _passes_missing(self, passes: int) -> int:
        """Passes that another learner makes more: with shards, each of them takes part in every pass of any.

        To be asked before the first one: the answer is a collective, too.
        """
        return self._across.largest(passes) - passes if self.sharded else 0

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: TrainingBatch, fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """See :func:`~espo_algo.learning.update.ppo_loss`."""
        settings = LossSettings(
            config.clip_param,
            config.clip_param_high,
            config.vf_clip_param,
            config.vf_loss_coeff,
            self._entropy_coeff,
            self.curr_kl_coeffs_per_module[module_id] if config.use_kl_loss else None,
            config.importance_weight_cap,
            config.credit_settings.weighted,
        )
        loss, parts = ppo_loss(fwd_out, batch, settings)
        self._sums.add_tokens(parts)
        return loss

    def _step(self, batches: list[TrainingBatch]) -> None:
        """Steps the optimisers, the policy's not while the critic is pretrained; steps left out are counted."""
        names = ["critic"] if self._pretraining else ["policy", "critic"]
        limit, scales = self.config.grad_clip or math.inf, {"policy": 1.0, "critic": 1.0}
        if self.config.stop_credit == "audited":
            scales = weight_scales(self._across, batches)
        optimizers = [self.get_optimizer(DEFAULT_MODULE_ID, name) for name in names]
        norms, finite = clipped_step(optimizers, [limit * scales[name] for name in names])
        self.skipped_in_row = 0 if finite else self.skipped_in_row + 1
        if not finite:
            gradients = zip(names, norms.tolist(), strict=True)
            self.skipped_why = "norms of the gradients: " + ", ".join(
                f"{DEFAULT_MODULE_ID}_{name} {norm:.3g}" for name, norm in gradients
            )
        self._sums.add_step(float(norms.norm()), finite)

    def _set_slicing_by_batch_id(self, batch: Minibatch, *, value: bool) -> Minibatch:
        """Nothing is sliced: minibatches are made of whole responses."""
        return batch

    @property
    def _entropy_coeff(self) -> float:
        return float(self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value())

    # --- metrics ------------------------------------------------------------------------------------------------

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Logs the update's means over tokens, then lets RLlib move its schedules and KL coefficient."""
        self.metrics.log_dict(self._sums.means(self._across), key=DEFAULT_MODULE_ID, window=1)
        self._sums = UpdateSums(self.device)
        self._timestep = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
        kl_coeff = self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]
        held = kl_coeff.clone()
        super().after_gradient_based_update(timesteps=timesteps)
        if self._pretraining:
            kl_coeff.copy_(held)  # a policy that stood still has no KL divergence to answer to

    # --- state --------------------------------------------------------------------------------------------------

    def pieces(self) -> list[list[str]]:
        """The names of a runner's weights in pieces, for :meth:`piece`; the same on every learner."""
        return pieces_of(self.language_module.plain_tensors())

    def piece(self, names: list[str], dtype: torch.dtype | None = None) -> dict[str, np.ndarray] | None:
        """Some of a runner's weights, merged with adapters; None on every learner but the first.

        Every learner is asked: weights that are spread over the learners can only be gathered by all of them together.

        Args:
            names: One of :meth:`pieces`.
            dtype: As for :func:`~espo_algo.weight_sync.packing.pack_tensors`.
        """
        return self._packed(self.language_module.plain_tensors, dtype, names)

    def adapter(self) -> dict[str, np.ndarray] | None:
        """The policy's adapter by the names of peft's files; None without one, and as :meth:`piece`."""
        model = self.language_module.model
        return self._packed(model.peft_weights) if isinstance(model, LanguageModelWithLoRA) else None

    def _packed(
        self,
        tensors: Callable[[], Mapping[str, Weight]],
        dtype: torch.dtype | None = None,
        names: list[str] | None = None,
    ) -> dict[str, np.ndarray] | None:
        if not self.sharded and not self.speaks:
            return None
        keep_only_shards(self.language_module)
        packed = pack_tensors(tensors(), dtype, names)
        return packed if self.speaks else None

    def pieces_to_send(self) -> Iterator[dict[str, np.ndarray]]:
        """What the runners are sent, in the dtype that they compute in; nothing on every learner but the first.

        Every learner is asked, and goes through all of it.
        """
        for names in self.pieces():
            if (piece := self.piece(names, self.language_module.dtype)) is not None:
                yield piece

    def gather(self, *, optimizer: bool, inference_only: bool = False) -> None:
        """Gathers weights, and moments where wanted, into the first learner's memory on the CPU, for :meth:`get_state`.

        RLlib asks a single learner for the state, which cannot gather it without the others: so all of them do this
        before, and :meth:`let_go` afterwards. It costs nothing where nothing is sharded.
        """
        if not self.sharded:
            return
        module = self.language_module
        tensors, dtype = (module.plain_tensors, module.dtype) if inference_only else (module.own_tensors, None)
        weights = {} if inference_only else module.base_fingerprint()
        for names in pieces_of(tensors()):
            weights |= self._packed(tensors, dtype, names) or {}
        self._gathered = {COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: weights}}
        if optimizer:
            self._gathered[COMPONENT_OPTIMIZER] = {
                name: {
                    "module_id": DEFAULT_MODULE_ID,
                    "state": gathered_optimizer_state(registered, keep=self.speaks),
                }
                for name, registered in self._named_optimizers.items()
            }

    def let_go(self) -> None:
        """Frees what :meth:`gather` has gathered."""
        self._gathered = {}

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's state, and what it leaves out: the adaptive KL coefficient and where the entropy schedule stands.

        Raises:
            RuntimeError: If it is sharded and asked for what has not been gathered, see :meth:`gather`.
        """
        spread = (COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER) if self.sharded else ()
        without = [*force_list(not_components), *spread]
        state = super().get_state(components, not_components=without, **kwargs)
        for name in spread:
            if self._check_component(name, components, not_components):
                if name not in self._gathered:
                    raise RuntimeError(f"expected gather() on every learner before one is asked for its {name}")
                state[name] = self._gathered[name]
        if self._check_component(_COEFFICIENTS, components, not_components):
            kl_coeff = float(self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID])
            state[_COEFFICIENTS] = {"kl_coeff": kl_coeff, "timestep": self._timestep}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes a state over, also one that is older than what the learner has."""
        self._weights_seq_no = 0  # or RLlib would keep newer weights beside the older optimiser
        if self.sharded:
            keep_only_shards(self.language_module)
        elif COMPONENT_OPTIMIZER in state:
            # torch's optimisers would go on working in the caller's arrays.
            state = {**state, COMPONENT_OPTIMIZER: copy.deepcopy(state[COMPONENT_OPTIMIZER])}
        super().set_state(state)
        if _COEFFICIENTS in state:
            self._timestep = state[_COEFFICIENTS]["timestep"]
            self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID].fill_(state[_COEFFICIENTS]["kl_coeff"])
            self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].update(timestep=self._timestep)
        if COMPONENT_OPTIMIZER in state:
            # The configuration's, not the state's: a run may be meant to go on with others.
            for optimizer, schedule in self._optimizer_lr_schedules.items():
                self._set_optimizer_lr(optimizer, schedule.update(timestep=self._timestep))
                for group in optimizer.param_groups:
                    group["weight_decay"] = self.config.weight_decay

    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        for entry in state.values():
            check_moments(entry["state"], self.config.moments)
        if self.sharded:
            state = {
                name: {**entry, "state": dealt_optimizer_state(self._named_optimizers[name], entry["state"])}
                for name, entry in state.items()
            }
        super()._set_optimizer_state(state)
        if self.config.moments == "8bit":
            for optimizer in self._named_optimizers.values():
                for moments in optimizer.state.values():
                    moments["step"] = int(moments["step"])  # as bitsandbytes counts; RLlib has made a tensor of it
