"""The configuration of early-stopping PPO.

- :class:`ESPOConfig`: RLlib's ``PPOConfig`` with sections for the language model, generation and early stopping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from transformers import AutoConfig, PretrainedConfig

from espo_algo.checks import check_inherited, check_task, check_values
from espo_algo.combinations import check_settings
from espo_algo.learning.credit import CreditSettings
from espo_algo.learning.learner import ESPOLearner
from espo_algo.learning.learner_group import ESPOLearnerGroup
from espo_algo.learning.lora import LoRASettings
from espo_algo.learning.rl_module import LanguageModelRLModule
from espo_algo.presets import PRESETS, Preset
from espo_algo.rollout.engine import EngineSettings, SamplingSettings
from espo_algo.rollout.engines import get_engine
from espo_algo.rollout.env_runner import ESPOEnvRunner
from espo_algo.schema import AuditWeighting, CriticKind, Dtype, EvaluationStops, Moments, Sharding, StopCredit
from espo_env.early_stopping import (
    DEFAULT_CLIP,
    DEFAULT_DELTA,
    Controller,
    CriticWarmup,
    DetectorSettings,
    EarlyStoppingState,
    FalsePositiveController,
    Gate,
    RegretStatistics,
    StatisticsStart,
    ToleranceController,
)
from espo_env.tasks import Split
from espo_env.token_mdp import TokenMDP

__all__ = ["ESPOConfig"]


class ESPOConfig(PPOConfig):
    """The configuration of :class:`~espo_algo.espo.ESPO`.

    Defaults are the paper's (arXiv 2605.29860) where nothing better was measured (REPRODUCTION.md);
    ``.early_stopping(preset="paper")`` gives all that it publishes. Two units differ from RLlib's PPO:
    ``train_batch_size_per_learner`` and ``minibatch_size`` count whole responses, not tokens. In tokens, a batch with
    stops would be topped up with further responses, and stopping early would save nothing.

    Example::

        config = (
            ESPOConfig()
            .environment("espo_env/Arithmetic-v0")
            .env_runners(num_env_runners=2, num_envs_per_env_runner=32)
            .language_model(model="path/to/model")
            .generation(max_new_tokens=64)
            .early_stopping(target_stop_rate=0.2)
            .training(lr=5e-5, train_batch_size_per_learner=96, minibatch_size=24)
        )
        algo = config.build_algo()
    """

    _evaluation_split: Split = "eval"

    def __init__(self, algo_class: type | None = None) -> None:
        # RLlib's form asks each of the two classes for the other.
        from espo_algo.espo import ESPO

        super().__init__(algo_class=algo_class or ESPO)
        # RLlib's fields.
        self.env_runner_cls = ESPOEnvRunner
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 32
        self.batches_ahead = 0
        self.unfinished_fraction = 0.0
        self.max_carried_updates = 2
        # A rollout of a language model outlasts RLlib's 60 s.
        self.sample_timeout_s = 3600.0
        self.evaluation_sample_timeout_s = 3600.0
        self.evaluation_duration = 100
        self.lr = 1e-6
        self.gamma = 1.0
        self.lambda_ = 1.0
        self.train_batch_size_per_learner = 64
        self.minibatch_size = 16
        self.num_epochs = 1
        self.clip_param = 0.2
        self.vf_clip_param = 10.0
        self.grad_clip = 1.0
        self.use_kl_loss = False
        # Runners keep nothing but weights, which ESPO sends itself.
        self._dont_auto_sync_env_runner_states = True
        # .language_model()
        self.model_name: str | None = None
        self.critic: CriticKind = "shared"
        self.dtype: Dtype = "float32"
        self.gradient_checkpointing = False
        self.sharding: Sharding | None = None
        self.lora: dict[str, Any] | None = None
        # .generation()
        self.engine = "torch"
        self.engine_options: dict[str, Any] = {}
        self.weight_transfer: str | None = None
        self.max_new_tokens = 8192
        self.rollouts_per_prompt = 1
        self.dynamic_sampling_rounds = 0
        self.temperature = 1.0
        self.top_p = 1.0
        self.top_k = 0
        self.greedy = False
        # .early_stopping()
        self.rule = "regret_value"
        self.stop_credit: StopCredit = "reward"
        self.stop_weight = 0.5
        self.gate: Gate = "before"
        self.fail_reward = 0.0
        self.controller: Controller = "stop_rate"
        self.beta: float | Literal["auto"] = "auto"
        self.beta_bounds = (0.05, 50.0)
        self.target_stop_rate = 0.25
        self.tolerance_rate = 0.2
        self.tolerance_update: Literal["additive", "multiplicative"] = "multiplicative"
        self.budget = 0.03
        self.confidence = 0.95
        self.audit_window = 1024
        self.smoothing = 0.0
        self.value_floor = 0.2
        self.regret_clip = DEFAULT_CLIP
        self.regret_delta = DEFAULT_DELTA
        self.statistics_momentum = 0.99
        self.statistics_start: StatisticsStart = "first_batch"
        self.warmup_loss_threshold = 0.5
        self.warmup_patience = 3
        self.warmup_change_threshold = 0.1
        self.warmup_max_fraction = 0.1
        self.warmup_min_explained_variance: float | None = 0.05
        self.planned_iterations: int | None = None
        self.shadow_fraction = 0.0
        self.audit_weighting: AuditWeighting = "inverse"
        self.pilots = 0
        self.stops_in_evaluation: EvaluationStops = "mark"
        # .training()
        self.critic_lr = 1e-5
        self.critic_lambda: float | None = None
        self.value_pretraining_iterations = 0
        self.weight_decay = 0.0
        self.moments: Moments = "float32"
        self.advantage_estimator = "gae"
        self.normalize_advantages = True
        self.clip_param_high: float | None = None
        self.overlong_buffer = 0
        self.overlong_penalty = 1.0
        self.max_tokens_per_microbatch = 2048
        self.share_prompts = False
        self.importance_weight_cap: float | None = None
        # .fault_tolerance()
        self.max_empty_rounds = 3
        self.max_skipped_steps = 10
        # A runner that raised comes back when it can; RLlib waits for a minute first.
        self.delay_between_env_runner_restarts_s = 1.0
        # Nobody waits for a runner that is on its way back while others could write.
        self.env_runner_health_probe_timeout_s = 1.0
        self.wait_factor = 10.0
        self.wait_floor_s = 120.0
        self.update_timeout_s = 3600.0
        self.weight_sync_timeout_s = 600.0

    def env_runners(
        self,
        *,
        batches_ahead: int = NotProvided,
        unfinished_fraction: float = NotProvided,
        max_carried_updates: int = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets who samples, and when.

        Args:
            batches_ahead: 0: a batch is sampled, then learnt from. 1: the next batch is sampled while one is learnt
                from, by weights that are one update older (docs/sampling-beside-learning.md). It takes remote runners
                (``num_env_runners``) and an ``importance_weight_cap``; the gain of the tolerance's controller is
                halved, because its answer comes one batch later.
            unfinished_fraction: How many more responses than a batch are in flight, as a share of it. An iteration
                samples until a batch of them is over; the others are carried on by the next weights
                (docs/sampling-beside-learning.md). 0 waits for every one. It takes an ``importance_weight_cap`` and an
                engine that carries responses on (``"torch"``, and ``"vllm"`` without ``async_scheduling``).
            max_carried_updates: Over how many updates a response is carried; then it is waited for. The gain of the
                tolerance's controller is divided by one more, because its answer comes so much later.
            kwargs: Those of ``AlgorithmConfig.env_runners``.
        """
        super().env_runners(**kwargs)
        self._set(
            batches_ahead=batches_ahead,
            unfinished_fraction=unfinished_fraction,
            max_carried_updates=max_carried_updates,
        )
        return self

    def language_model(
        self,
        *,
        model: str | Path = NotProvided,
        critic: CriticKind = NotProvided,
        dtype: Dtype = NotProvided,
        gradient_checkpointing: bool = NotProvided,
        sharding: Sharding | None = NotProvided,
        lora: dict[str, Any] | None = NotProvided,
    ) -> Self:
        """Sets the policy and its critic.

        Args:
            model: Hugging Face folder or hub name of a decoder-only causal language model. On a cluster the folder
                must be readable on every node.
            critic: ``"shared"``: a value head on the policy's trunk. ``"separate"``: a trunk of its own, started from
                the policy's; twice the memory and compute.
            dtype: What engines keep their weights in and the learner computes in; its own weights stay float32.
            gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more compute.
            sharding: None: every learner has the whole model with gradients and moments, 16 bytes a parameter.
                ``"fsdp"``: ``num_learners`` learners, two or more, share these out among themselves (PyTorch's FSDP2)
                and gather a transformer block at a time; see docs/sharding.md.
            lora: None: all weights are trained. ``{"r": 16, "alpha": 16, "target_modules": "all-linear", "dropout":
                0}``, of which only the rank ``r`` has to be given: adapters of policy and critic are trained on one
                frozen model in ``dtype`` (by peft, extra ``lora``), with ``critic="separate"`` one each; see
                docs/lora.md.
        """
        self._set(
            model_name=str(model) if isinstance(model, Path) else model,
            critic=critic,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            sharding=sharding,
            lora=lora,
        )
        return self

    def generation(
        self,
        *,
        engine: str = NotProvided,
        engine_options: dict[str, Any] = NotProvided,
        weight_transfer: str | None = NotProvided,
        max_new_tokens: int = NotProvided,
        rollouts_per_prompt: int = NotProvided,
        dynamic_sampling_rounds: int = NotProvided,
        temperature: float = NotProvided,
        top_p: float = NotProvided,
        top_k: int = NotProvided,
        greedy: bool = NotProvided,
    ) -> Self:
        """Sets how responses are written. The number of slots is ``num_envs_per_env_runner``.

        Args:
            engine: ``"torch"``, the embedded engine; ``"vllm"``, in an actor for each env runner
                (``num_gpus_per_env_runner`` GPUs, over which the model is split); or one of your own, see
                :mod:`espo_algo.rollout.engines`.
            engine_options: Fields of vLLM's ``EngineArgs``, such as ``gpu_memory_utilization``; see
                :class:`~espo_algo.rollout.vllm.engine.VLLMEngine`.
            weight_transfer: How new weights reach vLLM: None, through Ray's object store; ``"nccl"``, broadcast between
                GPUs; ``"ipc"``, from learners on the same GPUs.
            max_new_tokens: Horizon ``T_max`` of a response; 8192 in the paper.
            rollouts_per_prompt: Responses to each problem in a batch; 8 in the paper.
            dynamic_sampling_rounds: Prompts whose responses all have the same reward are dropped, and others sampled in
                their place, in at most so many further rounds; what is missing then is filled up with dropped ones. 0
                for none; 9 in DAPO's code (ten in all; Yu et al. 2025, arXiv 2503.14476).
            temperature: Sampling temperature, in rollouts and in the loss alike; 1 in the paper.
            top_p: Nucleus sampling. In evaluation only: in training it would bias PPO's ratio.
            top_k: In evaluation only, as ``top_p``; 0 is off.
            greedy: Take the likeliest token. In evaluation only.
        """
        self._set(
            engine=engine,
            engine_options=engine_options,
            weight_transfer=weight_transfer,
            max_new_tokens=max_new_tokens,
            rollouts_per_prompt=rollouts_per_prompt,
            dynamic_sampling_rounds=dynamic_sampling_rounds,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            greedy=greedy,
        )
        return self

    def early_stopping(
        self,
        *,
        preset: Preset = NotProvided,
        rule: str = NotProvided,
        stop_credit: StopCredit = NotProvided,
        stop_weight: float = NotProvided,
        gate: Gate = NotProvided,
        fail_reward: float = NotProvided,
        controller: Controller = NotProvided,
        beta: float | Literal["auto"] = NotProvided,
        beta_bounds: tuple[float, float] = NotProvided,
        target_stop_rate: float = NotProvided,
        tolerance_rate: float = NotProvided,
        tolerance_update: Literal["additive", "multiplicative"] = NotProvided,
        budget: float = NotProvided,
        confidence: float = NotProvided,
        audit_window: int = NotProvided,
        smoothing: float = NotProvided,
        value_floor: float = NotProvided,
        regret_clip: float = NotProvided,
        regret_delta: float = NotProvided,
        statistics_momentum: float = NotProvided,
        statistics_start: StatisticsStart = NotProvided,
        warmup_loss_threshold: float = NotProvided,
        warmup_patience: int = NotProvided,
        warmup_change_threshold: float = NotProvided,
        warmup_max_fraction: float = NotProvided,
        warmup_min_explained_variance: float | None = NotProvided,
        planned_iterations: int | None = NotProvided,
        shadow_fraction: float = NotProvided,
        audit_weighting: AuditWeighting = NotProvided,
        pilots: int = NotProvided,
        stops_in_evaluation: EvaluationStops = NotProvided,
    ) -> Self:
        """Sets the failure detector and what adapts it between batches.

        Args:
            preset: ``"paper"`` sets all constants that the paper publishes, whatever the defaults are; arguments beside
                it are taken instead. See :mod:`espo_algo.presets`.
            rule: ``"regret_value"`` (the paper), ``"regret_only"``, ``"value_only"``, ``"random"`` (its ablations),
                ``"never"`` (plain PPO), ``"regret_prompt"``, ``"regret_siblings"`` (ours, see
                :mod:`espo_env.early_stopping.rules`), or one of your own (``"module:function"``).
            stop_credit: What stands behind a stop. ``"reward"`` (the paper): ``fail_reward``. ``"bootstrap"``: the
                critic's value of the state it was stopped in. ``"audited"``: that value, corrected by the
                ``shadow_fraction`` that runs on, so that stopping changes no expected gradient; see
                :mod:`espo_algo.learning.credit`.
            stop_weight: What the policy's loss counts for on the tokens of a stopped response, in [0, 1]: 0.5 (ours);
                1 in the paper. A stop puts a whole failure on the unlikely token that caused it; PPO, whose critic
                sees it later, does so in part. Not looked at with ``stop_credit="audited"``, which weighs by itself.
            gate: ``"before"`` (the paper): the score is compared with the value before the token that moved it.
                ``"after"``: with the value behind that token, which the next step gives; fires one token later.
            fail_reward: Reward of a stop with ``stop_credit="reward"``: 0, what a wrong answer gets; -1 in the paper,
                which beside 0 punishes a stop harder than a full failure and pulls the value away from the probability
                of success.
            controller: What sets the tolerance. ``"stop_rate"`` (the paper): it is driven to ``target_stop_rate``.
                ``"false_positive_rate"``: the lowest one at which the share of wrong stops is known to stay within
                ``budget``; nothing is stopped before that is known, and ``beta``, ``target_stop_rate`` and
                ``tolerance_rate`` are not looked at. It learns from shadow responses (``shadow_fraction``).
            beta: Tolerance to start from. ``"auto"`` sets it from the rollouts of the warm-up, so that it would have
                stopped ``target_stop_rate`` of them; the paper's 7 does not transfer to other scales.
            beta_bounds: Lowest and highest tolerance (not published).
            target_stop_rate: What the controller aims at; 0.25 in the paper. Keep it below the failure rate: false
                positives are at least ``1 - failure_rate / stop_rate``.
            tolerance_rate: Gain of the controller: 0.2; 0.1 in the paper, for its additive update. Half of it with
                ``batches_ahead=1``, less with ``unfinished_fraction``.
            tolerance_update: ``"multiplicative"``, which suits any scale of ``beta``, or ``"additive"`` (the paper).
            budget: Highest share of wrong stops among all stops (ours; the paper reports 2.7 %).
            confidence: Of the upper bound that has to be within the budget (ours).
            audit_window: How many responses that ran on the bound is worked out from, the newest ones (ours). 3 % take
                99 stops without a wrong one among them, so a stop rate of 10 % needs a window of 1,000 or more.
            smoothing: Weight of the old score: 0, so that one slip shows; 0.9 in the paper, for failures that last.
            value_floor: Floor of the value gate; 0.2 in the paper.
            regret_clip: Bound of the normalised regret (not published).
            regret_delta: Added to the variance (not published).
            statistics_momentum: Momentum of mean and variance; 0.99 in the paper.
            statistics_start: ``"first_batch"``: start from the first batch's moments; ``"zero_one"``: from mean 0 and
                variance 1, whose scale is off for about 100 batches.
            warmup_loss_threshold: Critic loss below which it counts as trained; 0.5 in the paper.
            warmup_patience: Updates in a row that have to pass that test; 3 in the paper.
            warmup_change_threshold: It also counts as trained where its loss changes by less than this between two
                updates; 0.1 in the paper.
            warmup_max_fraction: Share of ``planned_iterations`` after which it counts as trained in any case; 0.1 in
                the paper.
            warmup_min_explained_variance: Ask for so much explained variance instead of a loss; None is the paper's
                test, which with 0/1 rewards is met before the critic knows anything.
            planned_iterations: Training iterations planned; None where unknown.
            shadow_fraction: Share of the training responses on which a stop is only marked: they measure the
                false-positive rate while training. With ``stop_credit="audited"`` also the probability of an audit.
            audit_weighting: What an audited response counts for: ``"inverse"``, ``1 / shadow_fraction``;
                ``"self_normalized"``, the batch's marked responses over its audited ones, so that the weights sum to
                their number (of less variance, and biased by as much as a batch is small).
            pilots: The first so many responses to a prompt run on, and the others wait for their grades: how many were
                right is the others' ``prompt_success``. 0 (ours): it is the problem's running success rate over the
                run. ``rule="regret_siblings"`` and ``"regret_prompt"`` look at it. In evaluation it is 1, as for a
                problem that was never seen.
            stops_in_evaluation: In evaluation: ``"off"``, ``"mark"`` (measures false positives) or ``"stop"``.
        """
        arguments = dict(locals())
        del arguments["self"], arguments["preset"]
        if preset is not NotProvided:
            if preset not in PRESETS:
                raise ValueError(f"expected a preset out of {sorted(PRESETS)}, got {preset!r}")
            self._set(**PRESETS[preset])
        self._set(**arguments)
        return self

    def training(
        self,
        *,
        critic_lr: float | Sequence[Any] = NotProvided,
        critic_lambda: float | None = NotProvided,
        value_pretraining_iterations: int = NotProvided,
        weight_decay: float = NotProvided,
        moments: Moments = NotProvided,
        advantage_estimator: str = NotProvided,
        normalize_advantages: bool = NotProvided,
        clip_param_high: float | None = NotProvided,
        overlong_buffer: int = NotProvided,
        overlong_penalty: float = NotProvided,
        max_tokens_per_microbatch: int = NotProvided,
        share_prompts: bool = NotProvided,
        importance_weight_cap: float | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets the update.

        Args:
            critic_lr: Learning rate of value head and critic trunk, or a schedule; ``lr`` is the policy's.
            critic_lambda: Trace decay of the value targets, beside ``lambda_`` of the advantages (decoupled GAE,
                VC-PPO, arXiv 2503.01491); None for the same.
            value_pretraining_iterations: Iterations at the start that update nothing but the critic, on responses that
                all run on (VAPO, arXiv 2504.05118). Their tokens are counted like all others, and they are updates of
                the critic's warm-up: if it ends among them, stopping begins with the first iteration behind them. A
                shared critic is the value head alone; the trunk is the policy's.
            weight_decay: AdamW's, for both.
            moments: ``"8bit"`` keeps AdamW's two moments in 8 bits, block by block, except those of embeddings and of
                small tensors (Dettmers et al. 2022, arXiv 2110.02861; by bitsandbytes, extra ``optim8bit``): 2 bytes a
                parameter instead of 8. Not with sharded learners.
            advantage_estimator: ``"gae"`` (the paper), ``"group"`` (GRPO's: rewards against those of the same prompt),
                or one of your own, see :mod:`espo_algo.learning.advantages`.
            normalize_advantages: Mean 0 and variance 1 over all tokens of all learners.
            clip_param_high: Width of the clip above a ratio of 1, where ``clip_param`` is the one below (DAPO's
                clip-higher, 0.28 beside 0.2, arXiv 2503.14476); None for the same.
            overlong_buffer: Tokens before the horizon over which a response's reward falls by up to
                ``overlong_penalty`` (DAPO's soft overlong punishment, 4096 of 20480); 0 for none.
            overlong_penalty: Reward lost at the horizon; 1 in DAPO, whose rewards are -1 and 1, so 0.5 beside 0 and 1.
            max_tokens_per_microbatch: Tokens, padding included, that go through the model at once; gradients are
                accumulated over the micro-batches of a minibatch. What the memory of an update depends on.
            share_prompts: Compute a prompt once for all responses to it in a micro-batch, and pad responses to those of
                like length only: the same gradients up to rounding, in less time. Minibatches are then made of whole
                prompts, where RLlib's shuffling would scatter the responses to one. Responses of more than 1024 tokens
                keep a prompt of their own. Not with gradient checkpointing, nor with sliding windows shorter than a
                prompt and its response.
            importance_weight_cap: Weight each token's loss with ``min(pi_learner / pi_sampler, cap)``, which corrects
                for an engine whose log-probabilities differ from the learner's, and, with ``batches_ahead`` or
                ``unfinished_fraction``, for the updates that lie between the two; None is off.
            kwargs: Those of ``PPOConfig.training``. ``train_batch_size_per_learner`` and ``minibatch_size`` count
                responses.
        """
        super().training(**kwargs)
        self._set(
            critic_lr=critic_lr,
            critic_lambda=critic_lambda,
            value_pretraining_iterations=value_pretraining_iterations,
            weight_decay=weight_decay,
            moments=moments,
            advantage_estimator=advantage_estimator,
            normalize_advantages=normalize_advantages,
            clip_param_high=clip_param_high,
            overlong_buffer=overlong_buffer,
            overlong_penalty=overlong_penalty,
            max_tokens_per_microbatch=max_tokens_per_microbatch,
            share_prompts=share_prompts,
            importance_weight_cap=importance_weight_cap,
        )
        return self

    def fault_tolerance(
        self,
        *,
        max_empty_rounds: int = NotProvided,
        max_skipped_steps: int = NotProvided,
        wait_factor: float = NotProvided,
        wait_floor_s: float = NotProvided,
        update_timeout_s: float = NotProvided,
        weight_sync_timeout_s: float = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets what happens when runners fail.

        Args:
            max_empty_rounds: Rounds of sampling in a row that may bring nothing before an error is raised.
            max_skipped_steps: Optimiser steps in a row that may be left out, because their gradient is not finite,
                before an error is raised; each iteration with such a step is warned of.
            wait_factor: A rollout, update or weight sync may take this many times as long as the slowest one of its
                kind so far. Then a runner that has not answered is restarted, and a learner is an error.
            wait_floor_s: Seconds that are waited in any case, however quick everything was so far.
            update_timeout_s: Upper limit of that for an update, in seconds; ``sample_timeout_s`` and
                ``evaluation_sample_timeout_s`` are those for rollouts. The limits until something was measured.
            weight_sync_timeout_s: The same for a call of a weight sync.
            kwargs: Those of ``AlgorithmConfig.fault_tolerance``.
        """
        super().fault_tolerance(**kwargs)
        self._set(
            max_empty_rounds=max_empty_rounds,
            max_skipped_steps=max_skipped_steps,
            wait_factor=wait_factor,
            wait_floor_s=wait_floor_s,
            update_timeout_s=update_timeout_s,
            weight_sync_timeout_s=weight_sync_timeout_s,
        )
        return self

    def _set(self, **arguments: Any) -> None:
        for name, argument in arguments.items():
            if argument is not NotProvided:
                setattr(self, name, argument)

    def evaluation(self, **kwargs: Any) -> Self:
        """Sets the evaluation; problems of the split ``"eval"`` are answered.

        Args:
            kwargs: Those of ``AlgorithmConfig.evaluation``. ``evaluation_duration`` counts responses or, with
                ``evaluation_duration_unit="timesteps"``, tokens; ``"auto"`` goes on until the training step beside it
                is done. ``evaluation_config={"env_config": {"split": "train"}}`` measures on another split.
        """
        super().evaluation(**kwargs)
        return self

    def validate(self) -> None:
        """Checks everything that can be checked without starting anything.

        Raises:
            ValueError: Naming what was expected, what came, and the section that mends it.
        """
        check_values(self)
        check_inherited(self)
        super().validate()
        check_settings(self)

    def get_state(self) -> dict[str, Any]:
        """RLlib's state, with every setting of ours.

        RLlib takes -1 for its mark of what is deprecated and leaves it out: an algorithm would be built with the
        default in its place. The paper's ``fail_reward`` is -1.
        """
        inherited = vars(PPOConfig())
        return {name: value for name, value in vars(self).items() if name not in inherited} | super().get_state()

    def _value_error(self, errmsg: str) -> None:
        """RLlib's way to refuse a configuration, without its advice to switch all checks off."""
        raise ValueError(errmsg)

    def check_task(self) -> TokenMDP:
        """Builds the environment and checks it against the model, see :func:`espo_algo.checks.check_task`."""
        return check_task(self)

    def get_evaluation_config_object(self) -> Self | None:
        """The evaluation runners' configuration, with a split of its own (``"eval"`` by default); RLlib calls this."""
        given = self.evaluation_config or {}
        config = super().get_evaluation_config_object()
        if config is not None and isinstance(given, Mapping):
            config._evaluation_split = (given.get("env_config") or {}).get("split", "eval")
        return config

    # --- what the rest is built from ----------------------------------------------------------------------------

    @property
    def pretrained_config(self) -> PretrainedConfig:
        """The language model's own configuration."""
        return AutoConfig.from_pretrained(self.model_name)

    @property
    def lora_settings(self) -> LoRASettings | None:
        """What adapters look like; None where all weights are trained."""
        if self.lora is None:
            return None
        targets = self.lora.get("target_modules", "all-linear")
        return LoRASettings(**self.lora | {"target_modules": targets if isinstance(targets, str) else tuple(targets)})

    @property
    def sampling(self) -> SamplingSettings:
        """How tokens are drawn."""
        return SamplingSettings(self.temperature, self.top_p, self.top_k, self.greedy)

    @property
    def token_env_config(self) -> dict[str, Any]:
        """``env_config`` with the horizon, and in evaluation with the split to measure on."""
        split = {"split": self._evaluation_split} if self.in_evaluation else {}
        return {"max_new_tokens": self.max_new_tokens, **self.env_config, **split}

    @property
    def early_stopping_state(self) -> EarlyStoppingState:
        """The state of early stopping at the start."""
        low, high = self.beta_bounds
        beta = min(max(7.0, low), high) if self.beta == "auto" else self.beta
        delay = self.batches_ahead + (self.max_carried_updates if self.unfinished_fraction else 0)
        controllers: dict[Controller, ToleranceController | FalsePositiveController] = {
            "stop_rate": ToleranceController(
                beta,
                self.tolerance_rate / (1 + delay),  # as far from swinging as without the delay
                self.target_stop_rate,
                (low, high),
                self.tolerance_update,
            ),
            "false_positive_rate": FalsePositiveController(
                beta, self.budget, self.confidence, self.audit_window, (low, high)
            ),
        }
        return EarlyStoppingState(
            statistics=RegretStatistics(momentum=self.statistics_momentum),
            tolerance=controllers[self.controller],
            warmup=CriticWarmup(
                loss_threshold=self.warmup_loss_threshold,
                patience=self.warmup_patience,
                change_threshold=self.warmup_change_threshold,
                max_fraction=self.warmup_max_fraction,
                total_steps=self.planned_iterations,
                min_explained_variance=self.warmup_min_explained_variance,
            ),
            start=self.statistics_start,
            calibrate=self.beta == "auto",
        )

    @property
    def credit_settings(self) -> CreditSettings:
        """What the credit of a token depends on beside the responses."""
        return CreditSettings(
            gamma=self.gamma,
            lambda_=self.lambda_,
            critic_lambda=self.lambda_ if self.critic_lambda is None else self.critic_lambda,
            stop_credit=self.stop_credit,
            stop_weight=self.stop_weight,
            audit_fraction=self.shadow_fraction,
            audit_weighting=self.audit_weighting,
            horizon=self.max_new_tokens,
            overlong_buffer=self.overlong_buffer,
            overlong_penalty=self.overlong_penalty,
        )

    @property
    def stop_reward(self) -> float:
        """Reward of a stop: none where a value stands behind it."""
        return self.fail_reward if self.stop_credit == "reward" else 0.0

    def pretrains_critic(self, num_updates: int) -> bool:
        """Whether the update behind ``num_updates`` others trains the critic alone."""
        return num_updates < self.value_pretraining_iterations

    @property
    def detector_settings(self) -> DetectorSettings:
        """Rule and constants of the failure detector."""
        return DetectorSettings(
            rule="never" if self.in_evaluation and self.stops_in_evaluation == "off" else self.rule,
            smoothing=self.smoothing,
            value_floor=self.value_floor,
            clip=self.regret_clip,
            delta=self.regret_delta,
            gate=self.gate,
        )

    def engine_settings(self, mdp: TokenMDP) -> EngineSettings:
        """What the configured engine is built from, with a slot for each of the environment's."""
        return EngineSettings(
            num_slots=self.num_envs_per_env_runner,
            max_length=mdp.max_length,
            eos_token_id=mdp.eos_token_id,
            detector=self.detector_settings,
            sampling=self.sampling,
            num_workers=self.workers_per_env_runner,
            weight_transfer=self.weight_transfer,
            options=self.engine_options,
        )

    @property
    def workers_per_env_runner(self) -> int:
        """Processes that a runner's engine splits the model over: its GPUs, where it has these to itself."""
        return max(1, int(self.num_gpus_per_env_runner)) if get_engine(self.engine).owns_gpus else 1

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The module that learners and runners build; RLlib calls this."""
        return RLModuleSpec(module_class=LanguageModelRLModule)

    def build_learner_group(
        self,
        *,
        env: Any = None,
        spaces: dict[str, Any] | None = None,
        rl_module_spec: Any = None,
        placement_group: Any = None,
    ) -> ESPOLearnerGroup:
        """Builds the learners; RLlib calls this."""
        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        return ESPOLearnerGroup(config=self.copy(), module_spec=spec, placement_group=placement_group)

    def get_default_learner_class(self) -> type[ESPOLearner]:
        """The class of the learners; RLlib calls this."""
        return ESPOLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        # Not PPO's: its entries describe networks that RLlib would build.
        return AlgorithmConfig._model_config_auto_includes.fget(self) | {
            "model": self.model_name,
            "critic": self.critic,
            "dtype": self.dtype,
            "gradient_checkpointing": self.gradient_checkpointing,
            "sharding": self.sharding,
            "lora": self.lora_settings,
            "seed": self.seed or 0,
            "temperature": self.temperature,
            "early_stopping": self.early_stopping_state,
        }
