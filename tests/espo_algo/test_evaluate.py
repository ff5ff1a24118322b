"""Evaluation by the algorithm: between two iterations and beside one."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from coin_fixtures import assert_same, coin_config, coin_model, weights  # noqa: F401 (fixtures)

import espo_algo.espo
from espo_algo.learning.learner import ESPOLearner

pytestmark = pytest.mark.usefixtures("ray_session")

EARLY = {"beta": 0.3, "fail_reward": -0.5, "warmup_max_fraction": 0.0, "planned_iterations": 1}


def asked(algo, monkeypatch):
    """The problems of all plans that the algorithm collects from now on."""
    indices: list[int] = []
    collect = algo.collect

    def record(group, plans, *enough):
        indices.extend(plan.problem_index for plan in plans)
        return collect(group, plans, *enough)

    monkeypatch.setattr(algo, "collect", record)
    return indices


def test_without_evaluation_runners_a_local_one_answers_evaluation_problems(coin_config, monkeypatch):
    """It answered training problems, and gave back nothing."""
    algo = coin_config().early_stopping(**EARLY).evaluation(evaluation_duration=20).build_algo()
    algo.train()
    before = algo.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime"))
    indices = asked(algo, monkeypatch)
    measured = algo.evaluate()["env_runners"]
    assert algo.eval_env_runner.env.unwrapped.mdp.split == "eval"
    assert (measured["num_episodes"], indices) == (20, [*range(20)])
    assert measured["weights_seq_no"] == 1
    assert 0 <= measured["accuracy"] <= 1
    assert measured["stop_reason"]["regret"] == 0  # stops are only marked
    assert algo.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime")) == before
    algo.stop()


def test_two_evaluation_runners_measure_what_one_measures(coin_config):
    """Ratios, sums and minima of the runners were averaged."""
    measured = []
    for runners in (0, 2):
        config = coin_config().early_stopping(**EARLY)
        config.evaluation(evaluation_interval=2, evaluation_num_env_runners=runners, evaluation_duration=33)
        algo = config.build_algo()
        measured.append([algo.train() for _ in range(2)][-1]["evaluation"]["env_runners"])
        algo.stop()
    one, two = measured
    assert one["early_stopping"]["stop_rate"] > 0
    assert one["num_episodes"] == 33
    assert one["num_missing_episodes"] == two["num_missing_episodes"] == 0
    flat = {name: number for name, number in flatten(two).items() if not math.isnan(number)}
    assert flat == pytest.approx({name: number for name, number in flatten(one).items() if name in flat}, rel=1e-5)
    assert flat.keys() == {name for name, number in flatten(one).items() if not math.isnan(number)}


def flatten(results, prefix=""):
    flat = {}
    for name, value in results.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: float(value)}
    return flat


def test_a_duration_in_tokens_goes_on_with_the_next_problems(coin_config, monkeypatch):
    """Each round answered the same first problems again."""
    config = coin_config().evaluation(evaluation_duration=200, evaluation_duration_unit="timesteps")
    algo = config.build_algo()
    indices = asked(algo, monkeypatch)
    measured = algo.evaluate()["env_runners"]
    assert measured["num_env_steps_sampled"] >= 200
    assert indices == [*range(measured["num_episodes"])]
    assert len(indices) > 8  # more than one round of the eight slots
    first = [*indices]
    indices.clear()
    algo.evaluate()
    assert indices == first  # the next evaluation measures on the same problems
    algo.stop()


def test_each_evaluation_sends_the_weights_once(coin_config, monkeypatch):
    config = coin_config().evaluation(evaluation_interval=1, evaluation_duration=8)
    algo = config.build_algo()
    runner, received = algo.eval_env_runner, []
    take = runner.take_weights
    monkeypatch.setattr(runner, "take_weights", lambda *given: received.append(given) or take(*given))
    algo.train()
    assert len(received) == 1
    algo.evaluate()
    assert len(received) == 2
    algo.stop()


def test_evaluation_beside_training_lasts_as_long_and_measures_whole_weights_from_before_it(coin_config, monkeypatch):
    """It raised nearly every iteration, and could read weights while the optimiser was at work on them."""
    step = ESPOLearner._step

    def slow_step(learner, batches):
        time.sleep(0.05)
        step(learner, batches)

    monkeypatch.setattr(ESPOLearner, "_step", slow_step)
    sent, seen = {}, []
    sync = espo_algo.espo.sync_weights

    def record(learner_group, group, config, timeout):
        version = sync(learner_group, group, config, timeout)
        sent.setdefault(version, weights(algo_of[0]) if algo_of else None)
        return version

    algo_of: list = []
    config = coin_config().evaluation(
        evaluation_interval=1,
        evaluation_num_env_runners=1,
        evaluation_parallel_to_training=True,
        evaluation_duration="auto",
    )
    algo = config.build_algo()
    indices = asked(algo, monkeypatch)
    algo_of.append(algo)
    sent[0] = weights(algo)
    monkeypatch.setattr(espo_algo.espo, "sync_weights", record)
    collect = algo.collect

    def watch(group, plans, *enough):
        if group is algo.eval_env_runner_group:
            states = group.foreach_env_runner(
                lambda runner: runner.get_state(components="rl_module")["rl_module"], local_env_runner=False
            )
            seen.append({name: np.array(array) for name, array in states[0].items()})
        return collect(group, plans, *enough)

    monkeypatch.setattr(algo, "collect", watch)
    for iteration in range(3):
        measured = algo.train()["evaluation"]["env_runners"]
        assert measured["weights_seq_no"] == iteration
        assert seen
        for state in seen:  # one for each round of problems
            assert_same(state, sent[iteration])
        seen.clear()
        assert measured["num_episodes"] % 8 == 0
        assert measured["num_episodes"] > 0
        counted = [*range(measured["num_episodes"])]
        assert [i for i in indices if i in counted][-1] == counted[-1]
    # A duration that is given is one round.
    algo.evaluation_config = algo.evaluation_config.copy(copy_frozen=False).evaluation(evaluation_duration=16)
    measured = algo.train()["evaluation"]["env_runners"]
    assert (measured["weights_seq_no"], measured["num_episodes"]) == (3, 16)
    (state,) = seen
    assert_same(state, sent[3])
    algo.stop()


def test_a_state_that_was_taken_is_not_changed_by_training(coin_config):
    """It held views of the weights, so that nothing was restored."""
    algo = coin_config().early_stopping(**EARLY).build_algo()
    algo.train()
    state, before = algo.get_state(), weights(algo)
    first = algo.train()
    after = weights(algo)
    algo.set_state(state)
    assert_same(weights(algo), before)
    again = algo.train()
    assert_same(weights(algo), after)
    assert again["env_runners"]["accuracy"] == first["env_runners"]["accuracy"]
    # Once more from the same state: what was set has not worked in the caller's arrays either.
    algo.set_state(state)
    assert_same(weights(algo), before)
    algo.train()
    assert_same(weights(algo), after)
    algo.stop()
