"""The failure detector (algorithm steps 2 to 4; arXiv 2605.29860).

- :class:`FailureDetector`: ``z`` for each slot, and the decision to stop.
- :class:`Verdict`: what one update says.

The one piece of code that decides a stop: the Gymnasium wrappers and every engine call it. It is written in
operations that numpy and torch share, each rounded on its own, so that float32 inputs give the same ``z`` in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from espo_env.early_stopping.regret import RegretStatistics
from espo_env.early_stopping.rules import RuleInputs, get_stop_rule

__all__ = ["DEFAULT_CLIP", "DEFAULT_DELTA", "FailureDetector", "Verdict"]

DEFAULT_CLIP = 10.0
"""Bound ``c`` of the normalised regret. Not published; below 5 harmless free choices get stopped too."""
DEFAULT_DELTA = 1e-6
"""``delta`` under the root. Not published; only guards a variance of zero."""


@dataclass(slots=True)
class Verdict:
    """One step's decisions, numpy arrays or torch tensors of shape (n,), in the order of the slots given.

    Attributes:
        stop: bool; stop this response at this step.
        z: The rule's score (``z_t`` for the regret rules).
        threshold: ``beta * gate``, what the score was compared with.
    """

    stop: Any
    z: Any
    threshold: Any


class FailureDetector:
    """Tracks the smoothed regret of ``num_slots`` responses at once and says which to stop.

    Args:
        num_slots: Number of slots, >= 1.
        statistics: Frozen mean and variance that regrets are normalised with.
        beta: Tolerance; 7.0 in the paper. Does not transfer to other scales, see ``calibrate_beta``.
        smoothing: Weight ``s`` of the old ``z``; 0.9 in the paper, in [0, 1).
        value_floor: ``eps`` of the value gate; 0.2 in the paper, > 0.
        clip: Bound ``c`` of the normalised regret, > 0 (not published).
        delta: Added to the variance, > 0 (not published).
        enabled: False while the critic warms up: ``z`` is tracked, nothing is stopped.
        rule: Name of a stop rule, see :mod:`espo_env.early_stopping.rules`.
        seed: Seeds the draws of the ``random`` rule where :meth:`reset` is given none.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        num_slots: int,
        statistics: RegretStatistics | None = None,
        beta: float = 7.0,
        smoothing: float = 0.9,
        value_floor: float = 0.2,
        clip: float = DEFAULT_CLIP,
        delta: float = DEFAULT_DELTA,
        enabled: bool = True,
        rule: str = "regret_value",
        seed: int | None = None,
    ) -> None:
        if num_slots < 1:
            raise ValueError(f"expected num_slots >= 1, got {num_slots}")
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"expected smoothing in [0, 1), got {smoothing}")
        for name, number in (("value_floor", value_floor), ("clip", clip), ("delta", delta)):
            if not number > 0:
                raise ValueError(f"expected {name} > 0, got {number}")
        if not math.isfinite(beta):
            raise ValueError(f"expected a finite beta, got {beta}")
        self.num_slots = num_slots
        self.smoothing = smoothing
        self.value_floor = value_floor
        self.clip = clip
        self.delta = delta
        self.rule = rule
        self._rule = get_stop_rule(rule)
        self._rng = np.random.default_rng(seed)
        self._z: Any = np.zeros(num_slots, np.float32)
        self._steps: Any = np.zeros(num_slots, np.float32)
        self._draws: Any = self._rng.exponential(size=num_slots).astype(np.float32)
        self.configure(statistics or RegretStatistics(), beta, enabled)

    def configure(self, statistics: RegretStatistics, beta: float, enabled: bool) -> None:
        """Takes a new batch's statistics, tolerance and warm-up flag. The slots' ``z`` stays."""
        self.statistics = statistics
        self.beta = beta
        self.enabled = enabled
        self._scale = math.sqrt(statistics.var + self.delta)

    def reset(self, slots: Any = None, draws: Any = None) -> None:
        """Starts new responses: ``z_{-1} = 0``.

        Args:
            slots: Indices of the slots, shape (n,), numpy or torch, or None for all.
            draws: Exp(1) variates for the ``random`` rule, shape (n,), numpy or torch; drawn here where None.
        """
        index = slice(None) if slots is None else slots
        if draws is None:
            count = self.num_slots if slots is None else len(slots)
            draws = self._rng.exponential(size=count).astype(np.float32)
        self._follow(draws)
        if not isinstance(self._z, np.ndarray):
            import torch  # numpy users never reach this line

            draws = torch.as_tensor(draws, dtype=torch.float32, device=self._z.device)
        self._z[index] = 0.0
        self._steps[index] = 0.0
        self._draws[index] = draws

    def update(self, regrets: Any, values: Any, slots: Any = None) -> Verdict:
        """Takes one step of every response given.

        The caller keeps a stop from being taken on the end-of-sequence token: that answer is finished.

        Args:
            regrets: Step regrets, shape (n,), float32, numpy or torch. They are not checked here: the engines would
                pay a device synchronisation for it; the Gymnasium wrappers check.
            values: ``V(s_t)``, shape (n,), same kind.
            slots: Slot of each row, shape (n,) without repeats, or a slice; None for all slots in order.

        Returns:
            The verdicts in the order of ``slots``.
        """
        self._follow(regrets)
        index = slice(None) if slots is None else slots
        normalised = ((regrets - self.statistics.mean) / self._scale).clip(-self.clip, self.clip)
        z = self.smoothing * self._z[index] + (1.0 - self.smoothing) * normalised
        steps = self._steps[index]
        score, gate = self._rule(RuleInputs(z, values, steps, self._draws[index], self.value_floor))
        threshold = self.beta * gate
        self._z[index] = z
        self._steps[index] = steps + 1.0
        stop = score > threshold
        return Verdict(stop if self.enabled else stop & False, score, threshold)

    def move(self, source: int, target: int) -> None:
        """Copies the state of slot ``source`` to slot ``target``, for engines that keep live slots together."""
        for column in (self._z, self._steps, self._draws):
            column[target] = column[source]

    def _follow(self, like: Any) -> None:
        """Numpy state becomes torch tensors on the device of the first torch input."""
        if isinstance(self._z, np.ndarray) and hasattr(like, "new_tensor"):
            for name in ("_z", "_steps", "_draws"):
                setattr(self, name, like.new_tensor(getattr(self, name)))
