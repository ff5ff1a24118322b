"""The wrapper under RLlib's own algorithms."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from coin_fixtures import coin_model  # noqa: F401 (a fixture)
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig

from espo_algo import ESPOConfig
from espo_algo.stock import configure_stock
from espo_algo.stock_adaptation import EarlyStoppingCarrier
from espo_env.early_stopping import (
    CriticWarmup,
    DetectorSettings,
    EarlyStoppingState,
    FailureDetector,
    RegretStatistics,
    step_regret,
)
from espo_env.types import StopReason

ENV = "espo_env/TokenGeneration-v0"
# At the scale of an untrained model, which is nearly indifferent between tokens.
DETECTOR = {"statistics": RegretStatistics(mean=0.1, var=0.01), "beta": 4.0, "smoothing": 0.5}


@pytest.fixture
def make(coin_model):
    def configure(config, **early_stopping):
        configure_stock(
            config,
            ENV,
            model=coin_model,
            env_config={"task": "coin_task:CoinTask", "max_new_tokens": 8},
            **(early_stopping or DETECTOR),
        )
        return config.env_runners(num_env_runners=0, num_envs_per_env_runner=8).debugging(seed=0, log_level="ERROR")

    return configure


def small_ppo():
    return PPOConfig().training(
        lr=1e-3, gamma=1.0, train_batch_size_per_learner=256, minibatch_size=128, num_epochs=4, entropy_coeff=0.0
    )


def states_on_runners(algo):
    """The driver's state of early stopping, and those of the remote runners; without the warm-up's loss, a NaN."""
    states = algo.env_runner_group.foreach_env_runner(
        lambda runner: runner._env_to_module[EarlyStoppingCarrier][0].state
    )
    return [replace(state, warmup=CriticWarmup(done=state.warmup.done)) for state in states]


def detector_states(algo, **which):
    """What the detectors of each runner's environments run with."""
    return algo.env_runner_group.foreach_env_runner(
        lambda runner: [env.get_wrapper_attr("detector").state for env in runner.env.unwrapped.envs], **which
    )


@pytest.mark.usefixtures("ray_session")
def test_the_wrapper_is_given_the_policys_own_signals(make):
    algo = make(small_ppo()).build_algo()
    algo.train()
    state = states_on_runners(algo)[0].detector_state
    assert detector_states(algo) == [[state] * 8]
    assert (state.statistics.mean, state.beta) != (DETECTOR["statistics"].mean, DETECTOR["beta"])
    episodes = algo.env_runner.sample(num_episodes=24)
    module, reasons = algo.get_module(), set()
    for episode in episodes:
        observations = episode.get_observations(slice(0, len(episode)))
        batch = {"obs": {name: torch.from_numpy(np.array(column)) for name, column in observations.items()}}
        with torch.no_grad():
            out = module.forward_inference(batch)
        regrets = step_regret(out["action_dist_inputs"], torch.from_numpy(episode.get_actions())).numpy()
        detector = FailureDetector(1, DetectorSettings(smoothing=DETECTOR["smoothing"]), state)
        infos = episode.get_infos(slice(1, None))
        np.testing.assert_allclose([info["regret"] for info in infos], regrets, atol=1e-5)
        np.testing.assert_allclose([info["value"] for info in infos], out["vf_preds"].numpy(), atol=1e-5)
        fired = [
            bool(detector.update(np.float32([info["regret"]]), np.float32([info["value"]])).stop[0]) for info in infos
        ]
        assert not any(fired[:-1])
        reason = infos[-1]["stop_reason"]
        assert (reason is StopReason.REGRET) <= fired[-1]
        assert bool(episode.get_rewards(-1) == -1.0) is (reason is StopReason.REGRET)
        assert episode.is_terminated
        reasons.add(reason)
    assert {StopReason.REGRET, StopReason.EOS} <= reasons
    algo.stop()


@pytest.mark.usefixtures("ray_session")
def test_stock_ppo_learns_with_it_and_it_adapts_over_all_runners(make, tmp_path, monkeypatch):
    # A stop costs no more than a wrong answer: beside -1 an untrained policy learns to say nothing.
    statistics = RegretStatistics(mean=0.5, var=0.5)
    config = make(small_ppo(), statistics=statistics, beta=1.5, smoothing=0.5, fail_reward=0.0)
    algo = config.env_runners(num_env_runners=2, num_envs_per_env_runner=4).build_algo()
    start, batches, updated = states_on_runners(algo)[0], [], EarlyStoppingState.updated
    monkeypatch.setattr(EarlyStoppingState, "updated", lambda *given: batches.append(given) or updated(*given))
    returns, shares = [], []
    for _ in range(14):
        everything = algo.train()
        result = everything["env_runners"]
        returns.append(result["episode_return_mean"])
        shares.append(result["stop_reason"])
    state, *others = states_on_runners(algo)
    assert detector_states(algo, local_env_runner=False) == [[state.detector_state] * 4] * 2
    path = algo.save_to_path(tmp_path)
    algo.stop()
    # One update an iteration, over what all runners have brought: the state follows from its batches.
    assert others == [state] * 2
    assert state.num_updates == len(batches) == 14
    assert sum(len(episodes) for _, episodes, *_ in batches) == result["num_episodes_lifetime"]
    expected = replace(start, warmup=batches[0][0].warmup)
    for _, *batch in batches:
        assert np.isfinite(batch[-2:]).all()  # the learner's own critic loss and explained variance
        expected = updated(expected, *batch)
    assert state == replace(expected, warmup=state.warmup)
    assert everything["early_stopping"]["beta"] == state.tolerance.beta != 1.5
    again = make(small_ppo()).build_algo()
    again.restore_from_path(path)
    assert states_on_runners(again) == [state]
    assert detector_states(again) == [[state.detector_state] * 8]
    again.stop()
    assert np.mean(returns[-3:]) > np.mean(returns[:3]) + 0.3, returns
    assert max(share["regret"] for share in shares) > 0.2
    for share in shares:
        assert sum(share.values()) == pytest.approx(1.0)


@pytest.mark.usefixtures("ray_session")
def test_without_a_rule_nothing_is_stopped(make):
    algo = make(small_ppo(), rule="never").build_algo()
    assert algo.train()["env_runners"]["stop_reason"]["regret"] == 0.0
    algo.stop()


@pytest.mark.usefixtures("ray_session")
def test_an_asynchronous_algorithm_learns_from_it(make):
    """APPO wants all of the module that IMPALA does, and a target network."""
    config = make(APPOConfig().training(lr=1e-3, train_batch_size_per_learner=64))
    config.learners(num_learners=0)  # in this process; runners alone have one each
    algo = config.env_runners(num_env_runners=1, rollout_fragment_length=8).build_algo()
    deadline = time.monotonic() + 200
    trained = stopped = 0.0
    while not (trained and stopped):  # its first iterations are empty
        assert time.monotonic() < deadline
        result = algo.train()
        trained = result.get("learners", {}).get("default_policy", {}).get("num_module_steps_trained_lifetime", 0)
        stopped = result["env_runners"].get("stop_reason", {}).get("regret", 0.0)
    algo.stop()


@pytest.mark.parametrize("config_class", [DQNConfig, ESPOConfig])
def test_other_algorithms_are_refused(make, config_class):
    with pytest.raises(TypeError, match=f"PPO, IMPALA or APPO, got {config_class.__name__}"):
        make(config_class())


def test_wrong_arguments_are_named_before_anything_starts(make):
    with pytest.raises(ValueError, match="value_floor > 0, got -1"):
        make(PPOConfig(), value_floor=-1)
