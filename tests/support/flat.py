"""Detectors and engine settings from flat keywords, as tests like to write them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from espo_algo.rollout.engine import EngineSettings
from espo_env.early_stopping import DetectorSettings, DetectorState, FailureDetector, RegretStatistics

CONSTANTS = {field.name for field in fields(DetectorSettings)}


def make_detector(
    num_slots: int,
    statistics: RegretStatistics | None = None,
    beta: float = 7.0,
    enabled: bool = True,
    seed: int | None = None,
    **constants: Any,
) -> FailureDetector:
    """A detector with these constants and this state."""
    state = DetectorState(statistics or RegretStatistics(), beta, enabled)
    return FailureDetector(num_slots, DetectorSettings(**constants), state, seed)


def engine_settings(**options: Any) -> EngineSettings:
    """Settings whose detector's constants stand beside the others."""
    constants = {name: options.pop(name) for name in CONSTANTS & options.keys()}
    return EngineSettings(detector=DetectorSettings(**constants), **options)
