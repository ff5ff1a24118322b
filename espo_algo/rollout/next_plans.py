"""Which responses of a run come next.

- :class:`NextPlans`: hands out the plans of a run in their order, and remembers how far it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.plans import Planner, ResponsePlan
from espo_algo.rollout.prompt_success import PromptSuccess

__all__ = ["NextPlans"]


class NextPlans:
    """The plans of a run, each handed out once, with what is known of its problem by then.

    Args:
        planner: Says what the ``n``-th response is.

    Attributes:
        number: The number of the next plan: so many were handed out.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._prompt_success = PromptSuccess()
        self.number = 0

    def take(self, count: int, *, all_marked: bool = False) -> list[ResponsePlan]:
        """The next plans.

        Args:
            count: How many.
            all_marked: Stops are only marked, in all of them: every response runs on.
        """
        first, self.number = self.number, self.number + count
        planner = replace(self._planner, shadow_fraction=1.0) if all_marked else self._planner
        return [
            replace(plan, prompt_success=self._prompt_success.rate(plan.problem_index))
            for plan in planner.plans(range(first, self.number))
        ]

    def answered(self, episodes: Iterable[TokenEpisode]) -> None:
        """Takes in what came of plans; what was lost tells nothing of its problem."""
        self._prompt_success.update(episode for episode in episodes if episode.is_trainable)

    def get_state(self) -> dict[str, Any]:
        """How far the run is, and what is known of its problems."""
        return {"responses_planned": self.number, "prompt_success": self._prompt_success.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` gave."""
        self.number = state["responses_planned"]
        self._prompt_success.set_state(state["prompt_success"])
