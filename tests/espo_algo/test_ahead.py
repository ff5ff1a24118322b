"""Sampling beside learning: one batch behind, in the plans' order, through checkpoints, restores and failures."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import ray
from coin_fixtures import assert_same, coin_config, coin_model, train_saved, weights  # noqa: F401 (fixtures)

from espo_algo import ESPO, ESPOConfig
from espo_algo.batches import Sampled
from espo_algo.errors import TrainingError
from espo_algo.metrics import log_rollouts

pytestmark = pytest.mark.usefixtures("ray_session")

RATE = 0.1


def ahead_config(coin_config: Callable[..., ESPOConfig]) -> ESPOConfig:
    """One runner; the critic is trained alone for an iteration, and stopping begins behind the first update."""
    config = coin_config().early_stopping(beta="auto", target_stop_rate=0.2, fail_reward=-0.5, tolerance_rate=RATE)
    config.early_stopping(rule="regret_prompt", warmup_patience=1, warmup_loss_threshold=9.0)
    config.training(importance_weight_cap=2.0, value_pretraining_iterations=1)
    return config.env_runners(num_env_runners=1, batches_ahead=1)


def by_hand(config: ESPOConfig, iterations: int) -> dict:
    """The weights of a run in one process, in plain steps: a batch is written before the update on the last one."""
    config.env_runners(num_env_runners=0, batches_ahead=0).early_stopping(tolerance_rate=RATE / 2)
    algo = config.build_algo()
    plans = algo.batches._plans

    def write(number: int) -> tuple:
        detector = algo.early_stopping_state().detector_state
        asked = plans.take(32, all_marked=number == 0)
        return [*algo.collect(algo.env_runner_group, asked).episodes.values()], detector

    batch, detector = write(0)
    for number in range(1, iterations + 1):
        plans.answered(batch)
        log_rollouts(algo.metrics, batch, key=("env_runners",))
        following = write(number)
        algo._update(batch)
        algo._adapt(Sampled(batch, batch, detector))
        algo.send_weights(algo.env_runner_group)
        batch, detector = following
    expected = weights(algo)
    algo.stop()
    return expected


@pytest.fixture(scope="module")
def run(coin_config, tmp_path_factory) -> Iterator[tuple]:
    """Five iterations, saved after the third one: the algorithm, its checkpoint, results and what was learnt from."""
    config = ahead_config(coin_config).evaluation(evaluation_interval=5, evaluation_duration=8)
    algo: ESPO = config.build_algo()
    folder = tmp_path_factory.mktemp("ahead") / "checkpoint"
    yield algo, folder, *train_saved(algo, folder, iterations=5, saved=3)
    algo.stop()


def test_a_batch_is_learnt_from_by_weights_one_update_newer_than_those_that_wrote_it(run):
    _, _, results, batches = run
    assert [{episode.weights_version for episode in batch} for batch in batches] == [{0}, {0}, {1}, {2}, {3}]
    assert [result["learners"]["default_policy"]["weights_seq_no"] for result in results] == [1, 2, 3, 4, 5]
    assert "ahead" not in results[0]
    assert {result["ahead"]["lag"] for result in results[1:]} == {1}
    assert results[-1]["ahead"]["sampling_s"] > 0
    assert results[-1]["timers"]["batch_ahead_timer"] >= 0
    # What the update between the two changed is not the engine's doing, and is corrected.
    assert results[0]["mismatch"]["kl"] < 1e-6 < results[-1]["mismatch"]["kl"]


def test_plans_are_learnt_from_in_their_order_and_once(run):
    algo, _, results, batches = run
    seeds = [episode.seed for batch in batches for episode in batch]
    planner = algo.batches._plans._planner
    assert seeds == [plan.seed for plan in planner.plans(range(5 * 32))]
    assert algo.batches.num_planned == 6 * 32
    assert results[-1]["env_runners"]["num_episodes_lifetime"] == 5 * 32
    # The critic is trained alone by the first update; the second batch is written before it, for the second one.
    assert [all(episode.shadow for episode in batch) for batch in batches] == [True, False, False, False, False]


def test_an_evaluation_has_the_newest_weights(run):
    assert run[2][-1]["evaluation"]["env_runners"]["weights_seq_no"] == 5


def test_it_learns_what_plain_steps_in_one_process_learn_that_nobody_saved(run, coin_config):
    assert_same(weights(run[0]), by_hand(ahead_config(coin_config), 5), rtol=1e-4, atol=1e-5)


def test_a_restored_run_goes_on_bit_for_bit(run, tmp_path):
    algo, folder, results, batches = run
    restored = ESPO.from_checkpoint(str(folder))
    for expected, batch in zip(results[3:], batches[3:], strict=True):
        result = restored.train()
        assert [e.response_tokens.tolist() for e in restored.latest_episodes] == [
            e.response_tokens.tolist() for e in batch
        ]
        assert result["beta"] == expected["beta"]
        assert result["ahead"]["lag"] == 1
        name = "num_env_steps_sampled_lifetime"
        assert result["env_runners"][name] == expected["env_runners"][name]
    assert_same(weights(restored), weights(algo))
    # The learners alone, as they were before: what other weights have written is written again.
    older = restored.learner_group.get_state(components="learner")
    restored.train()
    planned = restored.batches.num_planned
    restored.learner_group.set_state(older)
    restored.send_weights(restored.env_runner_group)
    result = restored.train()
    assert "lag" not in result.get("ahead", {}) or result["ahead"]["lag"] != result["ahead"]["lag"]
    assert restored.batches.num_planned == planned + 32
    restored.stop()


def blocked(algo: ESPO, runner: int) -> Callable[[], None]:
    """Keeps a runner from beginning with what it is asked next; gives back what kills it."""
    actor = algo.env_runner_group._worker_manager.actors()[runner]
    pid = ray.get(actor.apply.remote(lambda runner: os.getpid()))
    actor.apply.remote(lambda runner: time.sleep(60))
    return lambda: os.kill(pid, signal.SIGKILL)


@pytest.mark.faults
def test_a_runner_that_dies_beside_the_update_and_one_that_dies_while_it_is_waited_for(coin_config, monkeypatch):
    algo: ESPO = ahead_config(coin_config).env_runners(num_env_runners=2).build_algo()
    assert algo.train()["num_missing_episodes_lifetime"] == 0
    update, wait = algo._update, algo.batches.wait
    kill_first, kill_second = blocked(algo, 1), blocked(algo, 2)

    def update_and_kill(episodes: list) -> None:
        kill_first()
        update(episodes)

    def wait_and_kill() -> None:
        threading.Timer(0.5, kill_second).start()
        wait()

    with monkeypatch.context() as patch:
        patch.setattr(algo, "_update", update_and_kill)
        patch.setattr(algo.batches, "wait", wait_and_kill)
        assert algo.train()["num_missing_episodes_lifetime"] == 0  # they were to write the next one
    result = algo.train()
    assert result["num_missing_episodes_lifetime"] >= 32  # nothing was written ahead: it was sampled on the spot
    assert result["env_runners"]["num_episodes"] > 0
    deadline = time.monotonic() + 120
    while algo.train()["env_runners"]["num_episodes"] < 32 or algo.env_runner_group.num_healthy_remote_workers() < 2:
        assert time.monotonic() < deadline, "the killed runners did not come back"
    result = algo.train()
    came, missing = result["env_runners"]["num_episodes_lifetime"], result["num_missing_episodes_lifetime"]
    assert came + missing == algo.batches.num_planned - 32  # but for those that the next iteration learns from
    algo.stop()


@pytest.mark.faults
def test_evaluation_beside_training_and_a_learner_that_is_killed(coin_config, monkeypatch):
    config = ahead_config(coin_config).learners(num_learners=1)
    config.evaluation(evaluation_interval=1, evaluation_duration=8, evaluation_num_env_runners=1)
    algo: ESPO = config.evaluation(evaluation_parallel_to_training=True).build_algo()
    for iteration in range(2):
        result = algo.train()
        assert result["evaluation"]["env_runners"]["weights_seq_no"] == iteration
        assert result["learners"]["default_policy"]["weights_seq_no"] == iteration + 1
    (pid,) = (result.get() for result in algo.learner_group.foreach_learner(lambda learner: os.getpid()))
    update = algo._update

    def kill_and_update(episodes: list) -> None:
        os.kill(pid, signal.SIGKILL)
        update(episodes)

    monkeypatch.setattr(algo, "_update", kill_and_update)
    with pytest.raises(TrainingError, match=r"expected an answer of (learner 0, got Actor|1 learners within)"):
        algo.training_step()
    with pytest.raises(TrainingError, match=r"got none at \[0\] \(dead\); .* restore its newest checkpoint"):
        algo.training_step()
    algo.stop()
