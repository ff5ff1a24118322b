from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_algo.learning.advantages import AdvantageInputs, generalized_advantages, group_normalized_advantages


def gae(values, final_rewards, final_values, gamma, lambda_):
    """Of responses to a prompt each."""
    groups = np.arange(len(values))
    return generalized_advantages(AdvantageInputs(values, final_rewards, final_values, groups, gamma, lambda_))


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


@pytest.mark.parametrize(
    ("gamma", "lambda_", "expected"),
    [
        (1.0, 1.0, [0.5, 0.75, 0.25]),
        # TD errors -0.25, 0.5, 0.25
        (1.0, 0.5, [-0.25 + 0.5 * 0.625, 0.5 + 0.5 * 0.25, 0.25]),
        (1.0, 0.0, [-0.25, 0.5, 0.25]),
        # TD errors -0.375, 0.125, 0.25
        (0.5, 0.5, [-0.375 + 0.25 * 0.1875, 0.125 + 0.25 * 0.25, 0.25]),
    ],
)
def test_a_right_answer_by_hand(gamma: float, lambda_: float, expected: list[float]) -> None:
    values = floats(0.5, 0.25, 0.75)
    (advantages,), (targets,) = gae([values], floats(1.0), floats(0.0), gamma, lambda_)
    np.testing.assert_array_equal(advantages, floats(*expected))
    np.testing.assert_array_equal(targets, floats(*expected) + values)
    assert advantages.dtype == targets.dtype == np.float32


def test_a_stop_is_one_negative_error_that_flows_back() -> None:
    values, fail_reward = floats(0.5, 0.75, 0.25), floats(-1.0)
    (errors,), _ = gae([values], fail_reward, floats(0.0), 1.0, 0.0)
    np.testing.assert_array_equal(errors, floats(0.25, -0.5, -1.25))
    (half,), _ = gae([values], fail_reward, floats(0.0), 1.0, 0.5)
    np.testing.assert_array_equal(half, floats(0.25 - 0.5 * 1.125, -0.5 - 0.5 * 1.25, -1.25))
    (whole,), (targets,) = gae([values], fail_reward, floats(0.0), 1.0, 1.0)
    np.testing.assert_array_equal(whole, -1.0 - values)
    np.testing.assert_array_equal(targets, floats(-1.0, -1.0, -1.0))


def test_a_truncated_response_bootstraps_from_the_value_behind_it() -> None:
    values = floats(0.5, 0.25)
    (advantages,), (targets,) = gae([values], floats(0.0), floats(0.75), 0.5, 1.0)
    # TD errors 0.5 * 0.25 - 0.5 and 0.5 * 0.75 - 0.25
    np.testing.assert_array_equal(advantages, floats(-0.375 + 0.5 * 0.125, 0.125))
    np.testing.assert_array_equal(targets, floats(0.1875, 0.375))


def slow_reference(
    values: list[float], reward: float, behind: float, gamma: float, lambda_: float
) -> tuple[list[float], list[float]]:
    """The sum of discounted TD errors, written out for each step."""
    n = len(values)
    following = [*values[1:], behind]
    errors = [(reward if t == n - 1 else 0.0) + gamma * following[t] - values[t] for t in range(n)]
    advantages = [sum((gamma * lambda_) ** (k - t) * errors[k] for k in range(t, n)) for t in range(n)]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


numbers = st.floats(-2.0, 2.0, width=32)
responses = st.lists(
    st.tuples(st.lists(numbers, min_size=1, max_size=12), numbers, st.one_of(st.just(0.0), numbers)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(responses, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_equals_the_slow_reference_in_ragged_batches(
    batch: list[tuple[list[float], float, float]], gamma: float, lambda_: float
) -> None:
    values, rewards, behind = zip(*batch, strict=True)
    advantages, targets = gae([floats(*v) for v in values], floats(*rewards), floats(*behind), gamma, lambda_)
    for i, (v, r, b) in enumerate(batch):
        expected_advantages, expected_targets = slow_reference(v, r, b, gamma, lambda_)
        np.testing.assert_allclose(advantages[i], expected_advantages, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(targets[i], expected_targets, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(responses)
def test_a_response_does_not_depend_on_its_batch(batch: list[tuple[list[float], float, float]]) -> None:
    values, rewards, behind = zip(*batch, strict=True)
    together, _ = gae([floats(*v) for v in values], floats(*rewards), floats(*behind), 0.9, 0.8)
    for i, (v, r, b) in enumerate(batch):
        (alone,), _ = gae([floats(*v)], floats(r), floats(b), 0.9, 0.8)
        np.testing.assert_array_equal(together[i], alone)


def test_a_group_is_normalised_by_its_own_rewards_by_hand() -> None:
    """Rewards 1, 0, 0, 1 of group 7 (mean 1/2, deviation 1/2), 1 and 1 of group 2."""
    x = AdvantageInputs(
        values=[floats(*[0.25] * n) for n in (1, 3, 2, 1, 2, 1)],
        final_rewards=floats(1, 1, 0, 0, 1, 1),
        final_values=floats(0, 0, 0, 0, 0, 0.5),
        groups=np.array([7, 2, 7, 7, 2, 7]),
        gamma=0.5,
        lambda_=0.95,
    )
    advantages, targets = group_normalized_advantages(x)
    for found, expected, length in zip(advantages, (1, 0, -1, -1, 0, 1), (1, 3, 2, 1, 2, 1), strict=True):
        np.testing.assert_allclose(found, np.full(length, expected), atol=1e-5)
        assert found.dtype == np.float32
    # The critic's targets are the discounted returns.
    for found, expected in zip(targets, ([1], [0.25, 0.5, 1], [0, 0], [0], [0.5, 1], [1.25]), strict=True):
        np.testing.assert_allclose(found, expected)
