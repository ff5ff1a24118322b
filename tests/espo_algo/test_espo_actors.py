"""The algorithm with runners and learners in actors of their own, and when they die."""

import contextlib
import dataclasses
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
import ray
from coin_fixtures import assert_same, coin_config, coin_model, weights  # noqa: F401 (fixtures)

from espo_algo import ESPO
from espo_algo.weight_sync.calls import ask_learners
from espo_algo.weight_sync.object_store import broadcast_weights
from espo_env.types import TRACE_COLUMNS

pytestmark = pytest.mark.usefixtures("ray_session")

EARLY = {"beta": "auto", "target_stop_rate": 0.2, "fail_reward": -0.5}


def runner_weights(algo: ESPO) -> list[dict[str, np.ndarray]]:
    return algo.env_runner_group.foreach_env_runner(
        lambda runner: runner.get_state(components="rl_module")["rl_module"], local_env_runner=False
    )


@pytest.fixture(scope="module")
def reference(coin_config):
    """Three iterations in one process: weights, results."""
    algo = coin_config().early_stopping(**EARLY).build_algo()
    results = [algo.train() for _ in range(3)]
    yield weights(algo), results
    algo.stop()


@pytest.fixture(scope="module")
def two_runners(coin_config):
    """An algorithm with two remote runners, trained for three iterations."""
    config = coin_config().early_stopping(**EARLY).env_runners(num_env_runners=2)
    algo = config.build_algo()
    results = [algo.train() for _ in range(3)]
    yield algo, results
    algo.stop()


def test_two_runners_write_what_one_process_writes(two_runners, reference):
    algo, results = two_runners
    expected, expected_results = reference
    for result, other in zip(results, expected_results, strict=True):
        for name in ("accuracy", "num_env_steps_sampled", "stop_reason"):
            assert result["env_runners"][name] == other["env_runners"][name]
    assert_same(weights(algo), expected, rtol=1e-4, atol=1e-5)
    # The driver holds no model beside the learner's.
    assert algo.env_runner.module is None


def test_every_runner_has_the_learners_weights_and_regret_state(two_runners):
    algo, _ = two_runners
    for received in runner_weights(algo):
        assert_same(received, weights(algo))


def test_the_columns_that_nobody_asked_for_do_not_travel(two_runners):
    algo, _ = two_runners

    def arrived() -> set[str]:
        return {name for name in TRACE_COLUMNS for e in algo.latest_episodes if len(getattr(e, name))}

    (state, *_) = ask_learners(algo.learner_group, lambda learner: learner.language_module.early_stopping, 60)
    plain = algo.train()["env_runners"]["early_stopping"]
    assert arrived() == {"logprobs", *state.columns_read(algo.config.detector_settings)}
    assert min(plain["threshold"], plain["regret"]) > 0  # metrics have what stayed behind
    # Read where it lies: no copy in this process.
    assert not any(e.response_tokens.flags.writeable or e.logprobs.flags.owndata for e in algo.latest_episodes)
    algo.traces = True
    algo.train()
    assert arrived() == {*TRACE_COLUMNS}
    algo.traces = False


@pytest.mark.faults
def test_a_runner_that_hangs_in_a_weight_sync_is_restarted(two_runners):
    """It was an error that ended the run."""
    algo, _ = two_runners
    algo.env_runner_group._worker_manager._actors[1].apply.remote(lambda runner: time.sleep(60))
    broadcast_weights(algo.learner_group, algo.env_runner_group, timeout=3)
    assert algo.env_runner_group.healthy_worker_ids() == [2]
    deadline = time.monotonic() + 120
    while algo.env_runner_group.num_healthy_remote_workers() < 2:
        assert time.monotonic() < deadline, "the runner that hung was not restarted"
        algo.train()
    algo.train()
    for state in runner_weights(algo):
        assert_same(state, weights(algo))


