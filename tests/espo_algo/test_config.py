from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig

from espo_algo import ESPO, ESPOConfig
from espo_algo.rollout.engines import get_engine
from espo_algo.rollout.env_runner import ESPOEnvRunner
from espo_algo.rollout.environment import make_vector_env
from espo_algo.schema import FIELDS, UNREAD
from espo_env.early_stopping import FalsePositiveController, ToleranceController

OWN_KEYS = set(vars(ESPOConfig())) - set(vars(PPOConfig()))
SECTIONS = ("env_runners", "language_model", "generation", "early_stopping", "training", "fault_tolerance")


# --- sections -------------------------------------------------------------------------------------------------------


def own_arguments(section: str) -> list[str]:
    """Those that set a key of their own; a preset sets several."""
    parameters = inspect.signature(getattr(ESPOConfig, section)).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "preset"]


def changed_keys(before: ESPOConfig, after: ESPOConfig) -> set[str]:
    return {name for name in vars(after) if vars(after)[name] != vars(before)[name]}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_without_arguments_changes_nothing(section: str) -> None:
    config = ESPOConfig()
    assert getattr(config, section)() is config
    assert not changed_keys(ESPOConfig(), config)


def test_each_argument_of_a_section_sets_one_key_and_together_they_set_all() -> None:
    reached: list[str] = []
    for section in SECTIONS:
        for argument in own_arguments(section):
            config = ESPOConfig()
            value = object()
            assert getattr(config, section)(**{argument: value}) is config
            (key,) = changed_keys(ESPOConfig(), config)
            assert vars(config)[key] is value
            reached.append(key)
    assert len(set(reached)) == len(reached)
    assert set(reached) == OWN_KEYS


def test_none_and_false_are_values() -> None:
    config = ESPOConfig().early_stopping(planned_iterations=30).training(normalize_advantages=False)
    config.early_stopping(planned_iterations=None)
    assert config.planned_iterations is None
    assert config.normalize_advantages is False


def test_a_model_may_be_given_as_a_path(tmp_path: Path) -> None:
    assert ESPOConfig().language_model(model=tmp_path).model_name == str(tmp_path)


def test_rllibs_own_arguments_pass_through() -> None:
    config = ESPOConfig().training(lr=0.5, clip_param=0.3).fault_tolerance(restart_failed_env_runners=False)
    assert (config.lr, config.clip_param, config.restart_failed_env_runners) == (0.5, 0.3, False)


def test_defaults_are_the_papers_where_nothing_better_was_measured() -> None:
    config = ESPOConfig()
    paper = {
        "lr": 1e-6,
        "gamma": 1.0,
        "train_batch_size_per_learner": 64,
        "max_new_tokens": 8192,
        "target_stop_rate": 0.25,
        "value_floor": 0.2,
        "statistics_momentum": 0.99,
        "warmup_patience": 3,
        "warmup_max_fraction": 0.1,
    }
    assert {name: getattr(config, name) for name in paper} == paper
    # What was measured to be better: see preset="paper" for what is published.
    ours = {
        "fail_reward": 0.0,
        "beta": "auto",
        "tolerance_rate": 0.2,
        "tolerance_update": "multiplicative",
        "smoothing": 0.0,
        "warmup_min_explained_variance": 0.05,
    }
    assert {name: getattr(config, name) for name in ours} == ours
    # A rollout outlasts RLlib's minute, and would be dropped.
    assert config.sample_timeout_s == 3600.0  # not RLlib's minute


def test_the_papers_preset_gives_what_is_published_and_arguments_beside_it_win() -> None:
    paper = {
        "rule": "regret_value",
        "gate": "before",
        "fail_reward": -1.0,
        "controller": "stop_rate",
        "beta": 7.0,
        "target_stop_rate": 0.25,
        "tolerance_rate": 0.1,
        "tolerance_update": "additive",
        "smoothing": 0.9,
        "value_floor": 0.2,
        "statistics_momentum": 0.99,
        "warmup_loss_threshold": 0.5,
        "warmup_patience": 3,
        "warmup_change_threshold": 0.1,
        "warmup_max_fraction": 0.1,
        "warmup_min_explained_variance": None,
        "shadow_fraction": 0.0,
        "pilots": 0,
    }
    changed = ESPOConfig()
    for name in paper:
        setattr(changed, name, "something else")
    changed.early_stopping(preset="paper")
    assert {name: getattr(changed, name) for name in paper} == paper
    config = ESPOConfig().early_stopping(preset="paper", beta="auto", rule="regret_only", planned_iterations=9)
    assert (config.beta, config.rule, config.planned_iterations) == ("auto", "regret_only", 9)
    assert config.target_stop_rate == 0.25
    with pytest.raises(ValueError, match=r"a preset out of \['paper'\], got 'ppo'"):
        ESPOConfig().early_stopping(preset="ppo")


