"""Supervised fine-tuning on a task's own solutions, which makes a model that reinforcement learning can start from.

- :func:`small_model`: a small transformer with fresh weights for a task.
- :func:`supervised_fine_tuning`: fine-tunes a model until it reaches an accuracy.
- :class:`SFTPoint`: loss and accuracy at a step.
- :func:`save_model`: writes an ordinary Hugging Face folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from espo_algo.config import ESPOConfig
from espo_algo.evaluation.evaluate import Evaluation, evaluate_policy
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.engine import SamplingSettings
from espo_env.tasks import Problem, Task
from espo_env.tasks.order import ProblemOrder

__all__ = ["Demonstrate", "SFTPoint", "save_model", "small_model", "supervised_fine_tuning"]

Demonstrate = Callable[[Problem, np.random.Generator], NDArray[np.int32]]
"""Gives the response tokens to learn for a problem, shape (T,), end-of-sequence token included."""

_IGNORED = -100
_LR_RAMP_STEPS = 10


@dataclass(frozen=True, slots=True)
class SFTPoint:
    """Loss and accuracy after a number of fine-tuning steps.

    Attributes:
        step: Updates done.
        loss: Mean cross-entropy of a response token in the last update, nats.
        accuracy: Share of right responses, sampled at temperature 1, on evaluation problems.
        greedy_accuracy: The same with the likeliest tokens.
    """

    step: int
    loss: float
    accuracy: float
    greedy_accuracy: float


def small_model(
    task: Task,
    *,
    max_length: int,
    hidden_size: int = 64,
    num_layers: int = 3,
    num_heads: int = 4,
    seed: int = 0,
) -> PreTrainedModel:
    """A small Qwen2 (rotary positions) with fresh weights and the task's vocabulary.

    Args:
        task: Gives the vocabulary.
        max_length: Context: the longest prompt with its response, in tokens.
        hidden_size: Width; the (gated) feed-forward layers have twice as much.
        num_layers: Depth.
        num_heads: Attention heads; they must divide the width into even parts.
        seed: Of the weights.

    Raises:
        ValueError: If the heads do not divide the width into even parts.
    """
    if hidden_size % (2 * num_heads):
        raise ValueError(f"expected hidden_size to be a multiple of {2 * num_heads} (num_heads), got {hidden_size}")
    config = Qwen2Config(
        vocab_size=task.tokenizer.vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=task.tokenizer.eos_token_id,
        pad_token_id=task.tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def supervised_fine_tuning(
    model: PreTrainedModel,
    task: Task,
    *,
    max_new_tokens: int,
    steps: int,
    batch_size: int = 96,
    lr: float = 3e-3,
    until: float | None = None,
    evaluate_every: int = 25,
    num_problems: int = 256,
    demonstrate: Demonstrate | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[SFTPoint]:
    """Fine-tunes a model in place, with AdamW and the loss on response tokens only.

    The accuracy of a small model can jump from nothing to most of what there is within 100 steps, so a mediocre start
    for reinforcement learning is met only by looking often: see ``until`` and ``evaluate_every``.

    Args:
        model: Any causal LM whose vocabulary holds the task's tokens, on any device.
        task: Its training problems are learnt from, its evaluation problems measured on.
        max_new_tokens: Horizon of a response when accuracy is measured, in tokens.
        steps: Updates, at most.
        batch_size: Problems in an update.
        lr: Learning rate, constant after the first updates.
        until: Stops at the first evaluation with at least this sampled accuracy; None makes all updates.
        evaluate_every: Updates between two evaluations.
        num_problems: Evaluation problems.
        demonstrate: What to learn for a problem; None for the task's reference solutions.
        seed: Of the order of problems, of ``demonstrate``, and of the evaluation's samples.
        progress: Show a progress bar.

    Returns:
        A point for each evaluation, the last one after the last update. The same for the same seed and machine.

    Raises:
        ValueError: If a number is out of its range, the model lacks tokens, or a problem has no reference solution.
    """
    for name, number in (("steps", steps), ("batch_size", batch_size), ("evaluate_every", evaluate_every)):
        if number < 1:
            raise ValueError(f"expected {name} >= 1, got {number}")
    if until is not None and not 0.0 <= until <= 1.0:
        raise ValueError(f"expected until, an accuracy, in [0, 1], got {until}")
    if model.config.vocab_size < task.tokenizer.vocab_size:
        raise ValueError(
            f"expected a model with the task's {task.tokenizer.vocab_size} tokens, got {model.config.vocab_size}"
        )
    order = ProblemOrder(task.num_problems("train"), seed)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / _LR_RAMP_STEPS))
    points: list[SFTPoint] = []
    with tqdm(total=steps, desc="supervised fine-tuning", disable=not progress) as bar:
        for step in range(1, steps + 1):
            problems = [task.problem(order[i]) for i in range((step - 1) * batch_size, step * batch_size)]
            tokens, labels = _pack(task, problems, demonstrate or _reference_of(task), rng)
            model.train()
            loss = _loss(model, tokens.to(model.device), labels.to(model.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            bar.update()
            if step % evaluate_every == 0 or step == steps:
                model.eval()
                sampled, greedy = (
                    _evaluate(model, task, max_new_tokens, num_problems, SamplingSettings(greedy=greedy), seed).accuracy
                    for greedy in (False, True)
                )
                points.append(SFTPoint(step, loss.item(), sampled, greedy))
                bar.set_postfix(loss=f"{loss.item():.3f}", sampled=f"{sampled:.3f}", greedy=f"{greedy:.3f}")
                if until is not None and sampled >= until:
                    break
    model.eval()
    return points


def save_model(model: PreTrainedModel, task: Task, folder: str | Path) -> Path:
    """Writes weights, configuration and tokenizer, as ``AutoModelForCausalLM`` and ``AutoTokenizer`` read them."""
    model.save_pretrained(folder)
    task.tokenizer.save_pretrained(folder)
    return Path(folder)


def _reference_of(task: Task) -> Demonstrate:
    def reference(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
        if not problem.solution:
            raise ValueError(f"expected a problem with a reference solution, got none for {problem.prompt!r}")
        return task.encode_solution(problem)

    return reference


def _pack(
    task: Task, problems: list[Problem], demonstrate: Demonstrate, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Right-padded tokens (B, T), and labels (B, T) that ignore prompts and padding."""
    prompts = [task.encode_prompt(problem) for problem in problems]
    responses = [demonstrate(problem, rng) for problem in problems]
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    tokens = np.full((len(problems), width), task.tokenizer.eos_token_id, np.int64)
    labels = np.full((len(problems), width), _IGNORED, np.int64)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        tokens[row, : len(prompt)] = prompt
        tokens[row, len(prompt) : end] = labels[row, len(prompt) : end] = response
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def _loss(model: PreTrainedModel, tokens: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over response tokens; logits for these alone."""
    hidden = model.base_model(tokens[:, :-1], use_cache=False).last_hidden_state
    wanted = labels[:, 1:]
    chosen = wanted != _IGNORED
    return cross_entropy(model.get_output_embeddings()(hidden[chosen]).float(), wanted[chosen])


def _evaluate(
    model: PreTrainedModel, task: Task, max_new_tokens: int, num_problems: int, sampling: SamplingSettings, seed: int
) -> Evaluation:
    config = (
        ESPOConfig()
        .environment("espo_env/TokenGeneration-v0", env_config={"task": task})
        .env_runners(num_envs_per_env_runner=min(256, num_problems))
        .generation(max_new_tokens=max_new_tokens)
    )
    policy = LanguageModelWithCritic(model, vocab_size=task.tokenizer.vocab_size)
    return evaluate_policy(config, policy, num_problems=num_problems, sampling=sampling, stops="off", seed=seed)
