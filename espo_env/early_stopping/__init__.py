"""The failure detector of early-stopping PPO: pure maths on numpy arrays or torch tensors.

- :func:`step_regret`, :class:`RegretStatistics` (``regret.py``)
- :class:`DetectorSettings`, :class:`DetectorState`, :class:`FailureDetector`, :class:`Verdict` (``detector.py``)
- :func:`decide`, :func:`stop_reason` (``decision.py``): what a firing does to a response
- :data:`STOP_RULES`, :func:`register_stop_rule` (``rules.py``): the paper's rule, its ablations, and two of ours
- :class:`ToleranceController`, :func:`calibrate_beta` (``tolerance.py``)
- :class:`FalsePositiveController` (``budget.py``): beta by a budget of wrong stops
- :class:`CriticWarmup` (``warmup.py``)
- :class:`EarlyStoppingState` (``state.py``): what moves all of these from batch to batch
- :func:`explain` (``explanation.py``): why a response was stopped, or was not, in words
"""

from espo_env.early_stopping.budget import AuditedResponse, FalsePositiveController, upper_bound
from espo_env.early_stopping.decision import decide, stop_reason
from espo_env.early_stopping.detector import (
    DEFAULT_CLIP,
    DEFAULT_DELTA,
    DetectorSettings,
    DetectorState,
    FailureDetector,
    Gate,
    Verdict,
)
from espo_env.early_stopping.explanation import explain
from espo_env.early_stopping.regret import RegretStatistics, step_regret
from espo_env.early_stopping.rules import STOP_RULES, RuleInputs, StopRule, get_stop_rule, register_stop_rule
from espo_env.early_stopping.state import Controller, EarlyStoppingState, StatisticsStart
from espo_env.early_stopping.tolerance import ToleranceController, calibrate_beta, critical_betas, replay
from espo_env.early_stopping.warmup import CriticWarmup

__all__ = [
    "DEFAULT_CLIP",
    "DEFAULT_DELTA",
    "STOP_RULES",
    "AuditedResponse",
    "Controller",
    "CriticWarmup",
    "DetectorSettings",
    "DetectorState",
    "EarlyStoppingState",
    "FailureDetector",
    "FalsePositiveController",
    "Gate",
    "RegretStatistics",
    "RuleInputs",
    "StatisticsStart",
    "StopRule",
    "ToleranceController",
    "Verdict",
    "calibrate_beta",
    "critical_betas",
    "decide",
    "explain",
    "get_stop_rule",
    "register_stop_rule",
    "replay",
    "step_regret",
    "stop_reason",
    "upper_bound",
]