# --- every key is read ----------------------------------------------------------------------------------------------


class RecordingConfig(ESPOConfig):
    """Writes down which of its keys are read, other than to be checked or set."""

    reads: ClassVar[set[str]] = set()
    recording: ClassVar[bool] = False

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class)
        self.read_by_nobody = True

    def __getattribute__(self, name: str) -> Any:
        if RecordingConfig.recording:
            RecordingConfig.reads.add(name)
        return super().__getattribute__(name)

    def validate(self) -> None:
        recording, RecordingConfig.recording = RecordingConfig.recording, False
        super().validate()
        RecordingConfig.recording = recording


@pytest.mark.usefixtures("ray_session")
def test_every_key_is_read_by_what_is_built_and_run(config: ESPOConfig) -> None:
    recording = RecordingConfig()
    for name, value in vars(config).items():
        setattr(recording, name, value)
    recording.early_stopping(stops_in_evaluation="off").evaluation(evaluation_interval=1, evaluation_duration=2)
    RecordingConfig.reads.clear()
    RecordingConfig.recording = True
    try:
        algo = recording.build_algo()
        algo.train()
        algo.stop()
    finally:
        RecordingConfig.recording = False
    # Nobody counts skipped steps while there are none; what that key does is tested with a learner that skips them.
    assert (OWN_KEYS | {"read_by_nobody"}) - RecordingConfig.reads == {"read_by_nobody", "max_skipped_steps"}


