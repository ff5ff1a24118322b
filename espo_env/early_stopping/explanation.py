"""Why a response was stopped, or was not, in words and numbers.

- :func:`explain`: one sentence on a whole response.
- :func:`comparison`: what the rule compared at one step.
"""

from __future__ import annotations

import numpy as np

from espo_env.early_stopping.detector import DetectorSettings
from espo_env.early_stopping.rules import RuleInputs, get_stop_rule
from espo_env.types import StopReason, Trajectory

__all__ = ["comparison", "explain"]

_OUT_OF_REACH = 1e20
"""Thresholds above it are those of a gate that no score passes."""


def explain(trajectory: Trajectory, settings: DetectorSettings) -> str:
    """Says why the failure detector fired, or how near it came.

    Args:
        trajectory: A response that has ended, with its columns.
        settings: Rule and constants that it was written with.

    Returns:
        Such as ``"stopped at token 41: z 0.44 > beta 0.20 x max(V 0.10, floor 0.20) = 0.040"``; tokens count from 1.
        Empty where nothing was measured.
    """
    if not (len(trajectory.z) and len(trajectory.thresholds) and len(trajectory.values)):
        return ""
    if trajectory.mark >= 0:
        compared = comparison(trajectory, trajectory.mark, settings)
        if trajectory.stop_reason is StopReason.REGRET:
            return f"stopped at token {trajectory.mark + 1}: {compared}"
        outcome = (
            "it ended right, so a stop would have been wrong" if trajectory.correct is True else "it was not right"
        )
        return f"marked at token {trajectory.mark + 1}, ran on, and {outcome}: {compared}"
    if settings.rule == "never":
        return "never stopped: the rule is plain PPO's"
    # The end-of-sequence token finishes an answer: no stop is taken on it.
    open_steps = len(trajectory) - (trajectory.stop_reason is StopReason.EOS)
    if open_steps < 1:
        return "not stopped: it ended with its first token"
    margins = (trajectory.z - trajectory.thresholds)[:open_steps]
    fired = np.flatnonzero(margins > 0)
    if len(fired):
        compared = comparison(trajectory, int(fired[0]), settings)
        return f"not stopped, because stopping was off: {compared} at token {fired[0] + 1}"
    nearest = int(np.argmax(margins))
    return f"not stopped: nearest at token {nearest + 1}, {comparison(trajectory, nearest, settings)}"


def comparison(trajectory: Trajectory, step: int, settings: DetectorSettings) -> str:
    """What the rule compared at a step: score and threshold, with what the threshold is made of.

    Args:
        trajectory: With ``z``, ``thresholds`` and ``values``.
        step: Index of the token, from 0.
        settings: Rule and constants that it was written with.
    """
    score, threshold = float(trajectory.z[step]), float(trajectory.thresholds[step])
    sign = ">" if score > threshold else "<="
    name = "z" if settings.gate == "before" else "z of the token before"
    if threshold > _OUT_OF_REACH:
        return f"{name} {_number(score)} {sign} a threshold out of reach"
    value, success = _number(float(trajectory.values[step])), _number(trajectory.prompt_success)
    floor = _number(settings.value_floor)
    parts = {
        "regret_value": f" x max(V {value}, floor {floor})",
        "regret_siblings": f" x max(V {value}, floor {floor})",
        "regret_prompt": f" x max(success {success}, floor {floor})",
        "value_only": f" x V {value}",
        "regret_only": "",
        "random": "",
    }.get(settings.rule)
    left, right = _apart(score, threshold)
    if parts is None:
        return f"score {left} {sign} threshold {right} (rule {settings.rule})"
    named = {"value_only": "constant", "random": "chance"}.get(settings.rule, name)
    beta = f"beta {_number(threshold / _gate(trajectory, step, settings))}"
    return f"{named} {left} {sign} {beta}{parts}" + (f" = {right}" if parts else "")


def _gate(trajectory: Trajectory, step: int, settings: DetectorSettings) -> float:
    """The rule's own gate at a step; that of the rules named above looks at value and success alone."""
    one = np.ones(1)
    inputs = RuleInputs(
        z=one * trajectory.z[step],
        values=one * trajectory.values[step],
        steps=one * step,
        draws=one,
        prompt_success=one * trajectory.prompt_success,
        value_floor=settings.value_floor,
    )
    return float(get_stop_rule(settings.rule)(inputs)[1][0])


def _number(number: float) -> str:
    """Two decimals; two significant digits where that says nothing."""
    return f"{number:.2f}" if abs(number) >= 0.1 or number == 0 else f"{number:#.2g}"


def _apart(left: float, right: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart, six decimals at most."""
    texts = _number(left), _number(right)
    for digits in (3, 4, 5, 6):
        if texts[0] != texts[1] or left == right:
            break
        texts = f"{left:.{digits}f}", f"{right:.{digits}f}"
    return texts
