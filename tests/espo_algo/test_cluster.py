"""What a run asks of the cluster, against what a real one has."""

import pytest
import ray

from espo_algo.cluster import actor_groups, check_cluster

pytestmark = pytest.mark.usefixtures("ray_session")


def test_actors_and_what_each_asks_for(config):
    assert actor_groups(config) == []
    config.env_runners(num_env_runners=3, num_gpus_per_env_runner=0.5).learners(num_learners=1, num_gpus_per_learner=1)
    config.evaluation(evaluation_interval=1, evaluation_num_env_runners=2)
    assert [str(group) for group in actor_groups(config)] == [
        "3 env runners with 1 CPU, 0.5 GPU each",
        "2 evaluation runners with 1 CPU, 0.5 GPU each",
        "1 learner with 1 GPU",
    ]


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (
            "env_runners",
            {"num_env_runners": 64},
            r"a cluster with 64 CPU for 64 env runners with 1 CPU each, got one with 8: lower .env_runners",
        ),
        (
            "learners",
            {"num_learners": 1, "num_gpus_per_learner": 1},
            r"with 1 GPU for 1 learner with 1 GPU, got .* 0: ",
        ),
        ("learners", {"num_gpus_per_learner": 1}, r"GPUs that PyTorch finds here \(0\), .*, got 1"),
    ],
)
def test_what_the_cluster_lacks_is_named_before_an_actor_starts(config, section, options, message):
    getattr(config, section)(**options)
    with pytest.raises(ValueError, match=message):
        config.build_algo()
    assert not ray.util.list_named_actors()


def test_what_the_cluster_has_passes(config):
    check_cluster(config)
    check_cluster(config.env_runners(num_env_runners=4).learners(num_learners=4))
