"""The one stop decision: what a firing of the failure detector does to a response.

- :func:`decide`: which responses are stopped, and where each was marked first.
- :func:`stop_reason`: why a response that is over has ended.

The wrappers and every engine call these, so that they agree on three rules: a natural end wins over a stop, because
that answer is finished; the first firing is the mark; a response that is only marked runs on.
"""

from __future__ import annotations

from typing import Any

from espo_env.types import StopReason

__all__ = ["decide", "stop_reason"]


def decide(fired: Any, natural: Any, steps: Any, marks: Any, mark_only: Any = False) -> tuple[Any, Any]:
    """Decides which responses a step's firings stop, and which they mark; numpy arrays or torch tensors of shape (n,).

    Args:
        fired: bool; the detector fired at this step.
        natural: bool; the response ends by itself with this step's token (end-of-sequence token, horizon).
        steps: int; index of this step within the response.
        marks: int; step of the response's first firing so far, -1 for none.
        mark_only: bool; write the firing down and let the response run on.

    Returns:
        ``stopped`` (bool) and the new ``marks`` (int), both of shape (n,).
    """
    fired = fired & ~natural
    first = fired & (marks < 0)
    return fired & (mark_only == 0), marks + first * (steps - marks)


def stop_reason(at_end_token: bool, stopped: bool) -> StopReason:
    """Why a response that is over has ended, where nobody gave it up.

    Args:
        at_end_token: Whether its last token is the end-of-sequence token.
        stopped: Whether :func:`decide` stopped it.
    """
    return StopReason.EOS if at_end_token else StopReason.REGRET if stopped else StopReason.LENGTH