def test_vllm_is_given_its_options(config: ESPOConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = config.check_task()
    monkeypatch.setattr("espo_algo.rollout.vllm.engine.VLLMEngine", lambda model, settings: settings)
    config.generation(engine="vllm", engine_options={"enforce_eager": True}).env_runners(num_env_runners=1)
    config.validate()
    settings = get_engine(config.engine).build(None, config.engine_settings(mdp))
    assert settings.options == {"enforce_eager": True}
    assert (settings.num_slots, settings.detector.rule) == (4, "regret_value")


CONTROLLERS = {ToleranceController: "stop_rate", FalsePositiveController: "false_positive_rate"}


def budgeted(config: ESPOConfig) -> FalsePositiveController:
    return config.copy().early_stopping(controller="false_positive_rate").early_stopping_state.tolerance


CHANGES: dict[str, tuple[Any, Callable[[ESPOConfig], Any]]] = {
    "model": ("other", lambda c: c._model_config_auto_includes["model"]),
    "critic": ("separate", lambda c: c._model_config_auto_includes["critic"]),
    "dtype": ("bfloat16", lambda c: c._model_config_auto_includes["dtype"]),
    "gradient_checkpointing": (True, lambda c: c._model_config_auto_includes["gradient_checkpointing"]),
    "max_new_tokens": (9, lambda c: make_vector_env(c).unwrapped.mdp.max_new_tokens),
    "temperature": (0.5, lambda c: c.sampling.temperature),
    "top_p": (0.5, lambda c: c.sampling.top_p),
    "top_k": (3, lambda c: c.sampling.top_k),
    "greedy": (True, lambda c: c.sampling.greedy),
    "rule": ("never", lambda c: c.detector_settings.rule),
    "stop_credit": ("bootstrap", lambda c: c.credit_settings.stop_credit),
    "stop_weight": (0.25, lambda c: c.credit_settings.stop_weight),
    "fail_reward": (-0.5, lambda c: make_vector_env(c).fail_reward),
    "beta": (3.0, lambda c: c.early_stopping_state.tolerance.beta),
    "beta_bounds": ((1.0, 9.0), lambda c: c.early_stopping_state.tolerance.bounds),
    "target_stop_rate": (0.1, lambda c: c.early_stopping_state.tolerance.target),
    "tolerance_rate": (0.3, lambda c: c.early_stopping_state.tolerance.rate),
    "tolerance_update": ("additive", lambda c: c.early_stopping_state.tolerance.update),
    "gate": ("after", lambda c: c.detector_settings.gate),
    "controller": ("false_positive_rate", lambda c: CONTROLLERS[type(c.early_stopping_state.tolerance)]),
    "budget": (0.1, lambda c: budgeted(c).budget),
    "confidence": (0.8, lambda c: budgeted(c).confidence),
    "audit_window": (300, lambda c: budgeted(c).window),
    "pilots": (1, lambda c: c.pilots),
    "batches_ahead": (1, lambda c: c.batches_ahead),
    "unfinished_fraction": (0.5, lambda c: c.unfinished_fraction),
    "max_carried_updates": (3, lambda c: c.max_carried_updates),
    "smoothing": (0.5, lambda c: c.detector_settings.smoothing),
    "value_floor": (0.1, lambda c: c.detector_settings.value_floor),
    "regret_clip": (3.0, lambda c: c.detector_settings.clip),
    "regret_delta": (0.1, lambda c: c.detector_settings.delta),
    "statistics_momentum": (0.5, lambda c: c.early_stopping_state.statistics.momentum),
    "statistics_start": ("zero_one", lambda c: c.early_stopping_state.start),
    "warmup_loss_threshold": (0.1, lambda c: c.early_stopping_state.warmup.loss_threshold),
    "warmup_patience": (5, lambda c: c.early_stopping_state.warmup.patience),
    "warmup_change_threshold": (0.2, lambda c: c.early_stopping_state.warmup.change_threshold),
    "warmup_max_fraction": (0.3, lambda c: c.early_stopping_state.warmup.max_fraction),
    "warmup_min_explained_variance": (0.2, lambda c: c.early_stopping_state.warmup.min_explained_variance),
    "overlong_buffer": (4, lambda c: c.credit_settings.overlong_buffer),
    "overlong_penalty": (0.5, lambda c: c.credit_settings.overlong_penalty),
    "audit_weighting": ("self_normalized", lambda c: c.credit_settings.audit_weighting),
    "critic_lambda": (0.5, lambda c: c.credit_settings.critic_lambda),
    "planned_iterations": (30, lambda c: c.early_stopping_state.warmup.total_steps),
}


@pytest.mark.parametrize("argument", CHANGES)
def test_a_key_reaches_what_it_is_for(config: ESPOConfig, argument: str) -> None:
    value, observed = CHANGES[argument]
    assert observed(config) != value
    (section,) = (section for section in SECTIONS if argument in own_arguments(section))
    getattr(config, section)(**{argument: value})
    assert observed(config) == value


@pytest.mark.parametrize("argument", ["fail_reward", "warmup_loss_threshold", "warmup_change_threshold"])
def test_a_setting_of_minus_one_stays_where_rllib_copies_a_configuration(config: ESPOConfig, argument: str) -> None:
    # RLlib's mark of what is deprecated is -1: an algorithm would be built with the default in its place.
    config.early_stopping(**{argument: -1.0})
    assert getattr(ESPOConfig.from_state(config.get_state()), argument) == -1.0


def test_a_controller_whose_answer_comes_a_batch_later_has_half_the_gain(config: ESPOConfig) -> None:
    config.early_stopping(tolerance_rate=0.3).env_runners(batches_ahead=1)
    assert config.early_stopping_state.tolerance.rate == 0.15
    config.env_runners(unfinished_fraction=0.5, max_carried_updates=3)
    assert config.early_stopping_state.tolerance.rate == pytest.approx(0.3 / 5)


def test_auto_beta_calibrates_from_a_tolerance_within_the_bounds(config: ESPOConfig) -> None:
    assert not config.copy().early_stopping(beta=1.5).early_stopping_state.calibrate
    state = config.early_stopping(beta="auto", beta_bounds=(0.1, 2.0)).early_stopping_state
    assert state.calibrate
    assert state.tolerance.beta == 2.0


@pytest.mark.parametrize(("stops", "rule"), [("off", "never"), ("mark", "regret_only"), ("stop", "regret_only")])
def test_stops_can_be_off_in_evaluation(config: ESPOConfig, stops: str, rule: str) -> None:
    config.early_stopping(rule="regret_only", stops_in_evaluation=stops)
    assert config.detector_settings.rule == "regret_only"
    config.in_evaluation = True
    assert config.detector_settings.rule == rule


def test_evaluation_measures_on_the_other_split(config: ESPOConfig) -> None:
    assert make_vector_env(config).unwrapped.mdp.split == "train"
    config.in_evaluation = True
    assert make_vector_env(config).unwrapped.mdp.split == "eval"
    # Training's own split decides nothing here.
    config.environment(env_config={"split": "train"})
    assert make_vector_env(config).unwrapped.mdp.split == "eval"


def test_evaluation_can_be_told_its_split(config: ESPOConfig) -> None:
    config.environment(env_config={"split": "train"})
    evaluated = config.get_evaluation_config_object()
    assert make_vector_env(evaluated).unwrapped.mdp.split == "eval"
    config.evaluation(evaluation_config={"env_config": {"split": "train"}})
    evaluated = config.get_evaluation_config_object()
    assert make_vector_env(evaluated).unwrapped.mdp.split == "train"


# --- what is wrong is said before anything starts -------------------------------------------------------------------


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("training", {"lr": -5e-5}, r"training\(lr\): expected a number >= 0 or a schedule .*, got -5e-05$"),
    ("training", {"lr": float("nan")}, r"training\(lr\): expected .*, got nan$"),
    ("training", {"lr": torch.tensor(1e-3)}, r"training\(lr\): expected .*, got tensor\(0.0010\)$"),
    (
        "training",
        {"critic_lr": [[5, 1e-3], [9, 0.0]]},
        r"critic_lr\): .* a schedule \[\[0, value\].*, got \[\[5, 0.001\]",
    ),
    ("training", {"train_batch_size_per_learner": -1}, r"_per_learner\): expected a whole number >= 1, got -1$"),
    ("training", {"minibatch_size": True}, r"minibatch_size\): expected a whole number >= 1 or none, got True$"),
    ("generation", {"max_new_tokens": "many"}, r"max_new_tokens\): expected a whole number >= 1, got 'many'$"),
    ("early_stopping", {"beta": "automatic"}, r"beta\): expected a number or 'auto', got 'automatic'$"),
    ("env_runners", {"num_env_runners": -1}, r"num_env_runners\): expected a whole number >= 0, got -1$"),
    ("env_runners", {"batches_ahead": 2}, r"batches_ahead\): expected 0 or 1, got 2$"),
    ("env_runners", {"batches_ahead": 1}, r"num_env_runners\) >= 1 with .env_runners\(batches_ahead=1\), .* got 0$"),
    (
        "env_runners",
        {"batches_ahead": 1, "num_env_runners": 1},
        r"importance_weight_cap\), such as 2, with .env_runners\(batches_ahead=1\), .* got None$",
    ),
    ("env_runners", {"unfinished_fraction": 1.5}, r"unfinished_fraction\): expected a number in \[0, 1\], got 1.5$"),
    ("env_runners", {"max_carried_updates": 0}, r"max_carried_updates\): expected a whole number >= 1, got 0$"),
    (
        "env_runners",
        {"unfinished_fraction": 0.5},
        r"importance_weight_cap\), such as 2, with .env_runners\(unfinished_fraction=0.5\), .* got None$",
    ),
    (
        "evaluation",
        {"evaluation_config": {"unfinished_fraction": 0.5}},
        r"expected .env_runners\(unfinished_fraction\) for training alone, .*waits for all of its responses$",
    ),
    ("evaluation", {"evaluation_duration": 0}, r"_duration\): expected a whole number >= 1 or 'auto', got 0$"),
    ("training", {"minibatch_size": 9}, r"minibatch_size\) of at most .* responses \(8\), got 9"),
    ("training", {"max_tokens_per_microbatch": 0}, r"max_tokens_per_microbatch\): expected a whole number >= 1, got 0"),
    ("training", {"importance_weight_cap": 0.5}, r"importance_weight_cap\): expected a number >= 1 or none, got 0.5"),
    (
        "training",
        {"use_gae": False},
        r"\(use_gae\) left at True.*, got False; .training\(advantage_estimator\)",
    ),
    ("training", {"use_critic": False}, r"training\(use_critic\) left at True, which nothing here reads, got False"),
    ("training", {"train_batch_size": 64}, r"training\(train_batch_size\) left at 4000, .*, got 64; .*per_learner"),
    ("training", {"kl_coeff": 0.5}, r"use_kl_loss=True\) beside kl_coeff=0.5, got False"),
    ("training", {"use_kl_loss": True}, r"several optimiser steps an iteration .*, got one \(num_epochs=1"),
    ("training", {"advantage_estimator": "vtrace"}, r"advantage_estimator\): expected .*\['gae', 'group'\].*'vtrace'"),
    ("env_runners", {"explore": False}, r"env_runners\(explore\) left at True, .*, got False; .*greedy=True"),
    ("training", {"grad_clip_by": "value"}, r"grad_clip_by\): expected 'global_norm', got 'value'"),
    ("language_model", {"critic": "none"}, r"critic\): expected 'shared' or 'separate', got 'none'"),
    ("language_model", {"dtype": "float8"}, r"dtype\): expected 'float32' or 'bfloat16', got 'float8'"),
    ("language_model", {"model": "/no/such/folder"}, r"a config.json, got '/no/such/folder'"),
    ("language_model", {"model": "./folder"}, r"a config.json, got './folder'"),
    ("language_model", {"model": None}, r"language_model\(model=folder or hub name\), got None"),
    ("generation", {"engine": "abacus"}, r"engine\): expected an engine out of \['torch'.*\], .* got 'abacus'"),
    (
        "generation",
        {"engine_options": {"seed": 1}},
        r"engine_options\) .* that takes options, got {'seed': 1} .*='torch'",
    ),
    ("generation", {"engine": "vllm"}, r"env_runners\(num_env_runners\) >= 1 with engine='vllm', .*, got 0"),
    ("generation", {"max_new_tokens": 0}, r"max_new_tokens\): expected a whole number >= 1, got 0"),
    ("generation", {"rollouts_per_prompt": 3}, r"rollouts_per_prompt=3\) divides, got 8"),
    ("generation", {"temperature": 0.0}, r"temperature\): expected a number > 0, got 0.0"),
    ("generation", {"top_p": 0.9}, r"top_p 1, .* in training .*, got 0.9, 0 and False"),
    ("generation", {"top_k": 5}, r"top_k 0 .* in training .*, got 1.0, 5 and False"),
    ("generation", {"greedy": True}, r"greedy False in training .*, got 1.0, 0 and True"),
    ("early_stopping", {"rule": "vibes"}, r"\['never', .*'value_only'\], .* got 'vibes'"),
    ("early_stopping", {"target_stop_rate": 1.5}, r"target_stop_rate\): expected a number in \[0, 1\], got 1.5"),
    ("early_stopping", {"target_stop_rate": -0.1}, r"in \[0, 1\], got -0.1"),
    ("early_stopping", {"beta": 60.0}, r"beta within bounds \(0.05, 50.0\), got 60.0"),
    ("early_stopping", {"beta_bounds": (3.0, 2.0)}, r"low <= high, got \(3.0, 2.0\)"),
    ("early_stopping", {"tolerance_rate": -1.0}, r"tolerance_rate\): expected a number >= 0, got -1.0"),
    (
        "early_stopping",
        {"tolerance_update": "geometric"},
        r"tolerance_update\): expected 'additive' or 'multiplicative', got 'geometric'",
    ),
    ("early_stopping", {"gate": "beside"}, r"gate\): expected 'before' or 'after', got 'beside'"),
    ("early_stopping", {"controller": "luck"}, r"controller\): expected 'stop_rate' or 'false_.*', got 'luck'"),
    ("early_stopping", {"controller": "false_positive_rate"}, r"shadow_fraction\) > 0 with controller=.*, got 0"),
    ("early_stopping", {"pilots": 1}, r"pilots\) in \[0, rollouts_per_prompt=1\), got 1"),
    ("early_stopping", {"budget": 1.5}, r"budget\): expected a number in \(0, 1\), got 1.5"),
    ("early_stopping", {"confidence": 0.0}, r"confidence\): expected a number in \(0, 1\), got 0.0"),
    ("early_stopping", {"audit_window": 0}, r"audit_window\): expected a whole number >= 1, got 0"),
    ("early_stopping", {"smoothing": 1.0}, r"smoothing\): expected a number in \[0, 1\), got 1.0"),
    ("early_stopping", {"value_floor": 0.0}, r"value_floor\): expected a number > 0, got 0.0"),
    ("early_stopping", {"regret_clip": -1.0}, r"regret_clip\): expected a number > 0, got -1.0"),
    ("early_stopping", {"regret_delta": 0.0}, r"regret_delta\): expected a number > 0, got 0.0"),
    ("early_stopping", {"statistics_momentum": 1.1}, r"statistics_momentum\): expected a number in \[0, 1\], got 1.1"),
    (
        "early_stopping",
        {"statistics_start": "warm"},
        r"statistics_start\): expected 'first_batch' or 'zero_one', got 'warm'",
    ),
    ("early_stopping", {"warmup_patience": 0}, r"warmup_patience\): expected a whole number >= 1, got 0"),
    ("early_stopping", {"warmup_max_fraction": 2.0}, r"warmup_max_fraction\): expected a number in \[0, 1\], got 2.0"),
    (
        "early_stopping",
        {"warmup_min_explained_variance": 2.0},
        r"min_explained_variance\): expected a number <= 1 or none, got 2.0",
    ),
    ("early_stopping", {"planned_iterations": 0}, r"planned_iterations\): expected a whole number >= 1 or none, got 0"),
    ("early_stopping", {"shadow_fraction": 1.5}, r"shadow_fraction\): expected a number in \[0, 1\], got 1.5"),
    (
        "early_stopping",
        {"stops_in_evaluation": "count"},
        r"stops_in_evaluation\): expected 'off' or 'mark' or 'stop', got 'count'",
    ),
    ("fault_tolerance", {"max_empty_rounds": 0}, r"max_empty_rounds\): expected a whole number >= 1, got 0"),
    (
        "early_stopping",
        {"stop_credit": "loan"},
        r"stop_credit\): expected 'reward' or 'bootstrap' or 'audited', got 'loan'",
    ),
    ("early_stopping", {"stop_credit": "audited"}, r"shadow_fraction in \(0, 1\], .*, got 0.0"),
    (
        "early_stopping",
        {"audit_weighting": "none"},
        r"audit_weighting\): expected 'inverse' or 'self_normalized', got 'none'",
    ),
    ("training", {"overlong_buffer": 13}, r"overlong_buffer in \[0, 12\] \(max_new_tokens\), got 13"),
    ("training", {"overlong_penalty": -0.5}, r"overlong_penalty\): expected a number >= 0, got -0.5"),
    ("training", {"clip_param_high": 0.1}, r"clip_param_high\) of at least clip_param \(0.2\) or None, got 0.1"),
    (
        "generation",
        {"dynamic_sampling_rounds": -1},
        r"dynamic_sampling_rounds\): expected a whole number >= 0, got -1",
    ),
    ("generation", {"dynamic_sampling_rounds": 3}, r"rollouts_per_prompt\) >= 2 with .*=3: .*, got 1"),
    ("training", {"critic_lambda": 1.5}, r"critic_lambda\): expected a number in \[0, 1\] or none, got 1.5"),
    (
        "training",
        {"value_pretraining_iterations": -1},
        r"value_pretraining_iterations\): expected a whole number >= 0, got -1",
    ),
    (
        "environment",
        {"env_config": {"max_new_tokens": 5}},
        r"max_new_tokens=12\) and\s+env_config\['max_new_tokens'\]=5",
    ),
]


