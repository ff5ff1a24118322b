"""What stopping could save at best on a task: tokens that failing responses write behind their first error.

- :func:`failure_tails`: measured on responses that ran on.
- :class:`FailureTails`: lengths of right and failing responses, and the oracle's saving.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from espo_env.tasks import Task
from espo_env.types import StopReason, Trajectory

__all__ = ["FailureTails", "failure_tails"]


@dataclass(frozen=True, slots=True)
class FailureTails:
    """Lengths of right and of failing responses, and where the failing ones went wrong.

    Attributes:
        right_length: Mean length of right responses, tokens; NaN where there is none.
        failed_length: Mean length of failing responses, tokens; NaN where there is none.
        first_error: Mean number of tokens in front of a failing response's first error; NaN where there is none.
        oracle_saving: Share of all tokens that stand behind the first error of a failing response: what is saved by an
            oracle that stops every failing response at its first wrong token, which is still written, and no other.
    """

    right_length: float
    failed_length: float
    first_error: float
    oracle_saving: float

    @property
    def half_saving(self) -> float:
        """Half of the oracle's saving."""
        return self.oracle_saving / 2


def failure_tails(task: Task, responses: Sequence[Trajectory]) -> FailureTails:
    """Measures the tails of failing responses.

    Args:
        task: Knows the first wrong token (:meth:`espo_env.tasks.Task.first_error`).
        responses: With their problems; none of them stopped early. Those that were lost are left out.

    Raises:
        ValueError: If there is none, or one was stopped.
    """
    if stopped := sum(response.stop_reason is StopReason.REGRET for response in responses):
        raise ValueError(f"expected responses that ran on, got {stopped} that were stopped")
    finished = [r for r in responses if r.stop_reason in (StopReason.EOS, StopReason.LENGTH)]
    if not finished:
        raise ValueError(f"expected at least one finished response, got none among {len(responses)}")
    right, failed, before, behind = [], [], [], 0
    for response in finished:
        if response.correct:
            right.append(len(response))
            continue
        failed.append(len(response))
        if response.problem is None:
            raise ValueError("expected responses with their problems, got one without")
        error = task.first_error(response.problem, response.response_tokens)
        if error >= 0:
            before.append(error)
            behind += len(response) - (error + 1)
    return FailureTails(_mean(right), _mean(failed), _mean(before), behind / max(1, sum(right) + sum(failed)))


def _mean(lengths: Sequence[int]) -> float:
    return sum(lengths) / len(lengths) if lengths else math.nan
