"""Evaluation of a policy on problems that it was not trained on.

- :func:`evaluate_policy`: lets a policy answer the evaluation split.
- :class:`Evaluation`: the responses, with accuracy, stop rate and false-positive rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from espo_algo.config import ESPOConfig
from espo_algo.episodes import TokenEpisode
from espo_algo.evaluation.response_log import ResponseLog
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.metrics import rollout_metrics
from espo_algo.rollout.collect import stream
from espo_algo.rollout.engine import SamplingSettings
from espo_algo.rollout.engines import get_engine
from espo_algo.rollout.environment import make_vector_env
from espo_algo.rollout.plans import Planner
from espo_algo.schema import EvaluationStops
from espo_env.early_stopping import EarlyStoppingState
from espo_env.types import StopReason

__all__ = ["Evaluation", "evaluate_policy"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Responses to evaluation problems, and the figures computed from them.

    Attributes:
        episodes: All responses; those to the same problem stand behind each other.
        rollouts_per_prompt: Responses to each problem.
    """

    episodes: list[TokenEpisode]
    rollouts_per_prompt: int = 1

    @property
    def accuracy(self) -> float:
        """Share of right responses; one that was stopped, cut or lost is not right."""
        return float(self._correct.mean())

    @property
    def accuracy_error(self) -> float:
        """Standard error of the accuracy over the choice of problems; NaN with a single problem.

        Responses to one problem are not independent of each other, so it is taken over the problems' means.
        """
        means = self._correct.mean(1)
        return float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan

    @property
    def num_tokens(self) -> int:
        """Tokens written."""
        return sum(len(episode) for episode in self.episodes)

    @property
    def stop_rate(self) -> float:
        """Share of the finished responses that the detector stopped or marked."""
        return rollout_metrics(self.episodes)["early_stopping"]["stop_rate"]

    @property
    def false_positive_rate(self) -> float:
        """Share of the marked responses that ran on and were right; NaN where nothing was marked."""
        return rollout_metrics(self.episodes)["early_stopping"]["false_positive_rate"]

    @property
    def _correct(self) -> np.ndarray:
        return np.array([e.correct is True for e in self.episodes]).reshape(-1, self.rollouts_per_prompt)


def evaluate_policy(
    config: ESPOConfig,
    model: LanguageModelWithCritic,
    early_stopping: EarlyStoppingState | None = None,
    *,
    num_problems: int,
    sampling: SamplingSettings | None = None,
    stops: EvaluationStops = "mark",
    rollouts_per_prompt: int = 1,
    seed: int = 0,
    log: ResponseLog | None = None,
    progress: str | None = None,
) -> Evaluation:
    """Lets a policy answer the first problems of the evaluation split.

    The same problems and seeds every time, so that two policies are compared on the same luck.

    Args:
        config: Environment, engine (``num_envs_per_env_runner`` slots), horizon and stop rule.
        model: The policy and its critic; the engine keeps it in the configured ``dtype``.
        early_stopping: Its state; None where nothing is to be stopped or marked.
        num_problems: How many problems, at most as many as the split has.
        sampling: How tokens are drawn; None for the configured way.
        stops: ``"off"``, ``"mark"`` (stops are only written down: measures false positives) or ``"stop"``.
        rollouts_per_prompt: Responses to each problem.
        seed: Seed of the responses.
        log: Responses are appended to it as they finish, and what it has already is not written again, unless it was
            lost.
        progress: Label of a progress bar; None shows none.

    Raises:
        ValueError: If the split has fewer problems, a number is below 1, or stops are wanted without a state.
    """
    if rollouts_per_prompt < 1:
        raise ValueError(f"expected rollouts_per_prompt >= 1, got {rollouts_per_prompt}")
    if early_stopping is None and stops != "off":
        raise ValueError(f"expected a state of early stopping for stops={stops!r}, got None")
    config = config.copy(copy_frozen=False)
    config.in_evaluation, config.stops_in_evaluation = True, stops
    env = make_vector_env(config)
    mdp = env.unwrapped.mdp
    available = mdp.task.num_problems(mdp.split)
    if not 1 <= num_problems <= available:
        raise ValueError(f"expected num_problems in [1, {available}] (split {mdp.split!r}), got {num_problems}")
    episodes: dict[int, TokenEpisode] = {}
    for number, episode in {} if log is None else log.episodes.items():
        if episode.stop_reason not in (StopReason.ABORT, StopReason.ERROR):
            episode.problem = mdp.task.problem(number // rollouts_per_prompt, mdp.split)
            episodes[number] = episode
    missing = [number for number in range(num_problems * rollouts_per_prompt) if number not in episodes]
    planner = Planner(lambda i: i, seed, rollouts_per_prompt, shadow_fraction=float(stops == "mark"))
    if missing:
        kept = model.kept_in(getattr(torch, config.dtype))
        engine = get_engine(config.engine).build(kept, config.engine_settings(mdp))
        try:
            engine.set_sampling(sampling or config.sampling)
            if early_stopping is not None:
                engine.set_detector_state(early_stopping.detector_state)
            with tqdm(total=len(missing), desc=progress, unit="response", disable=progress is None) as bar:
                for place, episode in stream(engine, env, planner.plans(missing)):
                    episodes[missing[place]] = episode
                    if log is not None:
                        log.append(missing[place], episode)
                    bar.update()
        finally:
            engine.shutdown()
    env.close()
    return Evaluation([episodes[number] for number in range(num_problems * rollouts_per_prompt)], rollouts_per_prompt)