@pytest.mark.parametrize(("section", "options", "message"), WRONG, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_wrong_values_are_named_with_what_was_expected(
    config: ESPOConfig, section: str, options: dict[str, Any], message: str
) -> None:
    getattr(config, section)(**options)
    with pytest.raises(ValueError, match=message) as refused:
        config.validate()
    assert "_validate_config" not in str(refused.value)


def test_a_batch_ahead_is_whole_before_it_is_known_what_it_lacks(config: ESPOConfig) -> None:
    config.env_runners(batches_ahead=1, num_env_runners=1).training(importance_weight_cap=2.0)
    config.evaluation(evaluation_interval=1).validate()  # its own runner writes when it is asked
    config.generation(rollouts_per_prompt=2, dynamic_sampling_rounds=1)
    with pytest.raises(
        ValueError, match=r"dynamic_sampling_rounds=0\) with .env_runners\(batches_ahead=1\): .* got 1$"
    ):
        config.validate()


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (
            "generation",
            {"engine": "own_parts:ENGINE"},
            r"an engine that carries responses on, .* got 'own_parts:ENGINE'$",
        ),
        (
            "generation",
            {"engine": "vllm", "engine_options": {"async_scheduling": True}},
            r"engine_options\) without async_scheduling with .env_runners\(unfinished_fraction=0.5\)",
        ),
        (
            "training",
            {"advantage_estimator": "group"},
            r"advantage_estimator='gae'\) with .*whole groups.* got 'group'$",
        ),
        ("early_stopping", {"pilots": 1}, r"pilots=0\) with .*whole groups.* got 1$"),
        ("generation", {"dynamic_sampling_rounds": 1}, r"dynamic_sampling_rounds=0\) with .*whole groups.* got 1$"),
    ],
)
def test_what_unfinished_responses_do_not_go_with(
    config: ESPOConfig, section: str, options: dict[str, Any], message: str
) -> None:
    config.env_runners(unfinished_fraction=0.5).training(importance_weight_cap=2.0)
    config.env_runners(num_env_runners=1).evaluation(evaluation_interval=1, evaluation_num_env_runners=1)
    config.generation(rollouts_per_prompt=2).validate()
    getattr(config, section)(**options)
    with pytest.raises(ValueError, match=message):
        config.validate()


