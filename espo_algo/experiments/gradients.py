"""What stops do to the direction of an update: the same responses with and without them.

- :class:`Directions`: gradients of groups of problems under several treatments, and what they agree with.
- :func:`measure_directions`: writes full responses with a policy, stops them at their marks, and measures.

A step along a gradient raises an objective by their inner product. Groups of different problems are independent:
products between them estimate those of expected gradients, and products within them what noise adds. The objectives
are the expected rewards at several temperatures, each by the policy gradient of full responses at that temperature,
with the mean reward of the other responses to the same prompt as baseline (REINFORCE leave-one-out, Ahmadian et al.
2024, arXiv 2402.14740).

``python -m espo_algo.experiments.gradients arithmetic --output FOLDER`` prints the table of a family.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from espo_algo.config import ESPOConfig
from espo_algo.episodes import TokenEpisode
from espo_algo.evaluation import evaluate_policy
from espo_algo.evaluation.report import format_table
from espo_algo.experiments.arms import FAMILIES
from espo_algo.experiments.config import OUTPUT, build_config, parse_setting, with_settings
from espo_algo.experiments.run import for_evaluation
from espo_algo.learning.advantages import generalized_advantages
from espo_algo.learning.batching import SequenceBatch, pack
from espo_algo.learning.credit import CreditSettings, Responses, assign_credit
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.learning.scoring import score_responses
from espo_algo.policy import Policy
from espo_algo.rollout.engine import SamplingSettings

__all__ = ["Directions", "measure_directions"]

Floats = NDArray[np.float32]

TEMPERATURES = (1.0, 0.6, 0.3)
"""Of the objectives: the lower, the nearer to the greedy answer."""
WEIGHTS = (0.0, 0.1, 0.3, 0.5, 1.0)
"""``stop_weight`` of the table's rows."""
_MAX_TOKENS = 16384
_PROBLEM_SEED = 777
"""Other problems than those of the tables: this is for choosing settings."""


@dataclass(frozen=True)
class Directions:
    """Inner products of gradients over ``G`` groups of problems.

    Attributes:
        products: By two names, shape (G, G): row ``i`` has the first one's gradient on group ``i``. Names are those of
            the treatments and, for objectives, the temperatures.
        tokens: By treatment: its tokens as a share of those of the full responses.
        responses: Of a group.
    """

    products: Mapping[tuple[str, str], NDArray[np.float64]]
    tokens: Mapping[str, float]
    responses: int

    def weighted(self, weight: float) -> Directions:
        """With stops that count ``weight``, a further treatment ``"weighted"``: what a weight multiplies adds up."""
        mixed = dict(self.products)
        for name in {name for _, name in self.products}:
            parts = self.products["dropped", name], self.products["stopped", name]
            mixed["weighted", name] = (1 - weight) * parts[0] + weight * parts[1]
        ends = mixed["weighted", "dropped"], mixed["weighted", "stopped"]
        mixed["weighted", "weighted"] = (1 - weight) * ends[0] + weight * ends[1]
        return replace(self, products=mixed, tokens={**self.tokens, "weighted": self.tokens["stopped"]})

    def without(self, group: int) -> Directions:
        """With a group left out."""
        return replace(
            self, products={names: np.delete(np.delete(p, group, 0), group, 1) for names, p in self.products.items()}
        )

    def cosine(self, name: str, objective: str) -> float:
        """Between the expected gradients."""
        lengths = np.sqrt(self._across(name, name) * self._across(objective, objective))
        return self._across(name, objective) / float(lengths)

    def progress(self, name: str, objective: str, batch: int) -> float:
        """What a step of length 1 along the gradient of a batch gains, of what the best step would.

        Args:
            name: A treatment.
            objective: What is gained.
            batch: Responses; the fewer, the more of a step is noise.
        """
        mean_square = self._across(name, name)
        noise = float(np.diag(self.products[name, name]).mean()) - mean_square
        length = np.sqrt(mean_square + noise * self.responses / batch)
        return self._across(name, objective) / float(length * np.sqrt(self._across(objective, objective)))

    def gain(self, name: str, other: str, objective: str, batch: int) -> tuple[float, float]:
        """Progress over another treatment's, less 1, with its standard error (a jackknife over the groups)."""

        def ratio(directions: Directions) -> float:
            steps = [directions.progress(treatment, objective, batch) for treatment in (name, other)]
            return steps[0] / steps[1] - 1

        groups = len(self.products[name, name])
        left_out = np.array([ratio(self.without(group)) for group in range(groups)])
        return ratio(self), float(np.sqrt((groups - 1) * left_out.var()))

    def _across(self, name: str, other: str) -> float:
        """Mean of the products between different groups: that of the expected gradients."""
        found = self.products[name, other]
        groups = len(found)
        return float(found.sum() - np.trace(found)) / (groups * (groups - 1))


