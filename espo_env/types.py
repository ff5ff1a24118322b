"""The words and records that the whole project shares.

Glossary
--------
problem
    What a :class:`~espo_env.tasks.Task` poses: a prompt, a reference answer, a reference solution.
response
    The tokens a policy writes after the prompt. Step ``t`` writes ``response_tokens[t]``.
step regret ``g_t``
    ``max_a log pi(a|s_t) - log pi(a_t|s_t)``, at the temperature the token was sampled with. Never negative.
value ``V(s_t)``
    The critic's estimate in the state *before* token ``t``: from the hidden state that gave token ``t``'s logits.
``z_t``
    The smoothed, normalised regret. A stop rule compares it with a *threshold* that grows with the value.
tolerance ``beta``
    The factor of the threshold. A controller raises it when too many responses are stopped.
stop
    A response that the detector ended. The transition is absorbing: ``terminated``, reward ``fail_reward``.
mark
    A stop that was only written down while the response ran on (shadow continuation). Marks are how false
    positives are measured.
false positive
    A marked response whose answer turned out right.
segment
    The tokens of a response that the same weights wrote; one that was carried on has several.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from espo_env.tasks.base import Problem

__all__ = ["TRACE_COLUMNS", "PolicySignals", "Segment", "StopReason", "Trajectory"]

TRACE_COLUMNS = ("logprobs", "regrets", "values", "z", "thresholds")
"""Fields of a :class:`Trajectory` that an engine measures at every token, in the order in which engines keep them."""


class StopReason(enum.StrEnum):
    """Why a response ended. Every response has exactly one."""

    EOS = "eos"
    """The policy wrote the end-of-sequence token; the answer is graded."""
    LENGTH = "length"
    """The horizon was reached. Terminal with reward 0, or a truncation on request; never graded."""
    REGRET = "regret"
    """The failure detector stopped it. Terminal with reward ``fail_reward``; nothing is generated after it."""
    ABORT = "abort"
    """The caller gave it up (shutdown, time limit). Counted, never trained on."""
    ERROR = "error"
    """The environment, grader or engine failed on it. Counted, never trained on."""


@dataclass(slots=True)
class PolicySignals:
    """A sampled token (or one for each of ``n`` slots) with its regret and value, which sampling has computed.

    Attributes:
        token: Sampled token id, int or int array of shape (n,).
        regret: Step regret in nats, float or float array of shape (n,), >= 0.
        value: Critic value before the token, float or float array of shape (n,), in units of reward.
    """

    token: Any
    regret: Any
    value: Any


class Segment(NamedTuple):
    """Tokens of a response that stand behind each other, and what they were written with.

    Attributes:
        tokens: How many.
        version: Of the weights.
        stopping: Whether the detector was to fire at all (``DetectorState.enabled``).
    """

    tokens: int
    version: int
    stopping: bool


def _no_floats() -> NDArray[np.float32]:
    return np.zeros(0, np.float32)


@dataclass(slots=True, eq=False)
class Trajectory:
    """One response, as columns of length ``T`` (the number of tokens written).

    Columns that nobody measured are empty, never filled up with zeros.
    """

    prompt_tokens: NDArray[np.int32]
    """Shape (P,)."""
    response_tokens: NDArray[np.int32]
    """Shape (T,). The end-of-sequence token, if written, is the last one."""
    stop_reason: StopReason
    reward: float = 0.0
    """Reward of the last transition; every earlier reward is 0."""
    logprobs: NDArray[np.float32] = field(default_factory=_no_floats)
    """Behaviour log-probabilities at the sampling temperature, shape (T,), nats."""
    regrets: NDArray[np.float32] = field(default_factory=_no_floats)
    """Step regrets, shape (T,), nats."""
    values: NDArray[np.float32] = field(default_factory=_no_floats)
    """Critic values before each token, shape (T,)."""
    z: NDArray[np.float32] = field(default_factory=_no_floats)
    """Smoothed normalised regret (the stop rule's score), shape (T,)."""
    thresholds: NDArray[np.float32] = field(default_factory=_no_floats)
    """What ``z`` was compared with, shape (T,)."""
    mark: int = -1
    """First step at which the detector fired, -1 if it never did. With ``stop_reason`` REGRET it is ``T - 1``."""
    shadow: bool = False
    """Whether it was let run from its beginning: a stop would only have been marked."""
    prompt_success: float = 1.0
    """How often other responses to the prompt were right, as the stop rule was told; 1 where nobody knew."""
    truncated: bool = False
    """Whether the response was cut from outside, so that a learner bootstraps behind its last state."""
    correct: bool | float | None = None
    """The grader's verdict, or the share of the reward that it gave; None where nothing was graded."""
    problem: Problem | None = None
    segments: tuple[Segment, ...] = ()
    """What wrote which of its tokens, the oldest first; empty where nobody says."""

    def __len__(self) -> int:
        return len(self.response_tokens)

    @property
    def terminated(self) -> bool:
        """Whether the last state is absorbing, so that nothing is bootstrapped behind it."""
        return not self.truncated and self.stop_reason in (StopReason.EOS, StopReason.REGRET, StopReason.LENGTH)
