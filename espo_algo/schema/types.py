"""Types of single values: numbers with their ranges, choices, schedules.

A text beside a type says in words what it takes; the others are put into words by ``check.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

import numpy as np
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, AllowInfNan, BeforeValidator, ConfigDict, Strict
from typing_extensions import TypedDict  # before Python 3.12 pydantic takes no other

CriticKind = Literal["shared", "separate"]
"""``"shared"``: a value head on the policy's trunk. ``"separate"``: a trunk of its own."""
Dtype = Literal["float32", "bfloat16"]
"""What engines keep their weights in and the learner computes in."""
Sharding = Literal["fsdp"]
"""How several learners share the weights out among themselves: PyTorch's FSDP2."""
Moments = Literal["float32", "8bit"]
"""What AdamW's two moments are kept in."""
Targets = Literal["all-linear"]
"""Layers that get adapters: every linear one of the trunk."""
EvaluationStops = Literal["off", "mark", "stop"]
"""What a firing of the detector does: nothing; a mark, which measures false positives; a stop."""

StopCredit = Literal["reward", "bootstrap", "audited"]
"""What stands behind a stop: ``fail_reward``; the value of its last state; that value, corrected by audited ones."""
AuditWeighting = Literal["inverse", "self_normalized"]
"""Weight of an audited response: ``1 / p``, unbiased; the batch's marked over its audited, of less variance."""


def _number(value: Any) -> Any:
    """Numpy's numbers are numbers; truth values, arrays and tensors, which pydantic would take, are not."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number")
    return value


def _rising(schedule: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
    steps = [step for step, _ in schedule]
    if steps[0] != 0 or steps != sorted(set(steps)):
        raise ValueError("steps that rise from 0")
    return schedule


Truth = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Int = Annotated[int, Strict(), BeforeValidator(_number)]
Float = Annotated[float, Strict(), BeforeValidator(_number), AllowInfNan(False)]
Count = Annotated[Int, Ge(1)]
Natural = Annotated[Int, Ge(0)]
Positive = Annotated[Float, Gt(0)]
NotNegative = Annotated[Float, Ge(0)]
Share = Annotated[Float, Ge(0), Le(1)]
Limit = Annotated[float, Strict(), BeforeValidator(_number), Gt(0)]
"""A bound that may be infinite."""
Schedule = Annotated[
    list[tuple[NotNegative, NotNegative]],
    MinLen(2),
    AfterValidator(_rising),
    "a schedule [[0, value], [step, value], ...] with rising steps",
]


class LoRA(TypedDict, total=False):
    """Adapters, as :class:`~espo_algo.learning.lora.LoRASettings`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    r: Required[Count]
    alpha: Positive
    target_modules: Targets | Annotated[list[Text], MinLen(1)]
    dropout: Annotated[Float, Ge(0), Lt(1)]


Keys = Annotated[dict[str, Any], "keys and values"]
Free = Annotated[Any, "anything"]
"""Only Python can give it: a class or a function."""
