"""What a stop is worth, and what the responses count for that ran on behind a mark; pure maths on numpy arrays.

- :class:`CreditSettings`: everything that credit depends on beside the responses.
- :class:`Responses`: a learner's share of a batch, as arrays.
- :class:`Credit`, :func:`assign_credit`: advantages, value targets and weights of its tokens.
- :func:`overlong_penalties`: DAPO's penalty near the horizon (Yu et al. 2025, arXiv 2503.14476).

Audited stops. A response is audited with probability ``p``, by a draw ``B`` of its own that is made before it is
written: it runs on behind its mark, and the others end there. With ``V`` of the state behind the marked token and the
return ``R`` of a response that runs on, ``V + (B / p) (R - V)`` stands for the return before the mark, and the loss of
the tokens behind it counts ``B / p`` times. Its expectation over ``B`` is ``R`` for any ``V``, so the sum of the
unclipped, unwhitened gradient at lambda 1 is, in the mean, that of training without stops. In GAE this is the
recursion's tail times ``B / p`` at the mark. The same weights estimate the critic's squared error: ``B / p`` for all
tokens of a marked response, so that its targets stay in the range of returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.advantages import AdvantageEstimator, AdvantageInputs
from espo_algo.schema import AuditWeighting, StopCredit
from espo_env.types import StopReason

__all__ = ["Credit", "CreditSettings", "Responses", "assign_credit", "audit_weight"]

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CreditSettings:
    """What credit depends on beside the responses.

    Attributes:
        gamma: Discount; 1 in the paper.
        lambda_: Trace decay of the advantages.
        critic_lambda: Trace decay of the value targets.
        stop_credit: What stands behind a stop.
        stop_weight: What the policy's loss counts for on the tokens of a stopped response; not where stops are audited.
        audit_fraction: ``p``, the share of the responses that run on behind a mark.
        audit_weighting: What they count for with ``stop_credit="audited"``.
        horizon: Tokens that a response may have.
        overlong_buffer: Tokens before the horizon over which a penalty grows; 0 for none.
        overlong_penalty: The penalty at the horizon.
    """

    gamma: float = 1.0
    lambda_: float = 1.0
    critic_lambda: float = 1.0
    stop_credit: StopCredit = "reward"
    stop_weight: float = 1.0
    audit_fraction: float = 0.0
    audit_weighting: AuditWeighting = "inverse"
    horizon: int = 1
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.stop_credit == "audited" and not 0.0 < self.audit_fraction <= 1.0:
            raise ValueError(
                f"expected shadow_fraction in (0, 1], which stop_credit='audited' learns from, got "
                f"{self.audit_fraction}"
            )
        if not 0 <= self.overlong_buffer <= self.horizon:
            raise ValueError(
                f"expected overlong_buffer in [0, {self.horizon}] (max_new_tokens), got {self.overlong_buffer}"
            )

    @property
    def weighted(self) -> bool:
        """Whether any token can count for more or less than another."""
        return self.stop_credit == "audited" or self.stop_weight != 1.0


@dataclass(frozen=True, slots=True)
class Responses:
    """A learner's share of a batch: ``n`` responses.

    Attributes:
        values: ``V(s_0) .. V(s_{T-1})`` of each response, arrays of shape (T_i,), T_i >= 1.
        last_values: The critic's value of the state behind each last token, shape (n,).
        rewards: Reward of each last token, shape (n,).
        groups: Which prompt each response answers, shape (n,).
        marks: Step at which the failure detector fired first, -1 for none, shape (n,).
        stopped: Whether the detector ended it there, shape (n,), bool.
        truncated: Whether it was cut from outside, shape (n,), bool.
    """

    values: Sequence[Floats]
    last_values: Floats
    rewards: Floats
    groups: NDArray[np.int64]
    marks: NDArray[np.int64]
    stopped: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    @classmethod
    def from_episodes(
        cls, episodes: Sequence[TokenEpisode], values: Sequence[Floats], last_values: Floats
    ) -> Responses:
        """The responses of these episodes, n >= 1, with the learner's own values."""
        return cls(
            values,
            last_values,
            np.array([e.reward for e in episodes], np.float32),
            np.array([e.group for e in episodes], np.int64),
            np.array([e.mark for e in episodes], np.int64),
            np.array([e.stop_reason is StopReason.REGRET for e in episodes]),
            np.array([e.truncated for e in episodes]),
        )

    @property
    def audited(self) -> NDArray[np.bool_]:
        """Whether it was marked and ran on, shape (n,)."""
        return (self.marks >= 0) & ~self.stopped


