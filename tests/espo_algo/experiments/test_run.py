"""A run with its evaluations."""

import gc
from dataclasses import replace

import pytest
import torch

from espo_algo import ESPO, LanguageModelWithCritic
from espo_algo.experiments.run import Schedule, measure, numbers, train
from espo_algo.experiments.run_checkpoint import RunCheckpoint
from espo_algo.learning.learner import ESPOLearner
from espo_algo.policy import Policy

SCHEDULE = Schedule(iterations=3, problems=8, samples=2, every=1, course_problems=4)
TIMES = ("sampling_s", "update_s")


@pytest.fixture
def settings(config):
    return config.early_stopping(beta="auto", planned_iterations=1, warmup_max_fraction=0.0, fail_reward=0.0)


def trained(config, schedule, checkpoint=None):
    run = train(config.copy(copy_frozen=False), "a run", schedule, progress=False, checkpoint=checkpoint)
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


def test_nothing_of_a_learner_stays_in_memory(settings, ray_session):
    gc.collect()  # what earlier tests left
    gc.disable()  # what is left to it may stay for hours
    try:
        run, _ = trained(settings, replace(SCHEDULE, every=0))
        assert not [found for found in gc.get_objects() if isinstance(found, ESPOLearner)]
    finally:
        gc.enable()
    assert run.policy.model.policy.num_parameters() > 0


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


def test_a_policy_is_measured_in_the_dtype_that_its_engines_sample_in(settings):
    def logprobs(dtype):
        model = LanguageModelWithCritic.from_pretrained(
            settings.model_name, settings.critic, dtype, settings.check_task().vocab_size
        )
        measured = measure(
            Policy(settings, model.eval(), settings.early_stopping_state), 0, 0.0, Schedule(0, problems=4)
        )
        return [e.logprobs.tolist() for part in (measured.sampled, measured.greedy) for e in part.episodes]

    settings.language_model(dtype="bfloat16")
    assert logprobs(torch.float32) == logprobs(torch.bfloat16)
    settings.language_model(dtype="float32")
    assert logprobs(torch.float32) != logprobs(torch.bfloat16)


def test_a_run_that_is_cut_short_goes_on_from_its_checkpoint(settings, ray_session, tmp_path, monkeypatch, caplog):
    folder, schedule, iterate = tmp_path / "run", replace(SCHEDULE, iterations=4), ESPO.train
    iterations = []

    def cut_short(algo):
        if len(iterations) == 2:
            raise KeyboardInterrupt
        iterations.append(algo.training_iteration)
        return iterate(algo)

    with monkeypatch.context() as patch:
        patch.setattr(ESPO, "train", cut_short)
        with pytest.raises(KeyboardInterrupt):
            trained(settings, schedule, RunCheckpoint(folder, {"seed": 0}, every_s=0.0))
    monkeypatch.setattr(ESPO, "train", lambda algo: iterations.append(algo.training_iteration) or iterate(algo))
    resumed, history = trained(settings, schedule, RunCheckpoint(folder, {"seed": 0}, every_s=0.0))
    assert iterations == [0, 1, 2, 3]  # none was done again
    whole, expected = trained(settings, schedule)
    assert history == expected
    assert [measured.numbers() for measured in resumed.course] == [measured.numbers() for measured in whole.course]
    assert resumed.at_updates.numbers() == whole.at_updates.numbers()

    # Nothing is taken from another run, or from one that is damaged.
    del iterations[:]
    trained(settings, replace(SCHEDULE, iterations=1), RunCheckpoint(folder, {"seed": 1}))
    state = folder / "newest" / "state.pkl"
    state.write_bytes(state.read_bytes()[:-1])
    trained(settings, replace(SCHEDULE, iterations=1), RunCheckpoint(folder, {"seed": 0}))
    assert iterations == [0, 0]
    assert "expected a checkpoint of {'seed': 1}" in caplog.text
    assert "expected state.pkl with the SHA-256" in caplog.text


def test_a_checkpoint_is_written_when_it_is_due_and_removed_when_the_run_is_done(settings, ray_session, tmp_path):
    checkpoint = RunCheckpoint(tmp_path / "run", {}, every_s=60.0)
    trained(settings, replace(SCHEDULE, iterations=2), checkpoint)
    assert not (tmp_path / "run").exists()
    algo = settings.build_algo()
    checkpoint = RunCheckpoint(tmp_path / "run", {}, every_s=0.0)
    checkpoint._begun -= 1000.0
    checkpoint.save_if_due(algo, "state")
    again = RunCheckpoint(tmp_path / "run", {})
    assert again.restore(algo) == "state"
    assert again.seconds > 1000.0
    algo.stop()
    again.remove()
    assert not (tmp_path / "run").exists()
    assert again.restore(algo) is None
