from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from espo_env.early_stopping import RegretStatistics, step_regret

logit_arrays = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(-30, 30, width=32)
)


def slow_step_regret(logits, actions, temperature):
    """By log-probabilities, with the normaliser that cancels."""
    out = []
    for row, action in zip(logits.tolist(), actions.tolist(), strict=True):
        scaled = [x / temperature for x in row]
        normaliser = math.log(sum(math.exp(x - max(scaled)) for x in scaled)) + max(scaled)
        logprobs = [x - normaliser for x in scaled]
        out.append(max(logprobs) - logprobs[action])
    return out


def test_is_the_gap_between_the_best_and_the_taken_logit():
    logits = np.array([[1.0, 3.0, 2.0], [5.0, 0.0, -1.0]], np.float32)
    assert step_regret(logits, np.array([2, 0])).tolist() == [1.0, 0.0]
    assert step_regret(logits, np.array([0, 2]), temperature=2.0).tolist() == [1.0, 3.0]


@settings(max_examples=60, deadline=None)
@given(logits=logit_arrays, temperature=st.floats(0.1, 4.0), data=st.data())
def test_equals_the_log_probability_gap_in_numpy_and_torch(logits, temperature, data):
    rows, vocabulary = logits.shape
    actions = np.array(data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=rows, max_size=rows)))
    before = logits.copy()
    got = step_regret(logits, actions, temperature)
    assert got.dtype == np.float32
    assert (got >= 0).all()
    np.testing.assert_allclose(got, slow_step_regret(logits, actions, temperature), rtol=1e-4, atol=1e-4)
    in_torch = step_regret(torch.from_numpy(logits), torch.from_numpy(actions), temperature)
    assert in_torch.dtype == torch.float32
    np.testing.assert_allclose(in_torch.numpy(), got, rtol=3e-7)
    if temperature == 1.0:
        np.testing.assert_array_equal(in_torch.numpy(), got)
    np.testing.assert_array_equal(logits, before)


def test_tokens_that_were_masked_out_do_not_disturb():
    logits = np.array([[-np.inf, 2.0, 1.5]], np.float32)
    assert step_regret(logits, np.array([2])).tolist() == [0.5]


@pytest.mark.parametrize(
    ("logits", "actions", "temperature", "message"),
    [
        (np.zeros(3), np.zeros(3, int), 1.0, r"got \(3,\) and \(3,\)"),
        (np.zeros((2, 3)), np.zeros(3, int), 1.0, r"got \(2, 3\) and \(3,\)"),
        (np.zeros((2, 3)), np.zeros((2, 1), int), 1.0, r"got \(2, 3\) and \(2, 1\)"),
        (np.zeros((2, 3)), np.zeros(2, int), 0.0, "expected a temperature > 0, got 0.0"),
        (np.zeros((2, 3)), np.zeros(2, int), math.nan, "expected a temperature > 0, got nan"),
    ],
)
def test_names_wrong_arguments(logits, actions, temperature, message):
    with pytest.raises(ValueError, match=message):
        step_regret(logits, actions, temperature)


class TestStatistics:
    def test_move_by_one_minus_the_momentum_once_a_batch(self):
        # The batch has mean 2 and population variance 1.
        updated = RegretStatistics(mean=0.0, var=4.0, momentum=0.75).updated(np.array([1.0, 3.0]))
        assert (updated.mean, updated.var, updated.momentum) == (0.5, 3.25, 0.75)

    def test_started_from_a_batch_are_that_batchs(self):
        started = RegretStatistics(momentum=0.9).started(np.array([[1.0, 3.0]]))
        assert (started.mean, started.var, started.momentum) == (2.0, 1.0, 0.9)

    @settings(max_examples=30, deadline=None)
    @given(
        batches=st.lists(st.lists(st.floats(0, 50, width=32), max_size=6), max_size=5),
        momentum=st.floats(0, 1),
    )
    def test_equal_a_plain_loop(self, batches, momentum):
        statistics, mean, var = RegretStatistics(momentum=momentum), 0.0, 1.0
        for batch in batches:
            statistics = statistics.updated(torch.tensor(batch))
            if batch:
                batch_mean = sum(batch) / len(batch)
                batch_var = sum((g - batch_mean) ** 2 for g in batch) / len(batch)
                mean = momentum * mean + (1 - momentum) * batch_mean
                var = momentum * var + (1 - momentum) * batch_var
        assert statistics.mean == pytest.approx(mean, rel=1e-9, abs=1e-12)
        assert statistics.var == pytest.approx(var, rel=1e-6, abs=1e-9)

    @pytest.mark.parametrize("method", ["updated", "started"])
    @pytest.mark.parametrize("batch", [[0.1, -0.1], [0.1, np.nan], [np.inf]])
    def test_refuse_regrets_that_cannot_be(self, method, batch):
        with pytest.raises(ValueError, match="expected finite step regrets >= 0, got"):
            getattr(RegretStatistics(), method)(np.array(batch))

    @pytest.mark.parametrize("method", ["updated", "started"])
    def test_stay_where_the_batch_is_empty(self, method):
        statistics = RegretStatistics(0.3, 0.4)
        assert getattr(statistics, method)(np.zeros(0)) is statistics

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"momentum": 1.1}, r"expected a momentum in \[0, 1\], got 1.1"),
            ({"var": -0.1}, "expected a variance >= 0, got -0.1"),
            ({"var": np.nan}, "expected a variance >= 0, got nan"),
            ({"mean": np.inf}, "expected a finite mean, got inf"),
        ],
    )
    def test_refuse_constants_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            RegretStatistics(**options)