@pytest.mark.parametrize(("section", "name"), [(section, name) for section in UNREAD for name in UNREAD[section]])
def test_a_setting_that_nothing_reads_is_refused_and_its_section_has_it(
    config: ESPOConfig, section: str, name: str
) -> None:
    setattr(config, FIELDS.get((section, name), name), "something else")
    with pytest.raises(ValueError, match=rf"expected .({section}|training)\({name}\) left at .*'something else'"):
        config.validate()


@pytest.mark.parametrize(
    ("generation", "env_runners", "learners", "message"),
    [
        (
            {"engine": "vllm", "weight_transfer": "ipc"},
            {"num_env_runners": 2, "num_gpus_per_env_runner": 1},
            {"num_learners": 1, "num_gpus_per_learner": 1},
            r"a learner on every GPU .*weight_transfer='ipc', got 1 learners .* for 2 workers of engines",
        ),
        (
            {"engine": "vllm", "weight_transfer": "ipc"},
            {"num_env_runners": 1},
            {"num_learners": 1},
            r"got 1 learners with num_gpus_per_learner=0 for 1 workers .* num_gpus_per_env_runner=0",
        ),
        (
            {"engine": "vllm"},
            {"num_env_runners": 1, "num_gpus_per_env_runner": 0.5},
            {},
            r"engine_options\) with one of \['gpu_memory_utilization', .*num_gpus_per_env_runner=0.5",
        ),
        (
            {"engine": "own_parts:GPU_ENGINE"},
            {},
            {},
            r"num_gpus_per_env_runner\) > 0 with engine='own_parts:.* 0",
        ),
    ],
)
def test_engines_and_learners_have_to_be_placed(config: ESPOConfig, generation, env_runners, learners, message) -> None:
    config.generation(**generation).env_runners(**env_runners).learners(**learners)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_each_learner_needs_a_prompt(config: ESPOConfig) -> None:
    config.generation(rollouts_per_prompt=8).learners(num_learners=2)
    config.training(train_batch_size_per_learner=4, minibatch_size=4)
    with pytest.raises(ValueError, match=r"one prompt a batch for each of 2 learners .*, got 1"):
        config.validate()


