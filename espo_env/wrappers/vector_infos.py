"""Infos of vector environments, in Gymnasium's form: an array for each key, and under ``"_key"`` who has it.

- :func:`pop_info`: takes one slot's info out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["pop_info"]


def pop_info(infos: dict[str, Any], slot: int) -> dict[str, Any]:
    """Takes a slot's info out of the infos, as if it had never been added; ``VectorEnv._add_info`` the other way round.

    Args:
        infos: Of a vector environment; arrays are changed in place. A key without a mask belongs to nobody.
        slot: Index of the slot.

    Returns:
        The slot's own info, nested as it was.
    """
    info = {}
    for key, column in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None or not mask[slot]:
            continue
        mask[slot] = False
        if isinstance(column, dict):
            info[key] = pop_info(column, slot)
        else:
            info[key] = column[slot].copy() if isinstance(column[slot], np.ndarray) else column[slot]
            column[slot] = None if column.dtype == object else 0
    return info
