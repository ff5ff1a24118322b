"""The stop rules: the paper's, its ablations, and two of ours.

Every rule gives a *score* and a *gate* for each slot; a response is stopped where ``score > beta * gate``. One
tolerance ``beta`` and one controller so drive all rules to the same stop rate, which is what makes them comparable.

=============== ================================= =========================== ======================================
rule            score                             gate                        source
=============== ================================= =========================== ======================================
regret_value    ``z_t``                           ``max(V(s_t), floor)``      the paper
regret_only     ``z_t``                           1                           ablation "regret-only stop"
value_only      1                                 ``max(V(s_t), 1e-3)``       ablation "value-only": V below 1/beta
random          ``log((t + 1) / E)``, E ~ Exp(1)  1                           ablation "random": hazard exp(-beta)
regret_prompt   ``z_t``                           ``max(success, floor)``     ours, for training without a critic
regret_siblings ``z_t``                           as the paper; out of reach  ours: other responses to the prompt have
                                                  where success < 1/2         to be right half of the time
never           ``z_t``                           infinity                    plain PPO
=============== ================================= =========================== ======================================

The value-only rule needs no floor against a vanishing threshold: with the paper's floor of 0.2 and ``beta`` 7 it
could never fire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from espo_env.registry import Registry

__all__ = ["STOP_RULES", "RuleInputs", "StopRule", "get_stop_rule", "register_stop_rule"]

_VALUE_ONLY_FLOOR = 1e-3
_OUT_OF_REACH = 1e30
"""A gate that no score passes, and that float32 holds after a product with ``beta``."""


@dataclass(slots=True)
class RuleInputs:
    """What a stop rule may look at, for ``n`` slots; numpy arrays or torch tensors of shape (n,).

    Attributes:
        z: Smoothed normalised regret: after this step, or with the gate after the token up to the step before.
        values: ``V(s_t)``, before this step's token.
        steps: Index ``t`` of this step within its response, float.
        draws: One Exp(1) variate a response, drawn when the slot was reset.
        prompt_success: How often other responses to the prompt were right, in [0, 1]; 1 where nobody knows.
        value_floor: The floor ``eps`` of the value gate.
    """

    z: Any
    values: Any
    steps: Any
    draws: Any
    prompt_success: Any
    value_floor: float


StopRule = Callable[[RuleInputs], tuple[Any, Any]]
"""Maps :class:`RuleInputs` to ``(score, gate)``, each of shape (n,)."""


def regret_value(x: RuleInputs) -> tuple[Any, Any]:
    """The paper's rule: high expected return buys tolerance."""
    return x.z, x.values.clip(min=x.value_floor)


def regret_only(x: RuleInputs) -> tuple[Any, Any]:
    """Regret against a constant."""
    return x.z, x.values * 0 + 1


def value_only(x: RuleInputs) -> tuple[Any, Any]:
    """Stop where the critic expects less than ``1 / beta``, whatever was sampled."""
    return x.z * 0 + 1, x.values.clip(min=_VALUE_ONLY_FLOOR)


def regret_prompt(x: RuleInputs) -> tuple[Any, Any]:
    """The prompt's success rate in the place of the critic's value: for training without a critic."""
    return x.z, x.prompt_success.clip(min=x.value_floor)


def regret_siblings(x: RuleInputs) -> tuple[Any, Any]:
    """The paper's rule, where at least half of the other responses to the prompt were right; elsewhere none is stopped.

    There the mode is likely right, so that a token off the mode is a slip, and not the way to a better mode.
    """
    mode_is_wrong = x.prompt_success < 0.5
    return x.z, x.values.clip(min=x.value_floor) + (x.values * 0 + _OUT_OF_REACH) * mode_is_wrong


def random(x: RuleInputs) -> tuple[Any, Any]:
    """A constant hazard of ``exp(-beta)`` a token: P(alive after t + 1 tokens) = exp(-(t + 1) * hazard).

    One draw a response decides, so that a response stops at the same place whatever else is in the batch.
    """
    ratio = (x.steps + 1) / x.draws
    return (np.log(ratio) if isinstance(ratio, np.ndarray) else ratio.log()), x.values * 0 + 1


def never(x: RuleInputs) -> tuple[Any, Any]:
    """Plain PPO. ``z`` is still computed, for the metrics."""
    return x.z, x.values * 0 + float("inf")


STOP_RULES: Registry[StopRule] = Registry(
    "a stop rule",
    "module:function",
    callable,
    {
        "regret_value": regret_value,
        "value_only": value_only,
        "regret_only": regret_only,
        "regret_prompt": regret_prompt,
        "regret_siblings": regret_siblings,
        "random": random,
        "never": never,
    },
)
"""All registered rules by name."""

get_stop_rule = STOP_RULES.find
"""See :meth:`~espo_env.registry.Registry.find`."""
register_stop_rule = STOP_RULES.register
"""See :meth:`~espo_env.registry.Registry.register`."""
