"""Keywords of RLlib's methods that nothing here reads, and that are refused therefore.

- :data:`UNREAD`: by section, each with why, or with what does instead.
"""

from __future__ import annotations

__all__ = ["UNREAD"]

_NO_CONNECTOR = "responses go from the engine to the learner as they are"
_STATELESS = "runners keep nothing but weights"
_OLD = "RLlib's old API stack reads it"
_OFFLINE = "nothing is learnt or measured offline"

UNREAD: dict[str, dict[str, str]] = {
    "training": {
        "use_critic": "",
        "use_gae": ".training(advantage_estimator) chooses the estimator",
        "train_batch_size": ".training(train_batch_size_per_learner) counts responses",
        "model": ".language_model(...) sets the model",
        "optimizer": ".training(lr, critic_lr, weight_decay) set AdamW",
        "lr_schedule": ".training(lr) takes a schedule",
        "entropy_coeff_schedule": ".training(entropy_coeff) takes a schedule",
        "learner_connector": _NO_CONNECTOR,
        "add_default_connectors_to_learner_pipeline": _NO_CONNECTOR,
    },
    "learners": {
        "num_aggregator_actors_per_learner": "",
        "max_requests_in_flight_per_aggregator_actor": "",
        "max_requests_in_flight_per_learner": "",
        "learner_connector": _NO_CONNECTOR,
        "add_default_connectors_to_learner_pipeline": _NO_CONNECTOR,
    },
    "env_runners": {
        "rollout_fragment_length": ".training(train_batch_size_per_learner) counts responses",
        "batch_mode": "responses are always whole",
        "explore": ".generation(greedy=True) takes the likeliest token, in evaluation",
        "compress_observations": "",
        "observation_filter": "",
        "gym_env_vectorize_mode": "",
        "episode_lookback_horizon": "",
        "episodes_to_numpy": "",
        "env_to_module_connector": _NO_CONNECTOR,
        "module_to_env_connector": _NO_CONNECTOR,
        "add_default_connectors_to_env_to_module_pipeline": _NO_CONNECTOR,
        "add_default_connectors_to_module_to_env_pipeline": _NO_CONNECTOR,
        "merge_env_runner_states": _STATELESS,
        "broadcast_env_runner_states": _STATELESS,
        "use_env_runner_state_server": _STATELESS,
        "env_runner_state_server_max_concurrency": _STATELESS,
        "use_worker_filter_stats": _STATELESS,
        "update_worker_filter_stats": _STATELESS,
        "exploration_config": _OLD,
        "sample_collector": _OLD,
        "remote_worker_envs": _OLD,
        "remote_env_batch_wait_ms": _OLD,
        "preprocessor_pref": _OLD,
        "enable_tf1_exec_eagerly": _OLD,
        "sampler_perf_stats_ema_coef": _OLD,
    },
    "environment": {
        "clip_rewards": "",
        "normalize_actions": "",
        "clip_actions": "",
        "action_mask_key": "",
        "render_env": "",
        "disable_env_checking": "",
        "is_atari": "",
        "observation_space": "the environment's own is taken",
        "action_space": "the environment's own is taken",
    },
    "evaluation": {
        "custom_evaluation_function": "",
        "evaluation_force_reset_envs_before_iteration": "",
        "evaluation_auto_duration_min_env_steps_per_sample": "",
        "evaluation_auto_duration_max_env_steps_per_sample": "",
        "off_policy_estimation_methods": _OFFLINE,
        "ope_split_batch_by_episode": _OFFLINE,
        "offline_evaluation_interval": _OFFLINE,
        "num_offline_eval_runners": _OFFLINE,
        "offline_evaluation_type": _OFFLINE,
        "offline_eval_runner_class": _OFFLINE,
        "offline_loss_for_module_fn": _OFFLINE,
        "offline_eval_batch_size_per_runner": _OFFLINE,
        "dataset_num_iters_per_offline_eval_runner": _OFFLINE,
        "offline_eval_rl_module_inference_only": _OFFLINE,
        "num_cpus_per_offline_eval_runner": _OFFLINE,
        "num_gpus_per_offline_eval_runner": _OFFLINE,
        "custom_resources_per_offline_eval_runner": _OFFLINE,
        "offline_evaluation_timeout_s": _OFFLINE,
        "max_requests_in_flight_per_offline_eval_runner": _OFFLINE,
        "broadcast_offline_eval_runner_states": _OFFLINE,
        "validate_offline_eval_runners_after_construction": _OFFLINE,
        "restart_failed_offline_eval_runners": _OFFLINE,
        "ignore_offline_eval_runner_failures": _OFFLINE,
        "max_num_offline_eval_runner_restarts": _OFFLINE,
        "offline_eval_runner_health_probe_timeout_s": _OFFLINE,
        "offline_eval_runner_restore_timeout_s": _OFFLINE,
    },
    "fault_tolerance": {"restart_failed_sub_environments": ""},
    "resources": {"num_gpus": ".learners(num_gpus_per_learner) places the update", "_fake_gpus": ""},
    "framework": {"torch_skip_nan_gradients": "a step whose gradient is not finite is always skipped, and counted"},
    "reporting": {
        "log_gradients": "",
        "keep_per_episode_custom_metrics": _OLD,
        "metrics_episode_collection_timeout_s": _OLD,
    },
    "debugging": {"fake_sampler": _OLD},
}
"""RLlib's keywords that nothing here reads, by section, with why or what does instead; they keep their defaults."""