def stopped(episode: TokenEpisode) -> TokenEpisode:
    """A response as training would have seen it: ended at its mark, without a reward."""
    return episode.stopped_at_mark() if 0 <= episode.mark < len(episode) - 1 else replace(episode, mark=-1)


def coefficients(episodes: Sequence[TokenEpisode], settings: CreditSettings) -> list[Floats]:
    """What multiplies each token's log-probability in the update: whitened advantages by weights, over all tokens."""
    nothing = np.zeros(len(episodes), np.float32)
    credit = assign_credit(
        Responses.from_episodes(episodes, [e.values for e in episodes], nothing), generalized_advantages, settings
    )
    flat = np.concatenate(credit.unweighted_advantages)
    white = credit.whitened(float(flat.mean()), float(flat.var()))
    return [
        (a * w / len(flat)).astype(np.float32) for a, w in zip(white.advantages, credit.policy_weights, strict=True)
    ]


def leave_one_out(episodes: Sequence[TokenEpisode], rollouts_per_prompt: int) -> list[Floats]:
    """What multiplies each token's log-probability in the gradient of the expected reward."""
    rewards = np.array([e.reward for e in episodes]).reshape(-1, rollouts_per_prompt)
    others = (rewards.sum(1, keepdims=True) - rewards) / (rollouts_per_prompt - 1)
    return [
        np.full(len(episode), advantage / len(episodes), np.float32)
        for episode, advantage in zip(episodes, (rewards - others).ravel(), strict=True)
    ]


def gradients(
    model: LanguageModelWithCritic,
    episodes: Sequence[TokenEpisode],
    treatments: Sequence[Sequence[Floats]],
    groups: int,
    temperature: float = 1.0,
) -> Floats:
    """The policy's gradients of sums of weighted log-probabilities.

    Args:
        model: The policy.
        episodes: Full responses, those of a group behind each other.
        treatments: For each of them the coefficients of each response's first tokens; the others count nothing.
        groups: How many of equal size.
        temperature: Of the distribution that the log-probabilities are of.

    Returns:
        Shape (treatments, groups, parameters).
    """
    parameters = [p for name, p in model.named_parameters() if name.startswith("policy.")]
    out = np.zeros((len(treatments), groups, sum(p.numel() for p in parameters)), np.float32)
    lengths = np.array([len(e.prompt_tokens) + len(e) for e in episodes])
    for group, rows in enumerate(np.array_split(np.arange(len(episodes)), groups)):
        for chosen in (rows[part] for part in pack(lengths[rows], _MAX_TOKENS)):
            batch = SequenceBatch.from_episodes([episodes[i] for i in chosen], "cpu")
            logprobs = score_responses(model, batch, temperature)["action_logp"]
            for index, columns in enumerate(treatments):
                weights = [np.pad(columns[i], (0, len(episodes[i]) - len(columns[i]))) for i in chosen]
                loss = logprobs @ torch.from_numpy(np.concatenate(weights))
                found = torch.autograd.grad(loss, parameters, retain_graph=index + 1 < len(treatments))
                out[index, group] += groups * torch.cat([g.ravel() for g in found]).numpy()
    return out


