from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from espo_algo.weight_sync.packing import pack_tensors, pieces_of, tensors_of, unpack_pieces, unpack_state


class Tied(nn.Module):
    """An embedding tied to an output layer, a value head, a kept and a temporary buffer."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, dtype=dtype)
        self.head = nn.Linear(3, 5, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight
        self.value_head = nn.Linear(3, 1)
        self.register_buffer("beta", torch.tensor(0.1, dtype=torch.float64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_tied_tensors_are_packed_once_and_come_back() -> None:
    source, target = Tied(), Tied()
    state = pack_tensors(tensors_of(source))
    assert state.keys() == {"embedding.weight", "value_head.weight", "value_head.bias", "beta"}
    unpack_state(tensors_of(target), state)
    assert target.head.weight is target.embedding.weight
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name


def test_packed_arrays_are_views_not_copies() -> None:
    module = Tied()
    for dtype in (None, torch.float32):
        assert np.shares_memory(
            pack_tensors(tensors_of(module), dtype)["embedding.weight"], module.embedding.weight.detach().numpy()
        )


def test_bfloat16_travels_bit_for_bit_and_the_critic_keeps_its_precision() -> None:
    source, target = Tied(), Tied(torch.bfloat16)
    with torch.no_grad():
        source.value_head.weight.fill_(0.1)
    state = pack_tensors(tensors_of(source), torch.bfloat16)
    assert {name: array.dtype for name, array in state.items()} == {
        "embedding.weight:bfloat16": np.int16,
        "value_head.weight": np.float32,
        "value_head.bias": np.float32,
        "beta": np.float64,
    }
    unpack_state(tensors_of(target), state)
    assert torch.equal(target.embedding.weight, source.embedding.weight.bfloat16())
    assert torch.equal(target.value_head.weight, source.value_head.weight)
    assert float(target.beta) == 0.1
    # And from bfloat16 weights, without a cast.
    assert "embedding.weight:bfloat16" in pack_tensors(tensors_of(target))


def test_read_only_arrays_are_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    state = {name: np.array(array) for name, array in pack_tensors(tensors_of(Tied())).items()}
    for array in state.values():
        array.flags.writeable = False
    target = Tied()
    unpack_state(tensors_of(target), state)
    np.testing.assert_array_equal(target.embedding.weight.detach().numpy(), state["embedding.weight"])
    assert not recwarn.list


def test_missing_and_unknown_names_are_rejected_before_anything_changes() -> None:
    module = Tied()
    before = module.embedding.weight.detach().clone()
    state = {name: array + 1 for name, array in pack_tensors(tensors_of(module)).items()}
    state["other"] = state.pop("beta")
    with pytest.raises(ValueError, match=r"missing \['beta'\], unknown \['other'\]"):
        unpack_state(tensors_of(module), state)
    assert torch.equal(module.embedding.weight, before)


def test_pieces_keep_within_their_limit_and_are_let_go_one_by_one() -> None:
    source, target = Tied(), Tied()
    # 60, 12, 4 and 8 bytes: a tensor above the limit is a piece by itself.
    names = ["embedding.weight", "value_head.weight", "value_head.bias", "beta"]
    assert pieces_of(tensors_of(source), most_bytes=1) == [[name] for name in names]
    assert pieces_of(tensors_of(source), most_bytes=20) == [names[:1], names[1:3], names[3:]]
    assert pieces_of(tensors_of(source), most_bytes=24) == [names[:1], names[1:]]
    assert pieces_of(tensors_of(source)) == [names]
    alive: list[weakref.ref] = []

    def pieces() -> Iterator[dict[str, np.ndarray]]:
        for chosen in pieces_of(tensors_of(source), most_bytes=20):
            assert sum(reference() is not None for reference in alive) <= 1  # the one before, at most
            piece = {name: array.copy() for name, array in pack_tensors(tensors_of(source), names=chosen).items()}
            alive.extend(weakref.ref(array) for array in list(piece.values())[:1])
            yield piece
            del piece

    unpack_pieces(target, pieces())
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name


def test_pieces_that_are_not_all_or_not_the_modules_are_rejected() -> None:
    module = Tied()
    first, *rest = [
        pack_tensors(tensors_of(module), names=names) for names in pieces_of(tensors_of(module), most_bytes=20)
    ]
    with pytest.raises(ValueError, match=r"missing \['embedding.weight'\], unknown \[\]"):
        unpack_pieces(module, rest)
    with pytest.raises(ValueError, match=r"missing \[\], unknown \['other'\]"):
        unpack_pieces(module, [first, {"other": np.zeros(1)}])
