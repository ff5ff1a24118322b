"""The responses of a run that were begun and are not learnt from yet, from one iteration to the next.

- :class:`Asked`: what a rollout is asked.
- :class:`Carried`: hands out what is carried on, then new plans; keeps what is left, and picks what is learnt from.

With a fraction ``f`` of unfinished responses ``(1 + f)`` batches of them are in flight, and a rollout ends when a batch
of them is over. The others are carried on by the next weights, the oldest plans first. Two rules keep it honest:

- One that was carried over as many updates as are allowed is awaited, and is learnt from in that batch: so nothing
  starves, and no token is older than that.
- The plans of a run's first batch are awaited, all of them: what is over first is short, and the detector's statistics
  start from that batch.

Runners keep nothing: whatever is here is in the checkpoint, and any runner can go on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.next_plans import NextPlans
from espo_algo.rollout.plans import ResponsePlan
from espo_algo.rollout.runners import Answers

__all__ = ["Asked", "Carried"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a rollout is asked.

    Attributes:
        numbers: Of the plans in the run, ascending.
        plans: With what there is of their responses.
        enough: How many of them have to be over.
    """

    numbers: Sequence[int]
    plans: Sequence[ResponsePlan]
    enough: int


class Carried:
    """Plans of a run by their number, each with its response: one that is unfinished, or over before its batch.

    Without a fraction of unfinished responses nothing is ever left.
    """

    def __init__(self) -> None:
        self._unfinished: dict[int, ResponsePlan] = {}
        self._finished: dict[int, tuple[ResponsePlan, TokenEpisode]] = {}

    @property
    def num_unfinished(self) -> int:
        """Responses to be carried on, those included that nobody has begun."""
        return len(self._unfinished)

    @property
    def num_finished(self) -> int:
        """Responses that are over, and are learnt from later."""
        return len(self._finished)

    def ask(
        self,
        plans: NextPlans,
        count: int,
        version: int,
        *,
        fraction: float = 0.0,
        max_updates: int = 0,
        all_marked: bool = False,
    ) -> Asked:
        """What is to be answered next; it is the caller's until :meth:`pick` or :meth:`ask_again`.

        Args:
            plans: Where new ones come from.
            count: Responses of the batch.
            version: Of the weights that answer.
            fraction: How many more are in flight, as a share of the batch.
            max_updates: Over how many updates a response is carried at most.
            all_marked: As for :meth:`~espo_algo.rollout.next_plans.NextPlans.take`; for the new ones.
        """
        # Weights that were restored alone are others than the next ones: such a response is written anew.
        for number, (plan, episode) in [*self._finished.items()]:
            if not 0 <= version - episode.first_version <= max_updates:
                self._unfinished[number] = plan
                del self._finished[number]
        asked = {}
        for number, plan in self._unfinished.items():
            age = version - plan.partial.first_version if plan.partial else 0
            partial = plan.partial if 0 <= age <= max_updates else None
            asked[number] = replace(plan, partial=partial, awaited=number < count or age >= max_updates)
        self._unfinished = {}
        first_new = plans.number
        new = max(0, count + round(fraction * count) - len(asked) - len(self._finished))
        for number, plan in enumerate(plans.take(new, all_marked=all_marked), first_new):
            asked[number] = replace(plan, awaited=number < count)
        numbers = sorted(asked)
        return Asked(numbers, [asked[number] for number in numbers], max(0, count - len(self._finished)))

    def pick(
        self, asked: Asked, answers: Answers, count: int, version: int, max_updates: int = 0
    ) -> dict[int, TokenEpisode]:
        """Takes in what came, and gives out what is learnt from now: at most ``count``, by number, in the plans' order.

        Those that were lost with their runners are forgotten.

        Args:
            asked: By :meth:`ask`.
            answers: To its plans.
            count: As there.
            version: As there.
            max_updates: As there.
        """
        for place, episode in answers.episodes.items():
            self._finished[asked.numbers[place]] = replace(asked.plans[place], partial=None), episode
        for place, partial in answers.unfinished.items():
            self._unfinished[asked.numbers[place]] = replace(asked.plans[place], partial=partial)

        def turn(number: int) -> tuple[bool, int]:
            due = number < count or version - self._finished[number][1].first_version >= max_updates
            return not due, number

        return {number: self._finished.pop(number)[1] for number in sorted(sorted(self._finished, key=turn)[:count])}

    def ask_again(self, asked: Asked) -> None:
        """Takes plans back whose answers are not wanted; they are answered from the beginning."""
        self._unfinished |= {
            number: replace(plan, partial=None) for number, plan in zip(asked.numbers, asked.plans, strict=True)
        }

    def get_state(self) -> dict[str, Any]:
        """All of it."""
        return {"unfinished": dict(self._unfinished), "finished": dict(self._finished)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` gave."""
        self._unfinished, self._finished = dict(state["unfinished"]), dict(state["finished"])
