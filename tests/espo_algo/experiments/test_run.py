"""A run with its evaluations."""

from dataclasses import replace

import pytest

from espo_algo.experiments.run import Schedule, numbers, train

SCHEDULE = Schedule(iterations=3, problems=8, samples=2, every=1, course_problems=4)
TIMES = ("sampling_s", "update_s")


@pytest.fixture
def settings(config):
    return config.early_stopping(beta="auto", planned_iterations=1, warmup_max_fraction=0.0, fail_reward=0.0)


def trained(config, schedule):
    run = train(config.copy(copy_frozen=False), "a run", schedule, progress=False)
    return run, [{k: v for k, v in record.items() if k not in TIMES} for record in numbers(run)["history"]]


def test_evaluations_do_not_change_training(settings, ray_session):
    run, history = trained(settings, SCHEDULE)
    _, alone = trained(settings, replace(SCHEDULE, problems=2, every=0))
    assert history == alone
    assert [measured.iteration for measured in run.course] == [1, 2, 3]
    assert run.at_updates.tokens == run.history[-1]["tokens"]
    assert (len(run.at_updates.sampled.episodes), len(run.at_updates.greedy.episodes)) == (16, 8)
    assert run.at_tokens is None
    assert set(numbers(run)["at_updates"]) == set(run.course[0].numbers()) | {"cool", "cool_error"}


def test_a_run_goes_on_to_its_token_budget(settings, ray_session):
    run, history = trained(settings, SCHEDULE)
    tokens = [record["tokens"] for record in history]
    # Room for two batches like the last one, and a token less than for the third.
    budget = tokens[2] + 3 * (tokens[2] - tokens[1]) - 1
    longer, going_on = trained(settings, replace(SCHEDULE, token_budget=budget))
    assert going_on[:3] == history
    assert longer.at_updates.numbers() == run.at_updates.numbers()
    assert longer.at_tokens.tokens <= budget
    assert 3 < longer.at_tokens.iteration == len(going_on) <= 6
    assert longer.seconds("update_s") == sum(record["update_s"] for record in longer.history[:3])


def test_a_budget_that_is_spent_early_is_measured_early(settings, ray_session):
    run, history = trained(settings, replace(SCHEDULE, token_budget=1.0, every=0))
    assert (run.at_tokens.iteration, run.at_updates.iteration, len(history)) == (1, 3, 3)


def test_the_start_is_a_run_without_iterations(settings, ray_session):
    run, history = trained(settings, Schedule(iterations=0, problems=8, token_budget=None))
    assert (history, run.at_updates.iteration, run.at_updates.tokens) == ([], 0, 0)
