"""Weights through Ray's object store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hand_made import build_learner, spaces_of
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from espo_algo import ESPOConfig
from espo_algo.rollout.plans import ResponsePlan
from espo_algo.weight_sync.object_store import broadcast_weights
from espo_algo.weight_sync.packing import pack_tensors, tensors_of


@pytest.mark.usefixtures("ray_session")
def test_a_broadcast_reaches_the_local_runner_with_weights_and_state(config: ESPOConfig) -> None:
    group = config.build_learner_group(spaces=spaces_of(config))
    runners = EnvRunnerGroup(config=config, num_env_runners=0)
    learner, runner = group._learner, runners.local_env_runner
    with torch.no_grad():
        learner.language_module.model.value_head.bias.fill_(0.25)
    learner.language_module.regret_beta.fill_(3.5)
    learner._weights_seq_no = 4
    assert broadcast_weights(group, runners, timeout=5) == 4
    assert runner.module.model.value_head.bias.item() == 0.25
    assert runner.module.early_stopping.tolerance.beta == 3.5
    expected = pack_tensors(tensors_of(build_learner(config).language_module))
    for name, array in pack_tensors(tensors_of(runner.module)).items():
        if not name.startswith(("regret_", "model.value_head")):
            np.testing.assert_array_equal(array, expected[name])
    episodes = runner.sample(plans=[ResponsePlan(0, 1), ResponsePlan(1, 2)])
    assert [episode.weights_version for episode in episodes] == [4, 4]
