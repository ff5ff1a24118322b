"""A module's weights as numpy arrays, to be sent to runners or kept in a checkpoint.

- :func:`tensors_of`: a module's parameters and buffers.
- :class:`MergedWeight`: a weight with a low-rank update, added up when it is asked for.
- :func:`pack_tensors`, :func:`unpack_state`: tensors as numpy arrays, and back into a module.
- :func:`pieces_of`, :func:`unpack_pieces`: the same in pieces, where nobody is to hold the whole.
- :func:`gathered`, :func:`whole`, :func:`deal`: a tensor that is sharded over the learners, gathered and dealt out.

RLlib's own conversion copies every tensor, cannot express bfloat16 and sends tied tensors twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = [
    "PIECE_BYTES",
    "MergedWeight",
    "Weight",
    "deal",
    "gathered",
    "pack_tensors",
    "pieces_of",
    "tensors_of",
    "unpack_pieces",
    "unpack_state",
    "whole",
]

PIECE_BYTES = 2**29
"""What a piece may weigh, if it is more than one tensor: a block of a 7B model in bfloat16, roughly."""

_BFLOAT16 = ":bfloat16"
"""Suffix of a name whose bfloat16 tensor travels as int16: numpy has no bfloat16."""


@dataclass(frozen=True, slots=True)
class MergedWeight:
    """``base + scale * up @ down``, computed in float32 when it is packed or sent: it is never kept.

    Attributes:
        base: Shape (out, in).
        down: Shape (r, in).
        up: Shape (out, r).
        scale: What the product counts for.
    """

    base: Tensor
    down: Tensor
    up: Tensor
    scale: float

    @property
    def shape(self) -> torch.Size:
        """The base's."""
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        """The base's; the sum is float32 before it is cast to anything else."""
        return self.base.dtype

    def added_up(self) -> Tensor:
        """The sum, float32; where the parts are sharded all learners have to call this."""
        base, down, up = (whole(part.detach()).float() for part in (self.base, self.down, self.up))
        return torch.addmm(base, up, down, alpha=self.scale)


Weight = Tensor | MergedWeight


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters (a tied one once, under its first name) and persistent buffers, by name."""
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return dict(module.named_parameters()) | buffers


def gathered(weight: Weight, dtype: torch.dtype | None = None) -> Tensor:
    """A weight as a whole tensor on its device, without gradient.

    Args:
        weight: If it is sharded all learners have to call this.
        dtype: What it is cast to; None for its own, in which a merged one is float32.
    """
    if isinstance(weight, MergedWeight):
        merged = weight.added_up()
        return merged if dtype is None else merged.to(dtype)
    weight = weight.detach()
    return whole(weight if dtype is None else weight.to(dtype))


def pack_tensors(
    tensors: Mapping[str, Weight], dtype: torch.dtype | None = None, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Tensors as numpy arrays: views, not copies, of those on the CPU.

    Args:
        tensors: By name, as :func:`tensors_of` gives them. Of a sharded module all learners have to call this with the
            same names, and each gets whole arrays.
        dtype: What the language model's parameters are cast to; None keeps each as it is. Buffers and parameters that
            are named ``value_head`` keep their precision: thresholds are compared with them.
        names: Which of them, see :func:`pieces_of`; None for all.

    Returns:
        Arrays by name; a bfloat16 tensor as int16 under a marked name.
    """
    packed = {}
    for name, weight in tensors.items():
        if names is not None and name not in names:
            continue
        cast = isinstance(weight, nn.Parameter | MergedWeight) and "value_head" not in name
        tensor = gathered(weight, dtype if cast else None).cpu()
        if tensor.dtype is torch.bfloat16:
            packed[name + _BFLOAT16] = tensor.view(torch.int16).numpy()
        else:
            packed[name] = tensor.numpy()
    return packed


def unpack_state(tensors: Mapping[str, Tensor], state: dict[str, np.ndarray]) -> None:
    """Copies packed arrays into tensors, cast to their dtypes.

    Args:
        tensors: By name, as :func:`tensors_of` gives them. Of a sharded module each learner takes its part; nothing is
            communicated.
        state: What :func:`pack_tensors` gave.

    Raises:
        ValueError: If a name is missing or unknown; nothing has changed then.
    """
    _check_names(tensors.keys(), {name.removesuffix(_BFLOAT16) for name in state})
    _copy(tensors, state)


def pieces_of(tensors: Mapping[str, Weight], most_bytes: int = PIECE_BYTES) -> list[list[str]]:
    """Names of tensors in pieces of about a block, each for a call of :func:`pack_tensors`.

    Args:
        tensors: A module's, by name; the same pieces come out of them on every learner.
        most_bytes: What the tensors of a piece weigh at most in their own dtype; a heavier one is a piece by itself.
    """
    pieces: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        size = tensor.shape.numel() * tensor.dtype.itemsize
        if not pieces or size > room:
            pieces.append([])
            room = most_bytes
        pieces[-1].append(name)
        room -= size
    return pieces


def unpack_pieces(module: nn.Module, pieces: Iterable[dict[str, np.ndarray]]) -> None:
    """Like :func:`unpack_state`, with each piece let go before the next one is asked for.

    Raises:
        ValueError: If a name is missing or unknown; other tensors may have changed.
    """
    tensors = tensors_of(module)
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


def _copy(targets: Mapping[str, Tensor], state: dict[str, np.ndarray]) -> None:
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