def measure_directions(
    config: ESPOConfig,
    policy: Policy,
    *,
    num_problems: int = 1024,
    rollouts_per_prompt: int = 8,
    groups: int = 32,
    temperatures: Sequence[float] = TEMPERATURES,
    problem_seed: int | None = _PROBLEM_SEED,
) -> Directions:
    """Measures an update of plain PPO, and those that learn from the same responses stopped at their marks.

    Args:
        config: Of the training.
        policy: With its state of early stopping, which gives the marks.
        num_problems: Evaluation problems; ``groups`` divides it.
        rollouts_per_prompt: Responses to each, >= 2.
        groups: Of problems.
        temperatures: Of the objectives, 1 among them.
        problem_seed: See :class:`~espo_algo.experiments.run.Schedule`.

    Returns:
        Treatments ``"PPO"``, ``"stopped"`` and ``"dropped"`` (stopped responses count nothing), and the objectives.
    """
    found: dict[str, Floats] = {}
    full: list[TokenEpisode] = []
    for temperature in temperatures:
        episodes = evaluate_policy(
            for_evaluation(config, problem_seed),
            policy.model,
            policy.early_stopping,
            num_problems=num_problems,
            rollouts_per_prompt=rollouts_per_prompt,
            sampling=SamplingSettings(temperature=temperature),
            stops="mark",
        ).episodes
        rewards = leave_one_out(episodes, rollouts_per_prompt)
        (found[str(temperature)],) = gradients(policy.model, episodes, [rewards], groups, temperature)
        full = full or (episodes if temperature == 1.0 else [])
    settings, short = replace(config.credit_settings, stop_credit="reward", stop_weight=1.0), [*map(stopped, full)]
    treatments = {
        "PPO": coefficients(full, settings),
        "stopped": coefficients(short, settings),
        "dropped": coefficients(short, replace(settings, stop_weight=0.0)),
    }
    found |= zip(treatments, gradients(policy.model, full, [*treatments.values()], groups), strict=True)
    count = {name: sum(map(len, columns)) for name, columns in treatments.items()}
    return Directions(
        {(a, b): found[a].astype(np.float64) @ found[b].astype(np.float64).T for a in found for b in found},
        {name: number / count["PPO"] for name, number in count.items()},
        len(full) // groups,
    )


def table(directions: Directions, batch: int) -> str:
    """Cosines, and progress against PPO's with standard errors, by what a stop counts for."""
    header = ["", "tokens", *(f"cosine, T = {t}" for t in TEMPERATURES), *(f"gain, T = {t}" for t in TEMPERATURES)]
    rows = []
    for label, name, weighted in [
        ("PPO", "PPO", directions),
        *((f"stops count {weight:g}", "weighted", directions.weighted(weight)) for weight in WEIGHTS),
    ]:
        gains = [weighted.gain(name, "PPO", str(t), batch) for t in TEMPERATURES]
        rows.append(
            [
                label,
                f"{weighted.tokens[name]:.1%}",
                *(f"{weighted.cosine(name, str(t)):.3f}" for t in TEMPERATURES),
                *(f"{100 * gain:+.1f} ± {100 * error:.1f} %" for gain, error in gains),
            ]
        )
    return format_table(header, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What stops do to the direction of an update, by what they count for.")
    parser.add_argument("family", choices=FAMILIES, help="task family")
    parser.add_argument("--iterations", type=int, default=20, help="of plain PPO before it is measured (default: 20)")
    parser.add_argument("--problems", type=int, default=1024, help="evaluation problems, 8 responses each")
    parser.add_argument("--output", type=Path, default=Path(OUTPUT), help=f"folder of the starts (default: {OUTPUT})")
    parser.add_argument(
        "--set", type=parse_setting, action="append", default=[], metavar="NAME=VALUE", help="of ESPOConfig"
    )
    options = parser.parse_args()
    family = FAMILIES[options.family]
    planned = build_config(task=family.task, iterations=family.iterations, output=options.output)
    # Marks alone: this is plain PPO.
    training = with_settings(planned, {**family.settings, **dict(options.set), "shadow_fraction": 1.0})
    algo = training.build_algo()
    for _ in range(options.iterations):
        algo.train()
    batch_size = training.total_train_batch_size
    measured = measure_directions(training, algo.policy(), num_problems=options.problems)
    algo.stop()
    given = "".join(f", {name}={value}" for name, value in options.set)
    print(f"{options.family}{given} after {options.iterations} iterations; batches of {batch_size} responses\n")
    print(table(measured, batch_size))
