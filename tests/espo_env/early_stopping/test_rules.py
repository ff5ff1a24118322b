from __future__ import annotations

import numpy as np
import pytest
from flat import make_detector

from espo_env.early_stopping import STOP_RULES, get_stop_rule, register_stop_rule


def surprise_only(x):
    return x.z * 0 + 1, x.z * 0


def test_the_papers_rule_and_its_ablations_are_there():
    assert {"regret_value", "value_only", "regret_only", "random", "never"} <= set(STOP_RULES)


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"expected a stop rule out of \['never', 'random', .*\], or .* got 'maybe'"):
        get_stop_rule("maybe")


def test_a_rule_of_ones_own_works_by_name(monkeypatch):
    monkeypatch.setattr(STOP_RULES, "_entries", dict(STOP_RULES))
    register_stop_rule("always", surprise_only)
    register_stop_rule("always", surprise_only)
    detector = make_detector(2, rule="always")
    assert detector.update(np.zeros(2, np.float32), np.zeros(2, np.float32)).stop.all()
    with pytest.raises(ValueError, match="expected a new name for a stop rule, got 'never', which is taken"):
        register_stop_rule("never", surprise_only)


def test_registered_rules_cannot_be_changed_in_place():
    with pytest.raises(TypeError):
        STOP_RULES["never"] = surprise_only  # type: ignore[index]
