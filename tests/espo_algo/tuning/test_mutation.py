"""What population-based training does: another run's state with settings of one's own."""

import numpy as np
import pytest
from coin_fixtures import assert_same, coin_config, coin_model, weights  # noqa: F401 (fixtures)

pytestmark = pytest.mark.usefixtures("ray_session")  # building an algorithm starts a Ray of its own otherwise


def test_state_comes_from_the_other_run_and_settings_stay(coin_config, tmp_path):
    donor = coin_config().early_stopping(beta="auto", warmup_max_fraction=0.1, planned_iterations=10).build_algo()
    for _ in range(3):
        donor.train()
    path = donor.save_to_path(str(tmp_path / "checkpoint"))
    config = coin_config().early_stopping(beta="auto", target_stop_rate=0.1, fail_reward=-0.25)
    config.training(lr=3e-4, critic_lr=7e-4)
    heir = config.build_algo()
    fresh = heir.policy().early_stopping
    heir.restore_from_path(path)
    assert_same(weights(heir), weights(donor))  # the buffers of early stopping among them
    state, given = heir.policy().early_stopping, donor.policy().early_stopping
    assert state.statistics == given.statistics != fresh.statistics
    assert (state.tolerance.beta, state.warmup.done, state.num_updates) == (given.tolerance.beta, True, 3)
    assert state.tolerance.target == 0.1
    result = heir.train()
    learner = result["learners"]["default_policy"]
    assert np.isclose(learner["policy_learning_rate"], 3e-4)
    assert np.isclose(learner["critic_learning_rate"], 7e-4)
    assert heir.config.stop_reward == -0.25
    assert {episode.get_return() for episode in heir.latest_episodes if episode.stop_reason == "regret"} <= {-0.25}
    # Beta goes on from the other run's, towards the target of this one.
    expected = given.tolerance.__class__.updated(
        state.tolerance, result["env_runners"]["early_stopping"]["stop_rate"]
    ).beta
    assert np.isclose(result["beta"], expected)
    assert result["training_iteration"] == 4
    donor.stop()
    heir.stop()
