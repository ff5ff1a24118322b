"""A module's weights as numpy arrays, to be sent to runners or kept in a checkpoint.

- :func:`pack_state`, :func:`unpack_state`: parameters and buffers as numpy arrays, and back into a module.
- :func:`pieces_of`, :func:`unpack_pieces`: the same in pieces, where nobody is to hold the whole.
- :func:`whole`, :func:`deal`: a tensor that is sharded over the learners, gathered and dealt out.

RLlib's own conversion copies every tensor, cannot express bfloat16 and sends tied tensors twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["PIECE_BYTES", "deal", "pack_state", "pieces_of", "unpack_pieces", "unpack_state", "whole"]

PIECE_BYTES = 2**29
"""What a piece may weigh, if it is more than one tensor: a block of a 7B model in bfloat16, roughly."""

_BFLOAT16 = ":bfloat16"
"""Suffix of a name whose bfloat16 tensor travels as int16: numpy has no bfloat16."""


def pack_state(
    module: nn.Module, dtype: torch.dtype | None = None, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Parameters and buffers as numpy arrays: views, not copies, of tensors on the CPU.

    Args:
        module: A tied parameter is packed once, under its first name. Of a sharded one all learners have to call this
            with the same names, and each gets whole arrays.
        dtype: What the language model's parameters are cast to; None keeps each as it is. Buffers and parameters that
            are named ``value_head`` keep their precision: thresholds are compared with them.
        names: Which of them, see :func:`pieces_of`; None for all.

    Returns:
        Arrays by name; a bfloat16 tensor as int16 under a marked name.
    """
    parameters, buffers = _tensors(module)
    packed = {}
    for name, tensor in (parameters | buffers).items():
        if names is not None and name not in names:
            continue
        tensor = tensor.detach()
        if dtype is not None and name in parameters and "value_head" not in name:
            tensor = tensor.to(dtype)
        tensor = whole(tensor).cpu()
        if tensor.dtype is torch.bfloat16:
            packed[name + _BFLOAT16] = tensor.view(torch.int16).numpy()
        else:
            packed[name] = tensor.numpy()
    return packed


def unpack_state(module: nn.Module, state: dict[str, np.ndarray]) -> None:
    """Copies packed arrays into the module's tensors, cast to the module's dtypes.

    Args:
        module: Of a sharded one each learner takes its part; nothing is communicated.
        state: What :func:`pack_state` gave.

    Raises:
        ValueError: If a name is missing or unknown; nothing has changed then.
    """
    parameters, buffers = _tensors(module)
    _check_names((parameters | buffers).keys(), {name.removesuffix(_BFLOAT16) for name in state})
    _copy(parameters | buffers, state)


def pieces_of(module: nn.Module, most_bytes: int = PIECE_BYTES) -> list[list[str]]:
    """Names of the module's tensors in pieces of about a block, each for a call of :func:`pack_state`.

    Args:
        module: The same pieces come out of it on every learner.
        most_bytes: What the tensors of a piece weigh at most in their own dtype; a heavier one is a piece by itself.
    """
    parameters, buffers = _tensors(module)
    pieces: list[list[str]] = []
    room = 0
    for name, tensor in (parameters | buffers).items():
        weight = tensor.numel() * tensor.element_size()
        if not pieces or weight > room:
            pieces.append([])
            room = most_bytes
        pieces[-1].append(name)
        room -= weight
    return pieces


def unpack_pieces(module: nn.Module, pieces: Iterable[dict[str, np.ndarray]]) -> None:
    """Like :func:`unpack_state`, with each piece let go before the next one is asked for.

    Raises:
        ValueError: If a name is missing or unknown; other tensors may have changed.
    """
    parameters, buffers = _tensors(module)
    tensors = parameters | buffers
    seen: set[str] = set()
    for piece in pieces:
        names = {name.removesuffix(_BFLOAT16) for name in piece}
        _check_names(tensors.keys(), tensors.keys() | names)
        _copy(tensors, piece)
        seen |= names
    _check_names(tensors.keys(), seen)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself; one that is sharded is gathered, for which all learners have to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def deal(tensor: Tensor, like: Tensor) -> Tensor:
    """This learner's part of a tensor that all learners have, sharded as ``like`` is; the tensor itself else.

    Args:
        tensor: Of the shape of ``like``, or a number that goes with it (an optimiser's step), which stays as it is.
        like: A parameter.
    """
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    dealt = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return dealt.clone()  # a part may be a view of the caller's tensor


def _copy(targets: dict[str, Tensor], state: dict[str, np.ndarray]) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # Arrays out of Ray's object store are read-only, and are only read here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        for name, array in state.items():
            tensor = torch.from_numpy(np.asarray(array))
            if name.endswith(_BFLOAT16):
                name, tensor = name.removesuffix(_BFLOAT16), tensor.view(torch.bfloat16)
            targets[name].copy_(deal(tensor, targets[name]))


def _check_names(expected: Collection[str], got: Collection[str]) -> None:
    if missing_or_unknown := {*expected} ^ {*got}:
        raise ValueError(
            f"expected the module's own weights, missing {sorted(missing_or_unknown - {*got})}, "
            f"unknown {sorted(missing_or_unknown - {*expected})}"
        )


def _tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters (a tied one once) and persistent buffers, by name."""
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return dict(module.named_parameters()), buffers
