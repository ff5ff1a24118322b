"""The algorithm with learners that share the weights out among themselves, in actors; their maths: test_sharding.py."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from coin_fixtures import assert_same, coin_config, coin_model, weights  # noqa: F401 (fixtures)

from espo_algo import ESPO
from espo_algo.errors import TrainingError
from espo_algo.export import export, load_export
from espo_algo.manifest import verify_checkpoint
from espo_algo.weight_sync.calls import ask_learners

pytestmark = pytest.mark.usefixtures("ray_session")


def moments(algo: ESPO) -> dict[str, np.ndarray]:
    optimizers = algo.learner_group.get_state(components="learner/optimizer")["learner"]["optimizer"]
    return {
        f"{name}.{index}.{moment}": np.asarray(array)
        for name, optimizer in optimizers.items()
        for index, entry in optimizer["state"]["state"].items()
        for moment, array in entry.items()
    }


def test_two_sharded_learners_train_save_restore_send_and_export_and_one_that_dies_is_an_error(coin_config, tmp_path):
    local = coin_config().training(minibatch_size=32).build_algo()  # learners shuffle their own shares
    for _ in range(2):
        local.train()
    config = coin_config().learners(num_learners=2).language_model(sharding="fsdp").env_runners(num_env_runners=1)
    config.training(train_batch_size_per_learner=16, minibatch_size=16).fault_tolerance(
        weight_sync_timeout_s=60.0, wait_floor_s=10.0
    )
    algo = config.build_algo()
    for _ in range(2):
        result = algo.train()
    expected, expected_moments = weights(algo), moments(algo)
    assert_same(expected, weights(local), rtol=1e-3, atol=1e-5)
    held = ask_learners(
        algo.learner_group,
        lambda learner: sum(p.to_local().numel() for p in learner.language_module.parameters()),
        timeout=60,
    )
    assert max(held) < 0.6 * sum(held)
    # Sent to the runner.
    (received,) = algo.env_runner_group.foreach_env_runner(
        lambda runner: runner.get_state(components="rl_module")["rl_module"], local_env_runner=False
    )
    assert_same(received, expected)
    assert result["mismatch"]["kl"] < 1e-6
    # Saved, and restored with one learner.
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    verify_checkpoint(path)
    local.restore_from_path(path)
    assert_same(weights(local), expected)
    assert_same(moments(local), expected_moments)
    # Exported.
    model, state = load_export(export(algo, tmp_path / "model"), config.early_stopping_state)
    own = local.learner_group._learner.language_module
    assert state == own.early_stopping
    for name, parameter in own.model.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=0, atol=0)
    # The other way round: saved by one, restored by two.
    algo.train()
    algo.restore_from_path(local.save_to_path(str(tmp_path / "other")))
    assert_same(weights(algo), expected)
    assert_same(moments(algo), expected_moments)
    local.stop()
    # A learner that stops in a gathering, in which the other one waits for it; then one that dies.
    pids = ask_learners(algo.learner_group, lambda learner: os.getpid(), timeout=60)
    for sent, what in ((signal.SIGSTOP, r"an answer of 2 learners within [\d.]+ s"), (signal.SIGKILL, "learner")):
        os.kill(pids[1], sent)
        start = time.monotonic()
        with pytest.raises(TrainingError, match=f"expected .*{what}"):
            algo.send_weights(algo.env_runner_group)
        assert time.monotonic() - start < 90
    algo.stop()