def test_what_a_runner_raises_is_named_and_its_process_is_not_taken_for_the_restarted_one(
    two_runners, monkeypatch, caplog
):
    """It ended the runner's process after a minute, and only that one's log said why.

    On a busy machine a killed runner answered once more, was taken back, and lost a second share of responses.
    """
    algo, _ = two_runners
    kill = ray.kill

    def later(actor, no_restart):
        threading.Timer(2.0, kill, [actor], {"no_restart": no_restart}).start()

    def breaks(runner):
        runner.engine.set_detector_state = None

    before = algo.train()["num_missing_episodes_lifetime"]
    monkeypatch.setattr(ray, "kill", later)
    ray.get(algo.env_runner_group._worker_manager._actors[2].apply.remote(breaks))
    deadline = time.monotonic() + 120
    with caplog.at_level("WARNING", logger="espo_algo"):
        missing = algo.train()["num_missing_episodes_lifetime"] - before
    assert re.search(r"runner 2 is restarted: with weights \d+ it raised TypeError: 'NoneType' object", caplog.text)
    while algo.env_runner_group.num_healthy_remote_workers() < 2:
        assert time.monotonic() < deadline, "the runner that raised was not restarted"
        algo.train()
    assert missing == 16
    assert algo.train()["num_missing_episodes_lifetime"] - before == missing


@pytest.mark.faults
def test_a_killed_runner_does_not_end_training(two_runners):
    """Not even where its constructor's arguments had to leave a full object store (ray#53727)."""
    algo, _ = two_runners
    crowd = [ray.put(np.zeros(64 * 2**20, np.uint8)) for _ in range(6)]  # 1.5 times what the store holds
    actor = algo.env_runner_group._worker_manager._actors[1]
    ray.kill(actor, no_restart=False)
    missing = 0
    deadline = time.monotonic() + 120
    while True:
        result = algo.train()
        missing = result["num_missing_episodes_lifetime"]
        assert result["env_runners"]["num_episodes"] > 0
        if algo.env_runner_group.num_healthy_remote_workers() == 2 and missing:
            break
        assert time.monotonic() < deadline, "the killed runner did not come back"
    assert missing > 0
    del crowd
    algo.train()
    received = runner_weights(algo)
    assert len(received) == 2
    for state in received:
        assert_same(state, weights(algo))


@pytest.mark.faults
def test_a_runner_that_restarted_unnoticed_writes_nothing_until_it_has_the_weights(two_runners):
    algo, _ = two_runners
    before = algo.train()["num_missing_episodes_lifetime"]
    actor = algo.env_runner_group._worker_manager._actors[1]
    ray.kill(actor, no_restart=False)
    deadline = time.monotonic() + 120
    version = None
    while version != -1:
        assert time.monotonic() < deadline, "the killed runner did not come back"
        time.sleep(0.2)
        with contextlib.suppress(ray.exceptions.RayActorError):  # on its way
            version = ray.get(actor.apply.remote(lambda runner: runner.weights_version))
    assert algo.env_runner_group.num_healthy_remote_workers() == 2
    for missing in (16, 16):
        result = algo.train()
        assert result["num_missing_episodes_lifetime"] - before == missing
        assert result["mismatch"]["kl"] < 1e-6


def test_restored_remote_runners_have_the_checkpoints_weights(two_runners, tmp_path):
    algo, _ = two_runners
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    expected = weights(algo)
    algo.train()
    algo.restore_from_path(path)
    assert_same(weights(algo), expected)
    for received in runner_weights(algo):
        assert_same(received, expected)
    assert algo.batches.num_planned % 32 == 0


def test_a_state_that_is_set_reaches_a_runner_that_is_busy(two_runners):
    """RLlib's own sync drops a runner that has not answered its last call."""
    algo, _ = two_runners
    state, expected = algo.get_state(), weights(algo)
    algo.train()
    for actor in algo.env_runner_group._worker_manager._actors.values():
        actor.apply.remote(lambda runner: time.sleep(1))
    algo.set_state(state)
    assert_same(weights(algo), expected)
    for received in runner_weights(algo):
        assert_same(received, expected)


