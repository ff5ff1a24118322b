"""Supervised fine-tuning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from espo_algo.learning.sft import save_model, small_model, supervised_fine_tuning
from espo_env.grading import Grade
from espo_env.tasks import ArithmeticTask, Problem, Task, WalkTask
from espo_env.tasks.order import ProblemOrder
from espo_env.tokenizer import Tokenizer

TASK = ArithmeticTask(max_terms=2, max_digits=1)
HORIZON = 24


class NextLetterTask(Task):
    """Sixteen letters; each is answered by the next one."""

    letters = "abcdefghijklmnop"

    def __init__(self):
        super().__init__(Tokenizer.from_symbols(self.letters))

    def num_problems(self, split):
        return len(self.letters)

    @property
    def max_prompt_tokens(self):
        return 1

    def problem(self, index, split="train"):
        self.check_index(index, split)
        answer = self.letters[(index + 1) % len(self.letters)]
        return Problem(self.letters[index], answer, answer, index)

    def grade(self, problem, response):
        return Grade(response == problem.answer, response, "equal" if response == problem.answer else "different")


def model_for(task=TASK, seed=0):
    return small_model(task, max_length=64, hidden_size=32, num_layers=1, seed=seed)


def warm_up(model, task=TASK, **options):
    options = {"max_new_tokens": HORIZON, "batch_size": 32, "num_problems": 16, "progress": False} | options
    return supervised_fine_tuning(model, task, **options)


def state(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_accuracy_rises():
    points = learn_letters(steps=60)
    assert [p.step for p in points] == [5 * (i + 1) for i in range(12)]
    assert points[0].accuracy < 0.5 < 0.9 < points[-1].accuracy
    assert points[-1].greedy_accuracy == 1.0
    assert points[-1].loss < points[0].loss


def test_stops_at_the_wanted_accuracy():
    points = learn_letters(steps=60, until=0.5)
    assert points[-1].step < 60
    assert points[-1].accuracy >= 0.5 > max(p.accuracy for p in points[:-1])


def learn_letters(**options):
    task = NextLetterTask()
    return warm_up(model_for(task), task, max_new_tokens=4, lr=1e-2, evaluate_every=5, num_problems=16, **options)


def test_same_seed_gives_the_same_model_and_another_seed_another():
    models = [model_for() for _ in range(3)]
    points = [warm_up(m, steps=4, evaluate_every=2, seed=seed) for m, seed in zip(models, (1, 1, 2), strict=True)]
    assert points[0] == points[1] != points[2]
    assert torch.equal(state(models[0]), state(models[1]))
    assert not torch.equal(state(models[0]), state(models[2]))


def test_weights_depend_on_their_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = state(model_for(seed=1))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(first, state(model_for(seed=1)))
    assert not torch.equal(first, state(model_for(seed=2)))


def test_loss_is_the_mean_over_response_tokens_alone():
    model = model_for()
    order = ProblemOrder(TASK.num_problems("train"), 3)
    losses = []
    for i in range(8):
        problem = TASK.problem(order[i])
        prompt, response = TASK.encode_prompt(problem), TASK.encode_solution(problem)
        tokens = torch.from_numpy(np.concatenate([prompt, response])).long()
        with torch.no_grad():
            logprobs = model(tokens[None]).logits[0].log_softmax(-1)
        losses += [-float(logprobs[len(prompt) + t - 1, token]) for t, token in enumerate(response)]
    (point,) = warm_up(model, steps=1, batch_size=8, seed=3)
    assert point.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_learns_the_demonstrations_that_it_is_given():
    # The empty response: nothing but the end-of-sequence token.
    end = np.array([TASK.tokenizer.eos_token_id], np.int32)
    points = warm_up(model_for(), steps=40, lr=5e-3, evaluate_every=40, demonstrate=lambda problem, rng: end)
    assert points[-1].loss < 0.05


def test_saved_folder_is_an_ordinary_model_that_can_be_trained_on(tmp_path):
    model = model_for()
    folder = save_model(model, TASK, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)("3+4=", add_special_tokens=False)["input_ids"]
    assert tokens == TASK.tokenizer.encode("3+4=")
    assert (
        AutoTokenizer.from_pretrained(folder).eos_token_id == TASK.tokenizer.eos_token_id == loaded.config.eos_token_id
    )
    ids = torch.tensor([tokens])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert warm_up(loaded, steps=2) == warm_up(model, steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps >= 1, got 0"),
        ({"steps": 1, "batch_size": 0}, "batch_size >= 1, got 0"),
        ({"steps": 1, "evaluate_every": 0}, "evaluate_every >= 1, got 0"),
        ({"steps": 1, "until": 1.5}, r"in \[0, 1\], got 1.5"),
    ],
)
def test_bad_numbers_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        warm_up(model_for(), **options)


def test_model_without_the_tasks_tokens_is_refused():
    vocabulary = WalkTask().tokenizer.vocab_size
    assert vocabulary < TASK.tokenizer.vocab_size
    with pytest.raises(ValueError, match=f"the task's {TASK.tokenizer.vocab_size} tokens, got {vocabulary}"):
        warm_up(model_for(WalkTask()), steps=1)


def test_task_without_solutions_is_refused():
    class Unsolved(ArithmeticTask):
        def problem(self, index, split="train"):
            return replace(super().problem(index, split), solution="")

    with pytest.raises(ValueError, match="reference solution, got none"):
        warm_up(model_for(), Unsolved(max_terms=2, max_digits=1), steps=1)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"multiple of 8 .* got 36"):
        small_model(TASK, max_length=8, hidden_size=36, num_heads=4)
