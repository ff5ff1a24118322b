"""Every key of a configuration with its type and range: a class for each method of ``ESPOConfig``.

None of the keys is required. What depends on several keys at once is in ``espo_algo/combinations.py``.

- :class:`Environment`, :class:`EnvRunners`, :class:`LanguageModel`, :class:`Generation`, :class:`EarlyStopping`,
  :class:`Training`, :class:`Learners`, :class:`Evaluation`, :class:`FaultTolerance`, :class:`Resources`,
  :class:`Reporting`, :class:`Checkpointing`, :class:`Debugging`
- :class:`Run`, :class:`Tune`: the command line's own sections.
- :data:`SECTIONS`: all of them by name. :data:`COMMAND_LINE`: names of those that are no method.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from typing_extensions import TypedDict  # before Python 3.12 pydantic takes no other

from espo_algo.presets import Preset
from espo_algo.schema.types import (
    AuditWeighting,
    Count,
    CriticKind,
    Dtype,
    EvaluationStops,
    Float,
    Free,
    Keys,
    Limit,
    LoRA,
    Moments,
    Natural,
    NotNegative,
    Positive,
    Schedule,
    Sharding,
    Share,
    StopCredit,
    Text,
    Truth,
)
from espo_env.early_stopping import Controller, Gate, StatisticsStart

__all__ = ["COMMAND_LINE", "SECTIONS"]


class Environment(TypedDict, total=False):
    """The task."""

    env: Annotated[Text | Callable | None, "a Gymnasium id"]
    env_config: Keys


class EnvRunners(TypedDict, total=False):
    """Who samples."""

    env_runner_cls: Free
    num_env_runners: Natural
    create_local_env_runner: Truth
    create_env_on_local_worker: Truth
    num_envs_per_env_runner: Count
    batches_ahead: Literal[0, 1]
    unfinished_fraction: Share
    max_carried_updates: Count
    num_cpus_per_env_runner: NotNegative
    num_gpus_per_env_runner: NotNegative
    custom_resources_per_env_runner: Keys
    validate_env_runners_after_construction: Truth
    sample_timeout_s: Limit | None
    max_requests_in_flight_per_env_runner: Count


class LanguageModel(TypedDict, total=False):
    """The policy and its critic."""

    model: Annotated[Text | Path | None, "a model folder or hub name"]
    critic: CriticKind
    dtype: Dtype
    gradient_checkpointing: Truth
    sharding: Sharding | None
    lora: (
        Annotated[
            LoRA,
            "r (a whole number >= 1), and where wanted alpha (a number > 0), target_modules ('all-linear' or names of "
            "linear layers), dropout (a number in [0, 1))",
        ]
        | None
    )


class Generation(TypedDict, total=False):
    """How responses are written."""

    engine: Text
    engine_options: Keys
    weight_transfer: Text | None
    max_new_tokens: Count
    rollouts_per_prompt: Count
    dynamic_sampling_rounds: Natural
    temperature: Positive
    top_p: Annotated[Float, Gt(0), Le(1)]
    top_k: Natural
    greedy: Truth


class EarlyStopping(TypedDict, total=False):
    """The failure detector, and what adapts it between batches."""

    preset: Preset
    rule: Text
    gate: Gate
    stop_credit: StopCredit
    stop_weight: Annotated[Float, Ge(0), Le(1)]
    controller: Controller
    budget: Annotated[Float, Gt(0), Lt(1)]
    confidence: Annotated[Float, Gt(0), Lt(1)]
    audit_window: Count
    pilots: Natural
    fail_reward: Float
    beta: Float | Literal["auto"]
    beta_bounds: Annotated[tuple[Float, Float], "two numbers [low, high]"]
    target_stop_rate: Share
    tolerance_rate: NotNegative
    tolerance_update: Literal["additive", "multiplicative"]
    smoothing: Annotated[Float, Ge(0), Lt(1)]
    value_floor: Positive
    regret_clip: Positive
    regret_delta: Positive
    statistics_momentum: Share
    statistics_start: StatisticsStart
    warmup_loss_threshold: Float
    warmup_patience: Count
    warmup_change_threshold: Float
    warmup_max_fraction: Share
    warmup_min_explained_variance: Annotated[Float, Le(1)] | None
    planned_iterations: Count | None
    shadow_fraction: Share
    audit_weighting: AuditWeighting
    stops_in_evaluation: EvaluationStops


class Training(TypedDict, total=False):
    """The update."""

    lr: NotNegative | Schedule
    critic_lr: NotNegative | Schedule
    critic_lambda: Share | None
    value_pretraining_iterations: Natural
    weight_decay: NotNegative
    moments: Moments
    advantage_estimator: Text
    normalize_advantages: Truth
    clip_param_high: Limit | None
    overlong_buffer: Natural
    overlong_penalty: NotNegative
    max_tokens_per_microbatch: Count
    share_prompts: Truth
    importance_weight_cap: Annotated[Float, Ge(1)] | None
    gamma: Share
    lambda_: Share
    clip_param: Limit
    vf_clip_param: Limit
    vf_loss_coeff: NotNegative
    entropy_coeff: NotNegative | Schedule
    use_kl_loss: Truth
    kl_coeff: NotNegative
    kl_target: NotNegative
    grad_clip: Limit | None
    grad_clip_by: Literal["global_norm"]
    train_batch_size_per_learner: Count
    minibatch_size: Count | None
    num_epochs: Count
    shuffle_batch_per_epoch: Truth
    learner_class: Free
    learner_config_dict: Keys


class Learners(TypedDict, total=False):
    """Who learns."""

    num_learners: Natural
    num_cpus_per_learner: NotNegative | Literal["auto"]
    num_gpus_per_learner: NotNegative
    custom_resources_per_learner: Keys
    local_gpu_idx: Natural
    learner_class: Free
    learner_config_dict: Keys


class Evaluation(TypedDict, total=False):
    """Evaluation in training."""

    evaluation_interval: Natural | None
    evaluation_duration: Count | Literal["auto"]
    evaluation_duration_unit: Literal["episodes", "timesteps"]
    evaluation_sample_timeout_s: Limit
    evaluation_parallel_to_training: Truth
    evaluation_unhealthy_workers_timeout_s: NotNegative
    evaluation_error_after_n_consecutive_skips: Natural | None
    evaluation_config: Keys | None
    evaluation_num_env_runners: Natural


class FaultTolerance(TypedDict, total=False):
    """What happens when runners or learners fail."""

    max_empty_rounds: Count
    max_skipped_steps: Count
    wait_factor: Annotated[Float, Ge(1)]
    wait_floor_s: NotNegative
    update_timeout_s: Limit
    weight_sync_timeout_s: Limit
    restart_failed_env_runners: Truth
    ignore_env_runner_failures: Truth
    max_num_env_runner_restarts: Natural
    delay_between_env_runner_restarts_s: NotNegative
    num_consecutive_env_runner_failures_tolerance: Natural
    env_runner_health_probe_timeout_s: NotNegative
    env_runner_restore_timeout_s: NotNegative


class Resources(TypedDict, total=False):
    """What the driver asks for."""

    num_cpus_for_main_process: NotNegative
    custom_resources_for_main_process: Keys
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class Reporting(TypedDict, total=False):
    """When an iteration is over, and how metrics are kept."""

    metrics_num_episodes_for_smoothing: Count
    min_time_s_per_iteration: NotNegative | None
    min_train_timesteps_per_iteration: Natural
    min_sample_timesteps_per_iteration: Natural
    custom_stats_cls_lookup: Free


class Checkpointing(TypedDict, total=False):
    """What RLlib writes."""

    export_native_model_files: Truth
    checkpoint_trainable_policies_only: Truth


class Debugging(TypedDict, total=False):
    """Seed and logs."""

    log_level: Literal["DEBUG", "INFO", "WARN", "ERROR"]
    log_sys_usage: Truth
    seed: Natural | None


class Run(TypedDict, total=False):
    """``RunOptions``: how long the command line trains, and what it keeps."""

    iterations: Count
    output: Text
    checkpoint_every: Count
    keep_checkpoints: Count
    responses: Natural
    export: Truth


class Tune(TypedDict, total=False):
    """``SearchOptions``: how ``espo tune`` searches."""

    metric: Text
    mode: Literal["max", "min"]
    samples: Count
    searcher: Literal["random", "optuna"]
    scheduler: Literal["asha", "none"]
    grace: Count
    reduction_factor: Annotated[Float, Gt(1)]
    seed: Natural


COMMAND_LINE = ("run", "tune")
"""Sections of the command line: no methods of the configuration."""
SECTIONS: dict[str, Any] = {
    "environment": Environment,
    "env_runners": EnvRunners,
    "language_model": LanguageModel,
    "generation": Generation,
    "early_stopping": EarlyStopping,
    "training": Training,
    "learners": Learners,
    "evaluation": Evaluation,
    "fault_tolerance": FaultTolerance,
    "resources": Resources,
    "reporting": Reporting,
    "checkpointing": Checkpointing,
    "debugging": Debugging,
    "run": Run,
    "tune": Tune,
}
"""What may stand in a file: the configuration's methods, and the command line's own."""
