"""How often a prompt's responses have been right.

- :class:`PromptSuccess`: running success rates of problems, over the visits of a run.
- :class:`PilotQueue`: the order of plans where the first responses to a prompt tell about the others.

Stop rules see the rate as ``RuleInputs.prompt_success``: a critic's value for those who have no critic.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.plans import ResponsePlan

__all__ = ["PilotQueue", "PromptSuccess"]

_DECAY = 0.5
"""What a visit weighs at the next one: the policy has changed since."""
_MOST_PROBLEMS = 1 << 16


@dataclass
class PromptSuccess:
    """Running success rates of problems: ``(1 + right) / (1 + responses)``, old visits counted less and less.

    So a problem that was never seen has rate 1 (nothing is held against it), and one response does not decide. A
    stopped response counts as not right. The problems seen last are remembered, 65,536 at most.

    Attributes:
        counts: Index of a problem -> its right responses and all of them, weighted; the problem seen last comes last.
    """

    counts: OrderedDict[int, tuple[float, float]] = field(default_factory=OrderedDict)

    def rate(self, index: int) -> float:
        """The success rate of a problem, in (0, 1]."""
        right, responses = self.counts.get(index, (0.0, 0.0))
        return (1.0 + right) / (1.0 + responses)

    def update(self, episodes: Iterable[TokenEpisode]) -> None:
        """Takes in a batch of graded or stopped responses; those to one problem are one visit."""
        visits: dict[int, list[bool]] = {}
        for episode in episodes:
            if episode.problem is not None:
                visits.setdefault(episode.problem.index, []).append(episode.correct is True)
        for index, outcomes in visits.items():
            right, responses = self.counts.pop(index, (0.0, 0.0))
            self.counts[index] = _DECAY * right + sum(outcomes), _DECAY * responses + len(outcomes)
        while len(self.counts) > _MOST_PROBLEMS:
            self.counts.popitem(last=False)

    def get_state(self) -> NDArray[np.float64]:
        """Index, right responses and all responses of each problem, shape (n, 3); indices are exact below 2**53."""
        return np.array([(index, *counts) for index, counts in self.counts.items()], np.float64).reshape(-1, 3)

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Takes over what :meth:`get_state` gave."""
        self.counts = OrderedDict((int(index), (right, responses)) for index, right, responses in state.tolist())


class PilotQueue:
    """Hands out plans: pilots first, the others of their prompt when all of its pilots are graded.

    No slot idles for it as long as there are pilots, or prompts whose pilots are through.

    Args:
        plans: In the order in which they are answered otherwise. An episode's ``request_id`` is its plan's number.

    Attributes:
        plans: As given, but that the pilots' share of right answers becomes the ``prompt_success`` of the others.
        num_held: Plans that wait for pilots.
    """

    def __init__(self, plans: Sequence[ResponsePlan]) -> None:
        self.plans = list(plans)
        self._missing: dict[int, int] = {}
        for plan in plans:
            if plan.pilot:
                self._missing[plan.group] = self._missing.get(plan.group, 0) + 1
        self._outcomes: dict[int, list[bool]] = {group: [] for group in self._missing}
        self._held: dict[int, list[int]] = {group: [] for group in self._missing}
        self._ready: deque[int] = deque()
        for number, plan in enumerate(plans):
            if plan.group in self._held and not plan.pilot:
                self._held[plan.group].append(number)
            else:
                self._ready.append(number)
        self.num_held = len(plans) - len(self._ready)

    def take(self, count: int) -> list[int]:
        """The numbers of the next plans, at most ``count``."""
        return [self._ready.popleft() for _ in range(min(count, len(self._ready)))]

    def __len__(self) -> int:
        """Plans that can be answered now."""
        return len(self._ready)

    def answered(self, episode: TokenEpisode) -> None:
        """Takes note of a response that is graded, stopped or lost; a lost pilot has no say."""
        plan = self.plans[episode.request_id]
        if not plan.pilot:
            return
        if episode.is_trainable:
            self._outcomes[plan.group].append(episode.correct is True)
        self._missing[plan.group] -= 1
        if self._missing[plan.group]:
            return
        outcomes = self._outcomes[plan.group]
        held = self._held.pop(plan.group)
        self.num_held -= len(held)
        for other in held:
            if outcomes:
                self.plans[other] = replace(self.plans[other], prompt_success=sum(outcomes) / len(outcomes))
            self._ready.append(other)
