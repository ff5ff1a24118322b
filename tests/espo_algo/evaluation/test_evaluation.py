"""Evaluation, on a policy that one can count by hand: each token is drawn from the same distribution."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from espo_algo import ESPOConfig, LanguageModelWithCritic
from espo_algo.evaluation import evaluate_policy
from espo_algo.learning.sft import small_model
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.engine import SamplingSettings
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, RegretStatistics, ToleranceController
from espo_env.grading import Grade
from espo_env.tasks import Problem, Task
from espo_env.tokenizer import Tokenizer
from espo_env.types import StopReason

HORIZON = 6
# <eos>, a, b
PROBABILITIES = torch.tensor([0.3, 0.5, 0.2])


class CountTask(Task):
    """Twenty problems. Those with an even index want no ``b`` in the response, the others want one."""

    def __init__(self):
        super().__init__(Tokenizer.from_symbols("ab"))

    def num_problems(self, split):
        return 20 if split == "eval" else 1

    @property
    def max_prompt_tokens(self):
        return 1

    def problem(self, index, split="train"):
        self.check_index(index, split)
        return Problem("a", "without" if index % 2 == 0 else "with", index=index)

    def grade(self, problem, response):
        correct = ("b" in response) == (problem.answer == "with")
        return Grade(correct, response, "equal" if correct else "different")


@pytest.fixture(scope="module")
def model():
    task = CountTask()
    policy = small_model(task, max_length=16, hidden_size=8, num_layers=1, num_heads=1)
    # Every hidden state is the same vector h, so W h does not depend on what was written: choose W h = log p.
    torch.nn.init.zeros_(policy.base_model.layers[0].self_attn.o_proj.weight)
    torch.nn.init.zeros_(policy.base_model.layers[0].mlp.down_proj.weight)
    policy.set_output_embeddings(torch.nn.Linear(8, 3, bias=False))
    policy.base_model.embed_tokens.weight.data.fill_(1.0)
    policy.get_output_embeddings().weight.data[:] = PROBABILITIES.log()[:, None] / 8
    return LanguageModelWithCritic(policy)


@pytest.fixture(scope="module")
def config():
    return (
        ESPOConfig()
        .environment("espo_env/TokenGeneration-v0", env_config={"task": CountTask()})
        .env_runners(num_envs_per_env_runner=8)
        .generation(max_new_tokens=HORIZON)
    )


# Regrets: log(5/3) = .51 of <eos> (never stopped at), 0 of a, log(5/2) = .92 of b. The first b lifts z to .092, over
# .25 * .2 = .05; nothing else can.
CONTROL = EarlyStoppingState(
    statistics=RegretStatistics(mean=0.0, var=1.0),
    tolerance=ToleranceController(beta=0.25),
    warmup=CriticWarmup(done=True),
)


def written(episode):
    return CountTask().tokenizer.decode(episode.response_tokens)


def expected_correct(episode, index):
    ended = episode.stop_reason is StopReason.EOS
    return ended and ("b" in written(episode)) == (index % 2 == 1)


def test_counts_what_can_be_counted_by_hand(config, model):
    result = evaluate_policy(config, model, CONTROL, num_problems=20)
    right = marked = false_positive = tokens = 0
    for index, episode in enumerate(result.episodes):
        assert episode.problem.index == index
        text = written(episode)
        tokens += len(text) + (episode.stop_reason is StopReason.EOS)
        right += expected_correct(episode, index)
        first = text.find("b")
        # What ends by itself on a step is not marked on that step.
        mark = first if first != HORIZON - 1 else -1
        assert episode.mark == mark
        if mark >= 0:
            marked += 1
            false_positive += expected_correct(episode, index)
    assert 0 < marked < 20
    assert 0 < false_positive < marked
    assert result.accuracy == pytest.approx(right / 20)
    p = right / 20
    assert result.accuracy_error == pytest.approx(math.sqrt(p * (1 - p) / 19))
    assert result.num_tokens == tokens
    assert result.stop_rate == pytest.approx(marked / 20)
    assert result.false_positive_rate == pytest.approx(false_positive / marked)


def test_marks_change_no_token_and_stops_cut_there(config, model):
    off = evaluate_policy(config, model, num_problems=20, stops="off")
    mark = evaluate_policy(config, model, CONTROL, num_problems=20, stops="mark")
    stop = evaluate_policy(config, model, CONTROL, num_problems=20, stops="stop")
    for a, b, c in zip(off.episodes, mark.episodes, stop.episodes, strict=True):
        assert a.mark == -1
        np.testing.assert_array_equal(a.response_tokens, b.response_tokens)
        end = len(b) if b.mark < 0 else b.mark + 1
        np.testing.assert_array_equal(b.response_tokens[:end], c.response_tokens)
        assert (c.stop_reason is StopReason.REGRET) == (b.mark >= 0)
    assert off.accuracy == mark.accuracy
    assert off.stop_rate == 0.0
    assert math.isnan(off.false_positive_rate)
    assert stop.stop_rate == mark.stop_rate
    assert stop.num_tokens < mark.num_tokens


def test_several_responses_to_a_problem_count_as_one_for_the_error(config, model):
    result = evaluate_policy(config, model, num_problems=5, rollouts_per_prompt=4, stops="off")
    assert [e.problem.index for e in result.episodes] == [i // 4 for i in range(20)]
    means = [sum(expected_correct(e, i) for e in result.episodes[4 * i : 4 * i + 4]) / 4 for i in range(5)]
    overall = sum(means) / 5
    assert result.accuracy == pytest.approx(overall)
    assert result.accuracy_error == pytest.approx(math.sqrt(sum((m - overall) ** 2 for m in means) / 4 / 5))


def test_sampling_and_seed_are_those_asked_for(config, model):
    greedy = evaluate_policy(config, model, num_problems=4, sampling=SamplingSettings(greedy=True), stops="off")
    assert [written(e) for e in greedy.episodes] == ["a" * HORIZON] * 4
    assert greedy.accuracy == 0.0  # never ends by itself
    texts = [
        [written(e) for e in evaluate_policy(config, model, num_problems=20, stops="off", seed=seed).episodes]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_one_problem_has_no_error(config, model):
    assert math.isnan(evaluate_policy(config, model, num_problems=1, stops="off").accuracy_error)


def test_configuration_is_left_as_it_was(config, model):
    evaluate_policy(config, model, num_problems=1, stops="off")
    assert not config.in_evaluation
    assert config.stops_in_evaluation == "mark"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_problems": 21}, r"\[1, 20\] \(split 'eval'\), got 21"),
        ({"num_problems": 0}, r"\[1, 20\] \(split 'eval'\), got 0"),
        ({"num_problems": 2, "rollouts_per_prompt": 0}, "rollouts_per_prompt >= 1, got 0"),
        ({"num_problems": 2, "stops": "mark"}, "state of early stopping for stops='mark', got None"),
    ],
)
def test_bad_arguments_are_named(config, model, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_policy(config, model, **{"stops": "off"} | options)


def test_an_engine_is_shut_down_where_something_raises(config, model, monkeypatch):
    """It kept its memory."""
    closed = []
    shutdown = TorchEngine.shutdown
    monkeypatch.setattr(TorchEngine, "shutdown", lambda engine: closed.append(engine) or shutdown(engine))

    class FullDisk:
        episodes: ClassVar[dict] = {}

        def append(self, number, episode):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        evaluate_policy(config, model, num_problems=8, stops="off", log=FullDisk())
    assert len(closed) == 1
