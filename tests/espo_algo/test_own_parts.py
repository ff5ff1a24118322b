"""Engines, stop rules and advantage estimators of one's own, in this process and in actors."""

from __future__ import annotations

import gc

import own_parts
import pytest
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)

from espo_algo.evaluation.benchmark import DataSet, run_benchmark
from espo_algo.learning.advantages import ADVANTAGE_ESTIMATORS, get_advantage_estimator, register_advantage_estimator
from espo_algo.rollout.engines import ENGINES, EngineKind, get_engine, register_engine
from espo_env.early_stopping import get_stop_rule


@pytest.mark.usefixtures("ray_session")
def test_actors_find_an_engine_a_rule_and_an_estimator_by_their_places(coin_config):
    config = (
        coin_config()
        .env_runners(num_env_runners=1)
        .generation(engine="own_parts:ENGINE")
        .early_stopping(rule="own_parts:third_token", beta=1.0, planned_iterations=1, warmup_max_fraction=0.0)
        .training(advantage_estimator="own_parts:ones", normalize_advantages=False)
        .learners(num_learners=1)
    )
    algo = config.build_algo()
    results = [algo.train() for _ in range(2)]
    (rests,) = algo.env_runner_group.foreach_env_runner(lambda runner: runner.engine.rests, local_env_runner=False)
    assert rests == 2
    stopped = [episode for episode in algo.latest_episodes if episode.stop_reason == "regret"]
    assert stopped
    assert {len(episode) for episode in stopped} == {3}
    assert results[-1]["env_runners"]["early_stopping"]["stop_rate"] > 0
    algo.stop()


@pytest.mark.parametrize(
    ("get", "name", "message"),
    [
        (get_engine, "abacus", r"expected an engine out of \['torch', 'vllm'\], or 'module:NAME', got 'abacus'"),
        (get_engine, "own_parts:NOT_AN_ENGINE", "expected an engine at 'own_parts:NOT_AN_ENGINE', got <class"),
        (get_engine, "own_parts:MISSING", "expected an engine as 'module:NAME', got 'own_parts:MISSING': .*MISSING"),
        (get_engine, "no_such_module:X", "got 'no_such_module:X': No module named"),
        (get_advantage_estimator, "vtrace", r"out of \['gae', 'group'\], or 'module:function', got 'vtrace'"),
        (get_advantage_estimator, "own_parts:ENGINE", "expected an advantage estimator at 'own_parts:ENGINE', got Eng"),
        (get_stop_rule, "own_parts:ENGINE", "expected a stop rule at 'own_parts:ENGINE', got EngineKind"),
        (get_stop_rule, ":third_token", "expected a stop rule as 'module:function', got ':third_token'"),
    ],
)
def test_what_is_not_there_is_named(get, name, message):
    with pytest.raises(ValueError, match=message):
        get(name)


def test_names_can_be_added_and_are_not_taken_over(monkeypatch):
    monkeypatch.setattr(ENGINES, "_entries", dict(ENGINES))
    register_engine("counting", own_parts.ENGINE)
    register_engine("counting", own_parts.ENGINE)
    assert get_engine("counting") is own_parts.ENGINE
    with pytest.raises(ValueError, match="expected a new name for an engine, got 'torch', which is taken"):
        register_engine("torch", own_parts.ENGINE)
    monkeypatch.setattr(ADVANTAGE_ESTIMATORS, "_entries", dict(ADVANTAGE_ESTIMATORS))
    register_advantage_estimator("ones", own_parts.ones)
    assert get_advantage_estimator("ones") is own_parts.ones
    with pytest.raises(ValueError, match="expected a new name for an advantage estimator, got 'gae'"):
        register_advantage_estimator("gae", own_parts.ones)
    with pytest.raises(TypeError):
        ENGINES["torch"] = EngineKind("own_parts:CountingEngine")


@pytest.mark.usefixtures("ray_session")
def test_a_task_is_built_once_for_training_evaluation_and_checkpoints(coin_config, tmp_path):
    """Each of them built it again, which reads a whole data set."""
    config = coin_config(env_config={"task": "own_parts:CountedTask"})
    config.evaluation(evaluation_interval=1, evaluation_duration=4)
    before = own_parts.CountedTask.built
    algo = config.build_algo()
    algo.train()
    algo.save_to_path(str(tmp_path / "checkpoint"))
    assert own_parts.CountedTask.built - before == 1
    assert algo.mdp.task is algo.eval_env_runner.env.unwrapped.mdp.task
    policy = algo.policy()
    algo.stop()
    del algo
    gc.collect()

    before = own_parts.CountedTask.built
    data = DataSet("counted", "espo_env/TokenGeneration-v0", {"task": "own_parts:CountedTask", "size": 2})
    run_benchmark(policy.config, policy.model, None, [data], tmp_path / "scores", num_problems=4, progress=False)
    assert own_parts.CountedTask.built - before == 1


def test_a_name_that_leads_elsewhere_is_looked_at_not_called(coin_config, tmp_path):
    """A configuration's names are resolved, checked to be what they should be, and only then called."""
    task = {"task": "os:system", "command": f"touch {tmp_path / 'ran'}"}
    with pytest.raises(ValueError, match="expected a class of tasks at 'os:system', got <built-in"):
        coin_config(env_config=task).check_task()
    with pytest.raises(ValueError, match=r".generation\(engine\): expected an engine at 'os:system', got <built-in"):
        coin_config().generation(engine="os:system").validate()
    assert not list(tmp_path.iterdir())
