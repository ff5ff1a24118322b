from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espo_algo.learning.losses import clipped_policy_loss, clipped_value_loss, kl_estimate, truncated_importance_weights


def logs(*ratios: float) -> Tensor:
    return torch.tensor([math.log(ratio) for ratio in ratios], dtype=torch.float64)


def test_policy_loss_by_hand() -> None:
    ratios = (1.0, 1.5, 0.5, 1.5, 0.5, 1.1)
    advantages = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, -1.0], dtype=torch.float64)
    loss, clipped = clipped_policy_loss(logs(*ratios), torch.zeros(6, dtype=torch.float64), advantages, clip=0.2)
    # min(ratio * A, clamp(ratio) * A), negated
    expected = torch.tensor([-2.0, -2.4, -1.0, 3.0, 1.6, 1.1], dtype=torch.float64)
    torch.testing.assert_close(loss, expected)
    assert clipped.tolist() == [False, True, False, False, True, False]


def test_the_clip_may_be_wider_above_a_ratio_of_one() -> None:
    advantages = torch.tensor([2.0, 2.0, -2.0, 2.0], dtype=torch.float64)
    loss, clipped = clipped_policy_loss(
        logs(1.25, 1.5, 0.5, 0.5), torch.zeros(4, dtype=torch.float64), advantages, clip=0.2, clip_high=0.28
    )
    torch.testing.assert_close(loss, torch.tensor([-2.5, -2.56, 1.6, -1.0], dtype=torch.float64))
    assert clipped.tolist() == [False, True, True, False]


def test_policy_gradient_is_zero_exactly_where_the_clip_holds() -> None:
    logprobs = logs(1.5, 0.5, 1.5, 0.5, 1.0).requires_grad_()
    advantages = torch.tensor([2.0, -2.0, -2.0, 2.0, 3.0], dtype=torch.float64)
    loss, clipped = clipped_policy_loss(logprobs, torch.zeros(5, dtype=torch.float64), advantages, clip=0.2)
    loss.sum().backward()
    assert clipped.tolist() == [True, True, False, False, False]
    # Elsewhere the gradient is -A * ratio.
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 0.0, 3.0, -1.0, -3.0], dtype=torch.float64))


def test_value_loss_by_hand_with_its_bound() -> None:
    values = torch.tensor([0.5, 1.0, 4.0], requires_grad=True)
    loss = clipped_value_loss(values, torch.tensor([1.0, 1.0, 1.0]), clip=4.0)
    assert loss.tolist() == [0.25, 0.0, 4.0]
    loss.sum().backward()
    assert values.grad.tolist() == [-1.0, 0.0, 0.0]
    assert clipped_value_loss(torch.tensor([4.0]), torch.tensor([1.0]), math.inf).tolist() == [9.0]


def test_kl_estimate_by_hand() -> None:
    got = kl_estimate(logs(1.0, 2.0, 0.5), torch.zeros(3, dtype=torch.float64))
    expected = [0.0, 1.0 - math.log(2.0), -0.5 + math.log(2.0)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-8.0, 0.0), st.floats(-8.0, 0.0)), min_size=1, max_size=20))
def test_kl_estimate_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    new, old = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    assert (kl_estimate(new, old) >= 0).all()


def test_kl_estimate_is_unbiased() -> None:
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    expectation = (old * kl_estimate(new.log(), old.log())).sum()
    assert expectation == pytest.approx(float((old * (old / new).log()).sum()), rel=1e-6)


def test_importance_weights_are_cut_at_the_cap() -> None:
    weights = truncated_importance_weights(logs(1.0, 0.25, 3.0), logs(1.0, 0.5, 0.5), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64))
