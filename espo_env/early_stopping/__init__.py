"""The failure detector of early-stopping PPO: pure maths on numpy arrays or torch tensors.

- :func:`step_regret`, :class:`RegretStatistics` (``regret.py``)
- :class:`FailureDetector`, :class:`Verdict` (``detector.py``)
- :data:`STOP_RULES`, :func:`register_stop_rule` (``rules.py``): the paper's rule and its ablations
- :class:`ToleranceController`, :class:`CriticWarmup`, :func:`calibrate_beta` (``control.py``)
"""

from espo_env.early_stopping.control import CriticWarmup, ToleranceController, calibrate_beta, critical_betas
from espo_env.early_stopping.detector import DEFAULT_CLIP, DEFAULT_DELTA, FailureDetector, Verdict
from espo_env.early_stopping.regret import RegretStatistics, step_regret
from espo_env.early_stopping.rules import STOP_RULES, RuleInputs, StopRule, get_stop_rule, register_stop_rule

__all__ = [
    "DEFAULT_CLIP",
    "DEFAULT_DELTA",
    "STOP_RULES",
    "CriticWarmup",
    "FailureDetector",
    "RegretStatistics",
    "RuleInputs",
    "StopRule",
    "ToleranceController",
    "Verdict",
    "calibrate_beta",
    "critical_betas",
    "get_stop_rule",
    "register_stop_rule",
    "step_regret",
]
