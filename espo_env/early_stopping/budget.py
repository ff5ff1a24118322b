"""The tolerance ``beta`` under a budget of wrong stops.

- :class:`FalsePositiveController`: the lowest ``beta`` whose stops are known well enough to be rarely wrong.
- :class:`AuditedResponse`: what it keeps of a response that ran on.
- :func:`upper_bound`: Clopper and Pearson's bound of a share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["AuditedResponse", "FalsePositiveController", "upper_bound"]

_ROUNDING = 1e-6
"""How far below a response's critical ``beta`` one is that stops it for certain: the detector works in float32."""


class AuditedResponse(NamedTuple):
    """A response that ran to its end, whatever the detector said.

    Attributes:
        critical: The highest ``beta`` at which it would have been stopped, see :func:`critical_betas`.
        known_from: The lowest ``beta`` whose stops it is a fair sample of: ``-inf`` where it was let run from its
            beginning, the ``beta`` of the time where it was let run because it was marked.
        correct: Whether its answer was right: stopping it would have been wrong.
    """

    critical: float
    known_from: float
    correct: bool


@dataclass(frozen=True, slots=True)
class FalsePositiveController:
    """Stops as many responses as it can while wrong stops stay below a budget, and none before it knows.

    Every response that ran to its end tells what each ``beta`` would have done to it. So the last ``window`` of them
    give, for each ``beta``, ``n`` stops of which ``k`` would have been right; the lowest ``beta`` (the highest stop
    rate) is taken at which the upper confidence bound of ``k / n`` is within the budget. With a budget of 3 % and
    95 % confidence it takes 99 stops without a wrong one, or 157 with one. As the policy improves, fewer of its
    responses fail and more of a given ``beta``'s stops would be wrong: the stop rate falls off by itself, to nothing
    in the end. A controller that is given a rate cannot do that.

    Two approximations: what a response would have met is worked out once, with the statistics and values of its own
    time; and the bound holds for each ``beta`` by itself, while the lowest one is chosen after looking.

    Attributes:
        beta: The tolerance now. Nothing is stopped at it while :attr:`may_stop` is False, as at the start.
        budget: Highest share of wrong stops among all stops, in (0, 1).
        confidence: Of the bound, in (0, 1).
        window: How many responses are remembered, the newest ones; >= 1. A long one knows more, a short one forgets a
            policy that is no more.
        bounds: Lowest and highest ``beta``; where the lowest good one lies outside, it is not taken.
        may_stop: Whether the evidence allows stops at ``beta``.
        audited: The responses remembered, oldest first.

    Raises:
        ValueError: If one of them is out of its range.
    """

    beta: float = 7.0
    budget: float = 0.03
    confidence: float = 0.95
    window: int = 1024
    bounds: tuple[float, float] = (0.05, 50.0)
    may_stop: bool = False
    audited: tuple[AuditedResponse, ...] = ()

    def __post_init__(self) -> None:
        for name in ("budget", "confidence"):
            if not 0.0 < (share := getattr(self, name)) < 1.0:
                raise ValueError(f"expected a {name} in (0, 1), got {share}")
        if self.window < 1:
            raise ValueError(f"expected an audit window >= 1, got {self.window}")
        low, high = self.bounds
        if not low <= high:
            raise ValueError(f"expected bounds with low <= high, got {self.bounds}")
        if not low <= self.beta <= high:
            raise ValueError(f"expected beta within bounds {self.bounds}, got {self.beta}")

    def updated(self, responses: Iterable[AuditedResponse]) -> FalsePositiveController:
        """The controller after a batch.

        Args:
            responses: Those of the batch that ran to their end and may be learnt from.
        """
        audited = (*self.audited, *responses)[-self.window :]
        chosen = self._lowest_beta(audited)
        beta = self.beta if chosen is None else chosen
        return replace(self, audited=audited, may_stop=chosen is not None, beta=beta)

    @property
    def bound(self) -> float:
        """Upper confidence bound of the share of wrong stops at ``beta``; 1 where nothing is known about it."""
        stops, wrong = _count(self.audited, np.array([self.beta]))
        return float(upper_bound(wrong, stops, self.confidence)[0])

    def _lowest_beta(self, audited: tuple[AuditedResponse, ...]) -> float | None:
        """The lowest good ``beta``, just low enough to stop one more of the responses; None where there is none."""
        low, high = self.bounds
        critical = np.array([response.critical for response in audited], np.float64)
        critical = np.minimum(critical[critical >= low], high + 1)  # where all betas fire, the highest one does
        betas = np.unique(np.minimum(critical - _ROUNDING * np.abs(critical), high))
        betas = betas[betas >= low]
        stops, wrong = _count(audited, betas)
        good = betas[upper_bound(wrong, stops, self.confidence) <= self.budget]
        return float(good[0]) if len(good) else None


def upper_bound(hits: NDArray[np.int64], trials: NDArray[np.int64], confidence: float) -> NDArray[np.float64]:
    """One-sided upper confidence bound of a share after ``hits`` in ``trials`` (Clopper and Pearson, 1934).

    Exact: whatever the share is, the bound lies below it in at most ``1 - confidence`` of all cases.

    Args:
        hits: Shape (n,).
        trials: Shape (n,), at least the hits.
        confidence: In (0, 1).

    Returns:
        Shape (n,), in (0, 1]; 1 without a trial, or where all of them hit.
    """
    from scipy.special import betaincinv  # takes as long to import as all the rest, and only a budget needs it

    missed = trials - hits
    return np.where(missed > 0, betaincinv(hits + 1, np.maximum(missed, 1), confidence), 1.0)


def _count(
    audited: tuple[AuditedResponse, ...], betas: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Stops at each ``beta``, and how many of them would have been wrong, among the responses that may tell."""
    critical, known_from, correct = np.array(audited, np.float64).reshape(-1, 3).T

    def stopped(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        # critical > beta >= known_from: those above beta, less those of which both numbers are.
        return _above(critical[chosen], betas) - _above(np.minimum(critical, known_from)[chosen], betas)

    return stopped(correct >= 0), stopped(correct > 0)


def _above(numbers: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many numbers lie above each limit."""
    return len(numbers) - np.searchsorted(np.sort(numbers), limits, side="right")
