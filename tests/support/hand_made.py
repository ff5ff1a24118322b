"""Episodes, modules and learners built by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from espo_algo import ESPOConfig, LanguageModelWithCritic, TokenEpisode
from espo_algo.learning.learner import ESPOLearner
from espo_algo.learning.rl_module import LanguageModelRLModule
from espo_algo.learning.training_data import WholeEpisodeTrainingData
from espo_env.grading import Grade
from espo_env.tasks import Problem, Split, Task
from espo_env.tokenizer import Tokenizer
from espo_env.types import TRACE_COLUMNS, StopReason

VOCABULARY = 17
"""Tokens of the arithmetic task, end of sequence (0) included."""


def make_episode(
    response: Sequence[int], reason: StopReason = StopReason.EOS, prompt: Sequence[int] = (3, 11, 4), **fields: Any
) -> TokenEpisode:
    """An episode; columns may be given as lists."""
    columns = {name: np.asarray(fields.pop(name), np.float32) for name in TRACE_COLUMNS if name in fields}
    return TokenEpisode(np.array(prompt, np.int32), np.array(response, np.int32), reason, **columns, **fields)


def random_episodes(lengths: Sequence[int], seed: int = 0) -> list[TokenEpisode]:
    """Responses of these lengths with prompts of 1 to 5 tokens; every third is stopped, every third right."""
    rng = np.random.default_rng(seed)
    endings = ((StopReason.EOS, 1.0), (StopReason.REGRET, -1.0), (StopReason.LENGTH, 0.0))
    return [
        make_episode(
            rng.integers(1, VOCABULARY, length),
            endings[i % 3][0],
            rng.integers(1, VOCABULARY, rng.integers(1, 6)),
            reward=endings[i % 3][1],
            logprobs=rng.normal(-2.8, 0.1, length),
            regrets=rng.exponential(size=length),
            values=rng.normal(size=length),
            request_id=i,
            group=i,
        )
        for i, length in enumerate(lengths)
    ]


def spaces_of(config: ESPOConfig) -> dict[str, Any]:
    mdp = config.check_task()
    return {DEFAULT_MODULE_ID: (mdp.observation_space(), mdp.action_space())}


def build_module(config: ESPOConfig, inference_only: bool = False) -> LanguageModelRLModule:
    spec = config.get_rl_module_spec(spaces=spaces_of(config), inference_only=inference_only)
    return randomise_critic(spec.build())


def build_learner(config: ESPOConfig) -> ESPOLearner:
    """As RLlib's LearnerGroup builds a local one; its critic is no longer zero, unless it is sharded."""
    config.validate()
    learner = config.build_learner(spaces=spaces_of(config))
    if not learner.sharded:
        randomise_critic(learner.language_module)
    return learner


def randomise_critic(module: LanguageModelRLModule) -> LanguageModelRLModule:
    """A new value head is zero, which would hide errors."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.model.value_head.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def update(learner: ESPOLearner, episodes: list[TokenEpisode], timestep: int = 0, **options: Any) -> dict[str, float]:
    """One ``Learner.update``; gives back its metrics."""
    config = learner.config
    results = learner.update(
        training_data=WholeEpisodeTrainingData(episodes=episodes),
        timesteps={"num_env_steps_sampled_lifetime": timestep},
        **{"num_epochs": config.num_epochs, "minibatch_size": config.minibatch_size} | options,
    )
    return {name: float(stats.peek()) for name, stats in results[DEFAULT_MODULE_ID].items()}


def naive_scores(
    model: LanguageModelWithCritic, episode: TokenEpisode, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and values of the response's tokens, (T,), and the value behind them, ().

    One sequence through the bare model, all logits at once.
    """
    tokens = torch.tensor([*episode.prompt_tokens.tolist(), *episode.response_tokens.tolist()])
    logprobs = torch.log_softmax(model.policy(tokens[None]).logits[0, :, :VOCABULARY] / temperature, -1)
    trunk = model.policy.base_model if model.critic_trunk is None else model.critic_trunk
    values = model.value_head(trunk(tokens[None]).last_hidden_state[0])[:, 0]
    first = len(episode.prompt_tokens) - 1
    chosen = torch.stack([logprobs[first + t, token] for t, token in enumerate(episode.response_tokens.tolist())])
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return chosen, entropies[first:-1], values[first:-1], values[-1]


class FolderTask(Task):
    """One problem in the words of a model folder's tokenizer."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(Tokenizer.from_pretrained(folder))

    def num_problems(self, split: Split) -> int:
        return 1

    @property
    def max_prompt_tokens(self) -> int:
        return 4

    def problem(self, index: int, split: Split = "train") -> Problem:
        self.check_index(index, split)
        return Problem("1+1=", "2", "#### 2", index)

    def grade(self, problem: Problem, response: str) -> Grade:
        return Grade(response == problem.solution, response, "compared")