def test_a_kl_coefficient_may_adapt_where_there_are_several_steps(config: ESPOConfig) -> None:
    config.training(use_kl_loss=True, num_epochs=2).validate()
    config.training(num_epochs=1, minibatch_size=4).validate()


@pytest.mark.parametrize("stop_credit", ["bootstrap", "audited"])
def test_group_advantages_ask_no_critic_what_a_stop_is_worth(config: ESPOConfig, stop_credit: str) -> None:
    config.early_stopping(stop_credit=stop_credit, shadow_fraction=0.5).validate()
    config.training(advantage_estimator="group")
    with pytest.raises(ValueError, match=rf"stop_credit='reward'\) with advantage_estimator='group', .*{stop_credit}"):
        config.validate()


def test_audits_have_one_probability(config: ESPOConfig) -> None:
    config.generation(rollouts_per_prompt=4).early_stopping(stop_credit="audited", shadow_fraction=0.5, pilots=1)
    with pytest.raises(ValueError, match=r"pilots=0\) with stop_credit='audited', .*, got 1"):
        config.validate()


def test_a_stop_with_a_value_behind_it_has_no_reward(config: ESPOConfig) -> None:
    assert make_vector_env(config.early_stopping(fail_reward=-1.0)).fail_reward == -1.0
    assert make_vector_env(config.early_stopping(stop_credit="bootstrap")).fail_reward == 0.0


