"""Which responses are collected: problem, seed, group and mark of each, for training and evaluation alike.

- :class:`ResponsePlan`: one response to collect.
- :class:`Planner`: the plan of the ``n``-th response of a run.
- :func:`share_out`: which of a number of runners answers which. :func:`quotas`: how many of them each has to finish.
- :func:`tokens_written`: what was written for plans by now.

A plan depends on the run's seed and its number alone, on no runner, batch or engine. So a restored run goes on where it
was, and two policies are compared on the same problems with the same luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from espo_algo.rollout.noise import SHADOW, stream
from espo_algo.rollout.partial import Answer, PartialResponse

__all__ = ["Planner", "ResponsePlan", "quotas", "share_out", "tokens_written"]


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """One response to collect.

    Attributes:
        problem_index: Index in the environment's split.
        seed: Sampling seed.
        group: Number of the prompt in the run; the responses to it share the number.
        mark_only: Only mark where the detector fires.
        pilot: It runs on, and the others to its prompt wait for its grade, see
            :class:`~espo_algo.rollout.prompt_success.PilotQueue`.
        prompt_success: How often other responses to the problem were right, in [0, 1]; 1 where nobody knows.
        partial: What there is of the response already; None where it is to begin.
        awaited: A rollout goes on until it is over, however many others are.
    """

    problem_index: int
    seed: int
    group: int = 0
    mark_only: bool = False
    pilot: bool = False
    prompt_success: float = 1.0
    partial: PartialResponse | None = None
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans the responses of a run.

    Attributes:
        problem_of: Index of the problem that the ``i``-th prompt poses, for every ``i >= 0``.
        seed: Seed of the responses.
        rollouts_per_prompt: Responses to each problem; they stand behind each other.
        shadow_fraction: Share of the responses on which a stop is only marked, drawn response by response from a stream
            of its own: 0 for none, 1 for all.
        pilots: How many of the responses to each problem are pilots.
    """

    problem_of: Callable[[int], int]
    seed: int
    rollouts_per_prompt: int = 1
    shadow_fraction: float = 0.0
    pilots: int = 0

    def plans(self, numbers: Iterable[int]) -> list[ResponsePlan]:
        """The plans of these responses of the run, counted from 0."""
        return [self._plan(int(number)) for number in numbers]

    def _plan(self, number: int) -> ResponsePlan:
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)[0] >> 1)
        group = number // self.rollouts_per_prompt
        # Nothing is drawn where all or none are marked.
        mark_only = self.shadow_fraction > 0 and (
            self.shadow_fraction >= 1 or stream(seed, SHADOW).random() < self.shadow_fraction
        )
        pilot = number % self.rollouts_per_prompt < self.pilots
        return ResponsePlan(self.problem_of(group), seed, group, mark_only or pilot, pilot)


def share_out(plans: Sequence[ResponsePlan], count: int) -> list[list[int]]:
    """Deals plans prompt by prompt: some responses to a prompt may wait for what the others turn out to be.

    Args:
        plans: What there is to answer.
        count: Number of runners, >= 1.

    Returns:
        For each runner the places of its plans, in their order.
    """
    turns: dict[int, int] = {}
    shares: list[list[int]] = [[] for _ in range(count)]
    for place, plan in enumerate(plans):
        shares[turns.setdefault(plan.group, len(turns)) % count].append(place)
    return shares


def quotas(sizes: Sequence[int], enough: int) -> list[int]:
    """How many of its plans each runner has to finish, in proportion to how many it has.

    Args:
        sizes: Plans of each runner.
        enough: What the quotas add up to, at most all of them.
    """
    total, before, shares = max(1, sum(sizes)), 0, []
    for size in sizes:
        shares.append(enough * (before + size) // total - enough * before // total)
        before += size
    return shares


def tokens_written(plans: Iterable[ResponsePlan], answers: Iterable[Answer]) -> int:
    """Tokens that were written for plans, without those that a response had before; as many answers as plans."""
    return sum(
        max(0, len(answer) - (0 if plan.partial is None else len(plan.partial)))  # a lost one may have none at all
        for plan, answer in zip(plans, answers, strict=True)
    )
