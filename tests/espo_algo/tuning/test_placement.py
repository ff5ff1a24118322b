"""What a trial reserves: itself, its runners and its learners, or an error that says what it lacks."""

import pytest
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)

from espo_algo.tuning.placement import describe_resources, trial_resources, trials_at_once

pytestmark = pytest.mark.usefixtures("ray_session")  # 8 CPUs


def test_every_actor_has_its_bundle_beside_the_trial_itself(coin_config):
    config = coin_config().env_runners(num_env_runners=2).learners(num_learners=1)
    config.evaluation(evaluation_interval=1, evaluation_num_env_runners=1)
    assert [bundle["CPU"] for bundle in trial_resources(config).bundles] == [1, 1, 1, 1, 1]
    assert trials_at_once(config) == 1
    assert describe_resources(config) == (
        "itself with 1 CPU; 2 env runners with 1 CPU each; 1 evaluation runner with 1 CPU; 1 learner with 1 CPU"
    )


def test_trials_share_the_machine(coin_config):
    assert trials_at_once(coin_config()) == 8
    assert trials_at_once(coin_config().env_runners(num_env_runners=2)) == 2  # 3 CPU each
    assert trials_at_once(coin_config().env_runners(num_env_runners=2, num_cpus_per_env_runner=0.5)) == 4


def test_a_trial_that_never_fits_is_an_error_and_not_a_wait(coin_config):
    config = coin_config().env_runners(num_env_runners=8)  # as many as there are: espo train would run
    with pytest.raises(
        ValueError,
        match=r"expected a cluster with 9 CPU for a trial \(itself with 1 CPU; 8 env runners with 1 CPU each\), "
        r"got one with 8 CPU: lower \.learners\(num_cpus_per_learner\) or \.env_runners\(num_env_runners\) or what",
    ):
        trials_at_once(config)
