"""Settings that belong together, by one word.

- :data:`PRESETS`, :data:`Preset`: what ``ESPOConfig.early_stopping(preset=...)`` sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["PRESETS", "Preset"]

Preset = Literal["paper"]
"""Names of :data:`PRESETS`."""

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    # arXiv 2605.29860. What it does not publish (bounds, clip, delta, start of the statistics) is left as it is.
    "paper": {
        "rule": "regret_value",
        "gate": "before",
        "stop_credit": "reward",
        "stop_weight": 1.0,
        "fail_reward": -1.0,
        "controller": "stop_rate",
        "beta": 7.0,
        "target_stop_rate": 0.25,
        "tolerance_rate": 0.1,
        "tolerance_update": "additive",
        "smoothing": 0.9,
        "value_floor": 0.2,
        "statistics_momentum": 0.99,
        "warmup_loss_threshold": 0.5,
        "warmup_patience": 3,
        "warmup_change_threshold": 0.1,
        "warmup_max_fraction": 0.1,
        "warmup_min_explained_variance": None,
        "shadow_fraction": 0.0,
        "pilots": 0,
    },
}
"""Keyword arguments of ``ESPOConfig.early_stopping`` by name."""
