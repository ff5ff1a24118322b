"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import espo_env

# The grader's worker is a program of its own, which limits its process when it is imported.
MODULES = [m.name for m in pkgutil.walk_packages(espo_env.__path__, "espo_env.") if not m.name.endswith(".worker")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(len(test.examples) for m in modules for test in doctest.DocTestFinder().find(m)) > 10
