"""A module's weights as numpy arrays, to be sent to runners or kept in a checkpoint.

- :func:`pack_state`, :func:`unpack_state`: parameters and buffers as numpy arrays, and back into a module.

RLlib's own conversion copies every tensor, cannot express bfloat16 and sends tied tensors twice.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["pack_state", "unpack_state"]

_BFLOAT16 = ":bfloat16"
"""Suffix of a name whose bfloat16 tensor travels as int16: numpy has no bfloat16."""


def pack_state(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, np.ndarray]:
    """Parameters and buffers as numpy arrays: views, not copies, of tensors on the CPU.

    Args:
        module: A tied parameter is packed once, under its first name.
        dtype: What the language model's parameters are cast to; None keeps each as it is. Buffers and parameters that
            are named ``value_head`` keep their precision: thresholds are compared with them.

    Returns:
        Arrays by name; a bfloat16 tensor as int16 under a marked name.
    """
    parameters, buffers = _tensors(module)
    packed = {}
    for name, tensor in (parameters | buffers).items():
        tensor = tensor.detach()
        if dtype is not None and name in parameters and "value_head" not in name:
            tensor = tensor.to(dtype)
        tensor = tensor.cpu()
        if tensor.dtype is torch.bfloat16:
            packed[name + _BFLOAT16] = tensor.view(torch.int16).numpy()
        else:
            packed[name] = tensor.numpy()
    return packed


def unpack_state(module: nn.Module, state: dict[str, np.ndarray]) -> None:
    """Copies packed arrays into the module's tensors, cast to the module's dtypes.

    Raises:
        ValueError: If a name is missing or unknown.
    """
    arrays = {}
    with warnings.catch_warnings():
        # Arrays out of Ray's object store are read-only, and are only read here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        for name, array in state.items():
            tensor = torch.from_numpy(np.asarray(array))
            if name.endswith(_BFLOAT16):
                name, tensor = name.removesuffix(_BFLOAT16), tensor.view(torch.bfloat16)
            arrays[name] = tensor
    parameters, buffers = _tensors(module)
    targets = parameters | buffers
    if targets.keys() != arrays.keys():
        raise ValueError(
            f"expected the module's own weights, missing {sorted(targets.keys() - arrays.keys())}, "
            f"unknown {sorted(arrays.keys() - targets.keys())}"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(arrays[name])


def _tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters (a tied one once) and persistent buffers, by name."""
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return dict(module.named_parameters()), buffers
