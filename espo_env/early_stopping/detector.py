"""The failure detector (algorithm steps 2 to 4; arXiv 2605.29860).

- :class:`DetectorSettings`: the rule and its constants, fixed for a run.
- :class:`DetectorState`: what moves between batches, frozen while one is collected.
- :class:`FailureDetector`: the score of each slot, and where it fires.
- :class:`Verdict`: what one update says.

The one piece of code that says where a response fails: the Gymnasium wrappers and every engine call it. It is written
in operations that numpy and torch share, each rounded on its own, so that float32 inputs give the same ``z`` in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from espo_env.early_stopping.regret import RegretStatistics
from espo_env.early_stopping.rules import RuleInputs, get_stop_rule

__all__ = ["DEFAULT_CLIP", "DEFAULT_DELTA", "DetectorSettings", "DetectorState", "FailureDetector", "Gate", "Verdict"]

DEFAULT_CLIP = 10.0
"""Bound ``c`` of the normalised regret. Not published; below 5 harmless free choices get stopped too."""
DEFAULT_DELTA = 1e-6
"""``delta`` under the root. Not published; only guards a variance of zero."""

Gate = Literal["before", "after"]
"""Whose value a score is compared with: that of the state before the token, or that of the state behind it."""


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """Rule and constants of the failure detector.

    Attributes:
        rule: Name of a stop rule, or ``"module:function"``, see :mod:`espo_env.early_stopping.rules`.
        smoothing: Weight ``s`` of the old ``z``; 0.9 in the paper, in [0, 1).
        value_floor: ``eps`` of the value gate; 0.2 in the paper, > 0.
        clip: Bound ``c`` of the normalised regret, > 0 (not published).
        delta: Added to the variance, > 0 (not published).
        gate: ``"before"`` (the paper): ``z_t`` against ``V(s_t)``, the value before the token that moved ``z``.
            ``"after"``: ``z_{t-1}`` against ``V(s_t)``, which has seen that token; fires one token later.

    Raises:
        ValueError: If one of them is out of its range.
    """

    rule: str = "regret_value"
    smoothing: float = 0.9
    value_floor: float = 0.2
    clip: float = DEFAULT_CLIP
    delta: float = DEFAULT_DELTA
    gate: Gate = "before"

    def __post_init__(self) -> None:
        get_stop_rule(self.rule)
        if self.gate not in get_args(Gate):
            raise ValueError(f"expected gate 'before' or 'after', got {self.gate!r}")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"expected smoothing in [0, 1), got {self.smoothing}")
        for name in ("value_floor", "clip", "delta"):
            if not (number := getattr(self, name)) > 0:
                raise ValueError(f"expected {name} > 0, got {number}")


@dataclass(frozen=True, slots=True)
class DetectorState:
    """Statistics, tolerance and warm-up flag of the detector, frozen while a batch is collected.

    A decision may not see the future.

    Attributes:
        statistics: Mean and variance that regrets are normalised with.
        beta: Tolerance; 7.0 in the paper. Does not transfer to other scales, see ``calibrate_beta``.
        enabled: False while the critic warms up: scores are tracked, nothing fires.

    Raises:
        ValueError: If ``beta`` is not finite.
    """

    statistics: RegretStatistics = field(default_factory=RegretStatistics)
    beta: float = 7.0
    enabled: bool = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.beta):
            raise ValueError(f"expected a finite beta, got {self.beta}")


@dataclass(slots=True)
class Verdict:
    """One step's verdicts, numpy arrays or torch tensors of shape (n,), in the order of the slots given.

    Attributes:
        stop: bool; the detector fires. What comes of it, :func:`~espo_env.early_stopping.decide` says.
        score: The rule's score: ``z_t`` under the regret rules (``z_{t-1}`` with the gate after the token).
        threshold: ``beta * gate``, what the score was compared with.
    """

    stop: Any
    score: Any
    threshold: Any


class FailureDetector:
    """Tracks the smoothed regret of ``num_slots`` responses at once and says where one fails.

    Args:
        num_slots: Number of slots, >= 1.
        settings: Rule and constants; the paper's where None.
        state: Statistics, tolerance and warm-up flag to start with.
        seed: Seeds the draws of the ``random`` rule where :meth:`reset` is given none.

    Attributes:
        settings: As given.
        state: The newest one, see :meth:`configure`.

    Raises:
        ValueError: If ``num_slots`` is below 1.
    """

    settings: DetectorSettings
    state: DetectorState

    def __init__(
        self,
        num_slots: int,
        settings: DetectorSettings | None = None,
        state: DetectorState | None = None,
        seed: int | None = None,
    ) -> None:
        if num_slots < 1:
            raise ValueError(f"expected num_slots >= 1, got {num_slots}")
        self.num_slots = num_slots
        self.settings = settings or DetectorSettings()
        self._rule = get_stop_rule(self.settings.rule)
        self._rng = np.random.default_rng(seed)
        self._z: Any = np.zeros(num_slots, np.float32)
        self._steps: Any = np.zeros(num_slots, np.float32)
        self._draws: Any = self._rng.exponential(size=num_slots).astype(np.float32)
        self._success: Any = np.ones(num_slots, np.float32)
        self.configure(state or DetectorState())

    def configure(self, state: DetectorState) -> None:
        """Takes a new batch's statistics, tolerance and warm-up flag. The slots' ``z`` stays."""
        self.state = state
        self._scale = math.sqrt(state.statistics.var + self.settings.delta)

    def reset(
        self, slots: Any = None, draws: Any = None, prompt_success: Any = 1.0, z: Any = 0.0, steps: Any = 0.0
    ) -> None:
        """Starts new responses, ``z_{-1} = 0``, or goes on with responses that were begun elsewhere.

        Args:
            slots: Indices of the slots, shape (n,), numpy or torch, or None for all.
            draws: Exp(1) variates for the ``random`` rule, shape (n,), numpy or torch; drawn here where None.
            prompt_success: How often other responses to each prompt were right, in [0, 1], shape (n,), numpy or torch,
                or one number for all; 1 where nobody knows.
            z: Where responses go on: what :meth:`smoothed` gave, shape (n,), numpy or torch.
            steps: Tokens that each of them has by now, shape (n,), numpy or torch.
        """
        index = slice(None) if slots is None else slots
        if draws is None:
            count = self.num_slots if slots is None else len(slots)
            draws = self._rng.exponential(size=count).astype(np.float32)
        self._follow(draws)
        if not isinstance(self._z, np.ndarray):
            import torch  # numpy users never reach this line

            draws, prompt_success, z, steps = (
                torch.as_tensor(numbers, dtype=torch.float32, device=self._z.device)
                for numbers in (draws, prompt_success, z, steps)
            )
        self._z[index] = z
        self._steps[index] = steps
        self._draws[index] = draws
        self._success[index] = prompt_success

    def update(self, regrets: Any, values: Any, slots: Any = None) -> Verdict:
        """Takes one step of every response given.

        Whether a firing stops the response is for :func:`~espo_env.early_stopping.decide`.

        Args:
            regrets: Step regrets, shape (n,), float32, numpy or torch. They are not checked here: the engines would
                pay a device synchronisation for it; the Gymnasium wrappers check.
            values: ``V(s_t)``, shape (n,), same kind.
            slots: Slot of each row, shape (n,) without repeats, or a slice; None for all slots in order.

        Returns:
            The verdicts in the order of ``slots``.
        """
        self._follow(regrets)
        constants, state = self.settings, self.state
        index = slice(None) if slots is None else slots
        normalised = ((regrets - state.statistics.mean) / self._scale).clip(-constants.clip, constants.clip)
        before = self._z[index]
        z = constants.smoothing * before + (1.0 - constants.smoothing) * normalised
        steps = self._steps[index]
        judged = z if constants.gate == "before" else before * 1.0  # no view of what is written below
        score, gate = self._rule(
            RuleInputs(judged, values, steps, self._draws[index], self._success[index], constants.value_floor)
        )
        threshold = state.beta * gate
        self._z[index] = z
        self._steps[index] = steps + 1.0
        stop = score > threshold
        return Verdict(stop if state.enabled else stop & False, score, threshold)

    def smoothed(self, slots: Any) -> Any:
        """``z`` behind the last step of these slots, which is all that a response goes on with; shape (n,)."""
        return self._z[slots]

    def move(self, source: int, target: int) -> None:
        """Copies the state of slot ``source`` to slot ``target``, for engines that keep live slots together."""
        for column in (self._z, self._steps, self._draws, self._success):
            column[target] = column[source]

    def _follow(self, like: Any) -> None:
        """Numpy state becomes torch tensors on the device of the first torch input."""
        if isinstance(self._z, np.ndarray) and hasattr(like, "new_tensor"):
            for name in ("_z", "_steps", "_draws", "_success"):
                setattr(self, name, like.new_tensor(getattr(self, name)))