def test_what_is_right_passes(config: ESPOConfig) -> None:
    config.validate()
    config.check_task()
    # A hub name is not looked up here.
    config.language_model(model="owner/name-1.5B").validate()
    config.training(minibatch_size=None).validate()
    # Schedules, numbers of numpy's, and a bound that is off.
    config.training(lr=[(0, 1e-3), (100, 0)], critic_lr=np.float64(1e-3), vf_clip_param=float("inf"), num_epochs=1)
    config.training(minibatch_size=np.int64(8)).validate()


def test_sampling_tricks_are_for_evaluation(config: ESPOConfig) -> None:
    config.evaluation(evaluation_config=ESPOConfig.overrides(top_p=0.9, top_k=5, greedy=True))
    config.validate()
    evaluation = config.get_evaluation_config_object()
    evaluation.validate()
    assert (evaluation.top_p, evaluation.top_k, evaluation.greedy) == (0.9, 5, True)


class NoRunner(ESPOEnvRunner):
    """Fails where a runner is built."""

    def __init__(self, **kwargs: Any) -> None:
        raise InterruptedError("a runner was built")


def without_end_token(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["eos_token"]
    path.write_text(json.dumps(settings))


def with_a_small_vocabulary(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 16}))


def with_a_short_context(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 15}))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_end_token, "expected a tokenizer with an end-of-sequence token, got eos_token None"),
        (with_a_small_vocabulary, r"at least the tokenizer's 17 tokens, got '.*' with 16"),
        (with_a_short_context, r"at most 15 tokens .* prompts of up to 4 and .*max_new_tokens=12"),
    ],
)
def test_a_model_that_does_not_fit_the_task_fails_before_a_runner_is_built(
    config: ESPOConfig, model_folder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    config.language_model(model=folder)
    config.env_config = {}  # RLlib would add to it
    config.environment(
        "espo_env/TokenGeneration-v0", env_config={"task": "hand_made:FolderTask", "folder": str(folder)}
    )
    config.env_runners(env_runner_cls=NoRunner)
    # As it is, nothing is wrong with it but the runner.
    with pytest.raises(InterruptedError, match="a runner was built"):
        config.copy(copy_frozen=False).build_algo()
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        config.copy(copy_frozen=False).build_algo()


@pytest.mark.usefixtures("ray_session")
def test_wrong_values_fail_before_a_runner_is_built(config: ESPOConfig) -> None:
    config.env_runners(env_runner_cls=NoRunner).early_stopping(target_stop_rate=1.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        config.build_algo()


def test_espo_is_what_the_configuration_builds() -> None:
    assert ESPOConfig().algo_class is ESPO
    assert type(ESPO.get_default_config()) is ESPOConfig
