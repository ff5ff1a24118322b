"""The algorithm as a whole, with a local runner and a local learner: no actor is started."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from coin_fixtures import assert_same, coin_config, coin_model, weights  # noqa: F401 (fixtures)
from coin_task import CoinTask
from ray import tune

import espo_env
from espo_algo import ESPO, ESPOConfig
from espo_env import StopReason

pytestmark = pytest.mark.usefixtures("ray_session")


def build(config: ESPOConfig) -> ESPO:
    return config.build_algo()


@pytest.fixture
def trained(coin_config):
    algo = build(coin_config().early_stopping(beta="auto"))
    yield algo, [algo.train() for _ in range(3)]
    algo.stop()


@pytest.mark.parametrize("rule", ["never", "regret_value"])
def test_training_raises_accuracy(coin_config, rule):
    # A stop is worth as much as a wrong answer here, or else ending at once is the better bet for a beginner.
    options = {"rule": rule, "beta": "auto", "target_stop_rate": 0.1, "fail_reward": 0.0}
    update = {"lr": 5e-3, "train_batch_size_per_learner": 64, "minibatch_size": 16, "num_epochs": 2, "lambda_": 0.9}
    algo = build(coin_config().training(**update).early_stopping(**options))
    results = [algo.train() for _ in range(12)]
    algo.stop()
    accuracy = [result["env_runners"]["accuracy"] for result in results]
    assert accuracy[0] < 0.6
    assert np.mean(accuracy[-3:]) > accuracy[0] + 0.2
    stops = sum(result["env_runners"]["stop_reason"]["regret"] for result in results)
    assert bool(stops > 0) is (rule == "regret_value")


def test_every_metric_is_reported(trained):
    _, results = trained
    result = results[-1]
    runs = result["env_runners"]
    for name in ("episode_return_mean", "episode_len_mean", "num_env_steps_sampled", "accuracy", "response_length"):
        assert name in runs
    assert set(runs["early_stopping"]) == {
        "stop_rate",
        "tokens_generated",
        "tokens_saved_estimate",
        "mean_stop_position",
        "false_positive_rate",
        "audit_tokens",
        "z",
        "regret",
        "threshold",
    }
    assert sum(runs["stop_reason"].values()) == pytest.approx(1.0)
    assert all(0 <= area <= 1 for area in runs["value_auroc"].values())
    learner = result["learners"]["default_policy"]
    for name in ("policy_loss", "vf_loss", "vf_explained_var", "entropy", "mean_kl_loss", "clip_fraction", "grad_norm"):
        assert np.isfinite(learner[name]), name
    assert result["mismatch"]["kl"] == pytest.approx(0.0, abs=1e-8)
    assert result["mismatch"]["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert result["beta"] > 0


def test_lifetime_counters_add_up(trained):
    _, results = trained
    sampled = [result["env_runners"]["num_env_steps_sampled"] for result in results]
    assert results[-1]["env_runners"]["num_env_steps_sampled_lifetime"] == sum(sampled)
    assert results[-1]["num_env_steps_sampled_lifetime"] == sum(sampled)


def test_timers_show_this_iteration(trained):
    _, results = trained
    times = [result["timers"]["env_runner_sampling_timer"] for result in results]
    assert len(set(times)) == len(times)


@pytest.mark.parametrize(
    "options",
    [
        {"beta": "auto", "rule": "regret_prompt"},
        {"controller": "false_positive_rate", "budget": 0.6},
        {"beta": 0.05, "rule": "regret_siblings", "pilots": 1},
    ],
    ids=lambda options: "-".join(options),
)
def test_three_iterations_saved_and_restored_go_on_like_six(coin_config, tmp_path, options):
    config = coin_config().early_stopping(shadow_fraction=0.2, **options)
    config.generation(rollouts_per_prompt=2 if "pilots" in options else 1)
    # Bit for bit; but what is written together, and so is rounded alike, depends on when the pilots' verdicts come.
    tolerance = {"rtol": 1e-3, "atol": 1e-5} if "pilots" in options else {}
    whole = build(config.copy())
    expected = [whole.train() for _ in range(6)]
    first = build(config.copy())
    for _ in range(3):
        first.train()
    path = first.save_to_path(str(tmp_path / "checkpoint"))
    first.stop()
    second = ESPO.from_checkpoint(path)
    continued = [second.train() for _ in range(3)]
    assert_same(weights(second), weights(whole), **tolerance)
    for before, after in zip(expected[3:], continued, strict=True):
        assert after["training_iteration"] == before["training_iteration"]
        assert after["beta"] == before["beta"]
        assert after["env_runners"]["accuracy"] == before["env_runners"]["accuracy"]
        name = "num_env_steps_sampled_lifetime"
        assert after["env_runners"][name] == before["env_runners"][name]
    optimizers = [
        algo.learner_group.get_state(components="learner/optimizer")["learner"]["optimizer"] for algo in (whole, second)
    ]
    for left, right in zip(*(o["default_policy_policy"]["state"]["state"].values() for o in optimizers), strict=True):
        assert_same(left, right, **tolerance)
    whole.stop()
    second.stop()


def test_rule_never_is_plain_ppo_bit_for_bit(coin_config):
    plain = build(coin_config().early_stopping(rule="never"))
    # The detector runs, and is never given a reason to stop.
    idle = build(coin_config().early_stopping(rule="regret_value", beta=1e6, beta_bounds=(1e6, 1e6)))
    for _ in range(3):
        left, right = plain.train(), idle.train()
        assert left["env_runners"]["stop_reason"]["regret"] == right["env_runners"]["stop_reason"]["regret"] == 0
    left, right = weights(plain), weights(idle)
    own = {name for name in left if name.startswith("regret_")}
    assert_same({k: v for k, v in left.items() if k not in own}, {k: v for k, v in right.items() if k not in own})
    plain.stop()
    idle.stop()


def test_a_batch_counts_responses_and_repeats_prompts(coin_config):
    algo = build(coin_config().generation(rollouts_per_prompt=4))
    episodes = algo.batches.next(algo).batch
    indices = [episode.problem.index for episode in episodes]
    assert len(indices) == algo.config.total_train_batch_size
    assert all(len(set(indices[i : i + 4])) == 1 for i in range(0, len(indices), 4))
    assert len(set(indices)) == len(indices) // 4
    seeds = [episode.seed for episode in episodes]
    assert len(set(seeds)) == len(seeds)
    algo.stop()


def test_what_the_task_breaks_is_counted_and_survived(coin_config):
    env_config = {"task": "coin_task:CoinTask", "broken_prompts": range(0, 1000, 7), "broken_grades": range(1, 1000, 7)}
    algo = build(coin_config(env_config=env_config))
    result = algo.train()["env_runners"]
    lost = result["lost_episodes"]
    assert lost["KeyError"] > 0
    assert lost["RuntimeError"] > 0
    assert result["num_lost_episodes_lifetime"] == lost["KeyError"] + lost["RuntimeError"]
    assert result["stop_reason"]["error"] == pytest.approx(result["num_lost_episodes_lifetime"] / 32)
    algo.stop()


def test_rounds_that_bring_nothing_raise(coin_config):
    algo = build(coin_config(env_config={"task": "coin_task:CoinTask", "broken_prompts": range(1000)}))
    with pytest.raises(
        RuntimeError, match=r"got none in 3 rounds of 32; lost: 96 to KeyError; the last one: 'problem \d+ is"
    ):
        algo.train()
    algo.stop()


def test_weights_that_are_not_finite_are_named_with_the_runner_and_end_the_run(coin_config, caplog):
    """Runners died of them one by one, for minutes, and the message said ``lost to []``."""
    algo = build(coin_config())
    algo.train()
    with torch.no_grad():
        algo.learner_group._learner.language_module.model.value_head.bias.fill_(torch.nan)
    algo.send_weights(algo.env_runner_group)
    message = r"96 to FloatingPointError in runner 0 with weights 1 \(expected finite values, got nan\)"
    with caplog.at_level("ERROR", logger="espo_algo"), pytest.raises(RuntimeError, match=message):
        algo.train()
    assert "32 responses lost to FloatingPointError in runner 0" in caplog.messages[0]
    algo.stop()


def test_steps_that_are_left_out_are_warned_of_and_many_in_a_row_are_an_error(coin_config, caplog):
    config = coin_config().training(advantage_estimator="own_parts:not_finite", normalize_advantages=False)
    algo = build(config.fault_tolerance(max_skipped_steps=3))
    with caplog.at_level("WARNING", logger="espo_algo.espo"):
        result = algo.train()
    assert result["learners"]["default_policy"]["skipped_steps"] == 2
    assert "2 optimiser steps of this iteration were left out, 2 in a row: norms of the gradients" in caplog.text
    assert "default_policy_policy nan" in caplog.text
    with pytest.raises(RuntimeError, match=r"max_skipped_steps=3\) optimiser steps in a row .* got 4: norms"):
        algo.train()
    algo.stop()


def test_evaluation_measures_other_problems_and_only_marks(coin_config):
    config = coin_config().early_stopping(beta="auto").evaluation(evaluation_interval=4, evaluation_duration=50)
    algo = build(config)
    for _ in range(4):
        result = algo.train()
    measured = result["evaluation"]["env_runners"]
    assert measured["num_episodes"] == 50
    assert measured["stop_reason"]["regret"] == 0
    assert measured["weights_seq_no"] == 4
    assert algo.eval_env_runner.env.unwrapped.mdp.split == "eval"
    # The same problems with the same seeds each time.
    assert algo.evaluate()["env_runners"]["accuracy"] == measured["accuracy"]
    algo.stop()


def test_shadow_responses_run_on_and_measure_false_positives(coin_config):
    algo = build(coin_config().early_stopping(beta=0.05, shadow_fraction=1.0, target_stop_rate=0.5))
    for _ in range(5):
        result = algo.train()["env_runners"]
    assert result["stop_reason"]["regret"] == 0
    assert result["early_stopping"]["stop_rate"] > 0
    assert 0 <= result["early_stopping"]["false_positive_rate"] <= 1
    algo.stop()


def test_the_critic_is_trained_alone_first_on_responses_that_run_on(coin_config, tmp_path):
    config = coin_config().training(value_pretraining_iterations=2)
    config.early_stopping(rule="value_only", beta=0.05, warmup_patience=1, stop_credit="audited", shadow_fraction=0.2)
    algo = build(config)
    start = weights(algo)
    algo.train()
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    algo.stop()
    algo = ESPO.from_checkpoint(path)
    result = algo.train()
    after = weights(algo)
    policy = {name for name in start if name.startswith("model.policy")}
    assert_same({name: start[name] for name in policy}, {name: after[name] for name in policy})
    assert not np.array_equal(start["model.value_head.weight"], after["model.value_head.weight"])
    # Warm-up is over, and the rule marks everything that does not end with its first token.
    assert result["env_runners"]["early_stopping"]["stop_rate"] > 0.5
    assert result["env_runners"]["stop_reason"]["regret"] == 0
    sampled = result["env_runners"]["num_env_steps_sampled"]
    result = algo.train()
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] > sampled
    assert result["env_runners"]["stop_reason"]["regret"] > 0.3
    assert result["learners"]["default_policy"]["audit_variance_ratio"] > 1
    third = weights(algo)
    assert not all(np.array_equal(after[name], third[name]) for name in policy)
    algo.stop()


def test_truncation_at_the_horizon_bootstraps(coin_config):
    config = coin_config(env_config={"task": "coin_task:CoinTask", "horizon": "truncation"}).generation(
        max_new_tokens=2
    )
    algo = build(config)
    cut = [e for e in algo.batches.next(algo).batch if e.stop_reason is StopReason.LENGTH]
    assert cut
    assert all(e.truncated and not e.terminated for e in cut)
    algo.stop()


def make_single_env(context):
    return espo_env.TokenGenerationEnv(CoinTask(), **context)


def test_an_environment_registered_with_tune_is_vectorised(coin_config):
    tune.register_env("coin", make_single_env)
    algo = build(coin_config(env="coin", env_config={}))
    assert isinstance(algo.env_runner.env.unwrapped.task, CoinTask)
    assert algo.train()["env_runners"]["num_episodes"] == 32
    algo.stop()


def test_another_kind_of_environment_is_refused(coin_config):
    with pytest.raises(ValueError, match="expected 'CartPole-v1' to be a token environment that takes"):
        build(coin_config(env="CartPole-v1", env_config={}))
    tune.register_env("pole", lambda context: gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"expected a token environment .* got .*CartPole"):
        build(coin_config(env="pole", env_config={}))


def test_separate_critic_and_bfloat16_train(coin_config):
    algo = build(coin_config().language_model(critic="separate", dtype="bfloat16", gradient_checkpointing=True))
    result = algo.train()
    assert np.isfinite(result["learners"]["default_policy"]["vf_loss"])
    assert algo.env_runner.module.model.policy.dtype is torch.bfloat16
    assert algo.learner_group._learner.language_module.model.policy.dtype is torch.float32
    # bfloat16 against autocast: not the same rounding.
    assert result["mismatch"]["ratio_max"] > 1.0
    algo.stop()


def test_the_module_answers_observations_like_any_rlmodule(coin_config):
    algo = build(coin_config())
    env = algo.env_runner.env.unwrapped
    observation, _ = env.reset(seed=0)
    with torch.no_grad():
        out = algo.get_module().forward_inference({"obs": observation})
    assert out["action_dist_inputs"].shape == (env.num_envs, env.single_action_space.n)
    assert out["vf_preds"].shape == (env.num_envs,)
    algo.stop()