@pytest.mark.faults
def test_a_runner_that_hangs_is_restarted_and_a_learner_that_hangs_is_an_error(coin_config, tmp_path):
    """Both were waited for without a limit."""
    config = coin_config().early_stopping(**EARLY).env_runners(num_env_runners=2, sample_timeout_s=5.0)
    config.learners(num_learners=1)
    config.fault_tolerance(update_timeout_s=5.0, wait_floor_s=5.0)
    algo = config.build_algo()
    algo.train()
    pids = dict(
        algo.env_runner_group.foreach_env_runner(lambda r: (r.worker_index, os.getpid()), local_env_runner=False)
    )
    os.kill(pids[1], signal.SIGSTOP)
    try:
        assert algo.train()["num_missing_episodes_lifetime"] == 16
        deadline = time.monotonic() + 120
        while algo.train()["env_runners"]["num_episodes"] < 32:
            assert time.monotonic() < deadline, "the runner that hung was not restarted"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[1], signal.SIGCONT)
    (pid,) = (result.get() for result in algo.learner_group.foreach_learner(lambda learner: os.getpid()))
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(
            RuntimeError, match=r"expected an answer of 1 learners within [\d.]+ s, got none from \[0\]"
        ):
            algo.train()
    finally:
        os.kill(pid, signal.SIGCONT)

    def broken(learner):
        raise OSError("the disk is full")

    with pytest.raises(RuntimeError, match=r"expected an answer of learner 0, got OSError\('the disk is full'\)"):
        ask_learners(algo.learner_group, broken, timeout=60)
    # A learner that has raised, or died, is not asked any more: every further call names it.
    with pytest.raises(RuntimeError, match=r"got none at \[0\] \(dead\)"):
        algo.send_weights(algo.env_runner_group)  # as where a runner comes back
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"got none at \[0\] \(dead\); .* restore its newest checkpoint"):
            algo.train()
    with pytest.raises(RuntimeError, match=r"got none at \[0\] \(dead\)"):
        algo.save_to_path(str(tmp_path))
    algo.stop()


def noting_what_arrives():
    """A call that has a learner note which arrays of its episodes have anything in them, and whether that is all."""

    def note(learner):  # not of this module, which learners do not find
        make = learner._create_iterator_if_necessary

        def noted(*, training_data, **options):
            fields = [(f.name, getattr(e, f.name)) for e in training_data.episodes for f in dataclasses.fields(e)]
            arrays = {name for name, content in fields if isinstance(content, np.ndarray) and len(content)}
            others = [content for name, content in fields if name in ("problem", "grade", "summary")]
            learner.arrived = arrays, not any(others)
            return make(training_data=training_data, **options)

        learner._create_iterator_if_necessary = noted

    return note


def test_learner_actors_learn_what_a_local_learner_learns(coin_config):
    # The same batch in all, whoever works on it. The learners shuffle their own shares; with one minibatch an iteration
    # the order does not matter.
    local = coin_config().early_stopping(**EARLY).training(minibatch_size=32).build_algo()
    for _ in range(3):
        local.train()
    expected = weights(local)
    local.stop()
    config = coin_config().early_stopping(**EARLY).learners(num_learners=2)
    config.training(train_batch_size_per_learner=16, minibatch_size=16)
    config.evaluation(evaluation_interval=3, evaluation_num_env_runners=1, evaluation_duration=10)
    algo = config.build_algo()
    ask_learners(algo.learner_group, noting_what_arrives(), 60)
    results = [algo.train() for _ in range(3)]
    assert_same(weights(algo), expected, rtol=1e-3, atol=1e-5)
    # Nothing but what it reads.
    read = ({"prompt_tokens", "response_tokens", "logprobs"}, True)
    assert ask_learners(algo.learner_group, lambda learner: learner.arrived, 60) == [read] * 2
    states = [
        r.get()
        for r in algo.learner_group.foreach_learner(
            lambda learner: {k: np.array(v) for k, v in learner.language_module.get_state().items()}
        )
    ]
    assert_same(*states)
    assert results[-1]["evaluation"]["env_runners"]["num_episodes"] == 10
    assert (
        results[-1]["learners"]["__all_modules__"]["num_env_steps_trained"]
        == (results[-1]["env_runners"]["num_env_steps_sampled"])
    )
    algo.stop()