@dataclass(frozen=True, slots=True)
class Credit:
    """The credit of each token; for each response an array of shape (T_i,).

    Attributes:
        advantages: With the weight of audited outcomes in those before the mark.
        unweighted_advantages: Without it: what a batch is whitened by.
        targets: Value targets.
        policy_weights: What a token's policy loss counts for.
        critic_weights: What a token's value loss counts for.
        outcome_weights: What a token counts for where the critic is judged: 0 where no outcome is known.
    """

    advantages: list[Floats]
    unweighted_advantages: list[Floats]
    targets: list[Floats]
    policy_weights: list[Floats]
    critic_weights: list[Floats]
    outcome_weights: list[Floats]

    def squares(self) -> tuple[float, float]:
        """Sums of the squares of what multiplies each token's policy gradient, with and without weights.

        Their ratio is what auditing does to the gradient's variance, where single gradients are independent.
        """
        weighted = sum(float(np.square(a * w).sum()) for a, w in zip(self.advantages, self.policy_weights, strict=True))
        return weighted, sum(float(np.square(a).sum()) for a in self.unweighted_advantages)

    def whitened(self, mean: float, variance: float) -> Credit:
        """With advantages of mean 0 and variance 1.

        Args:
            mean: Of the unweighted advantages of all tokens: rare heavy ones would shrink everybody's step.
            variance: Of the same.
        """
        advantages, unweighted = (
            [((a - mean) / (np.sqrt(variance) + 1e-8)).astype(np.float32) for a in column]
            for column in (self.advantages, self.unweighted_advantages)
        )
        return replace(self, advantages=advantages, unweighted_advantages=unweighted)


def audit_weight(settings: CreditSettings, marked: float, audited: float) -> float:
    """What an audited response counts for.

    Args:
        settings: Only ``stop_credit="audited"`` gives another weight than 1.
        marked: Number of marked responses in the batch of all learners, stopped ones included.
        audited: Number of them that ran on.
    """
    if settings.stop_credit != "audited":
        return 1.0
    if settings.audit_weighting == "inverse":
        return 1.0 / settings.audit_fraction
    return marked / audited if audited else 1.0


def overlong_penalties(lengths: NDArray[np.integer], horizon: int, buffer: int, penalty: float) -> Floats:
    """What responses lose for their length: nothing up to ``horizon - buffer`` tokens, then more with every token.

    Args:
        lengths: Tokens, shape (n,).
        horizon: Where the loss is ``penalty``.
        buffer: Tokens over which it grows, 0 for no loss.
        penalty: >= 0.

    Returns:
        Shape (n,), >= 0.
    """
    into = np.clip(lengths - (horizon - buffer), 0, buffer)
    return (penalty * into / max(buffer, 1)).astype(np.float32)


def assign_credit(
    responses: Responses, estimator: AdvantageEstimator, settings: CreditSettings, weight: float = 1.0
) -> Credit:
    """Advantages, value targets and weights.

    Args:
        responses: A learner's share of a batch.
        estimator: Of the advantages.
        settings: What credit depends on.
        weight: What an audited response counts for, from :func:`audit_weight`.
    """
    unknown = responses.stopped & (settings.stop_credit != "reward")
    lengths = np.array([len(v) for v in responses.values])
    lost = overlong_penalties(lengths, settings.horizon, settings.overlong_buffer, settings.overlong_penalty)
    plain = AdvantageInputs(
        responses.values,
        responses.rewards - lost,
        # Terminal means terminal: nothing is bootstrapped behind it.
        np.where(responses.truncated | unknown, responses.last_values, np.float32(0.0)),
        responses.groups,
        settings.gamma,
        settings.lambda_,
        responses.marks,
    )
    unweighted, targets = estimator(plain)
    if settings.critic_lambda != settings.lambda_:
        _, targets = estimator(replace(plain, lambda_=settings.critic_lambda))
    advantages = unweighted
    if weight != 1.0:
        advantages, _ = estimator(replace(plain, tail_weight=weight))
    policy_weights = [np.ones(length, np.float32) for length in lengths]
    critic_weights = [np.ones(length, np.float32) for length in lengths]
    if settings.stop_credit == "audited":
        for i in np.flatnonzero(responses.audited):
            policy_weights[i][responses.marks[i] + 1 :] = weight
            critic_weights[i][:] = weight
        for i in np.flatnonzero(unknown):
            critic_weights[i][:] = 0.0
    else:
        for i in np.flatnonzero(responses.stopped):
            policy_weights[i][:] = settings.stop_weight
    outcome_weights = [w * np.float32(not u) for w, u in zip(critic_weights, unknown, strict=True)]
    return Credit(advantages, unweighted, targets, policy_weights, critic_weights, outcome_weights)
