from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flat import make_detector
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_env.early_stopping import DetectorState, RegretStatistics


def slow_detector(regrets, values, *, mean, var, beta, smoothing, floor, clip, delta, rule, draw, gate):
    """One response as a plain loop in double precision: ``(z, score, threshold, stop)`` of each step."""
    z, out = 0.0, []
    for t, (regret, value) in enumerate(zip(regrets, values, strict=True)):
        normalised = min(max((regret - mean) / math.sqrt(var + delta), -clip), clip)
        before, z = z, smoothing * z + (1 - smoothing) * normalised
        judged = z if gate == "before" else before
        score, threshold = {
            "regret_value": (judged, beta * max(value, floor)),
            "regret_only": (judged, beta),
            "value_only": (1.0, beta * max(value, 1e-3)),
            "random": (math.log((t + 1) / draw), beta),
            "never": (judged, math.inf),
        }[rule]
        out.append((z, score, threshold, score > threshold))
    return out


def test_by_hand():
    detector = make_detector(
        1, RegretStatistics(mean=0.5, var=0.25), beta=1.0, smoothing=0.5, value_floor=0.2, clip=2.0, delta=1e-12
    )
    # (g - 0.5) / 0.5, clipped at 2: -1, 2 (of 5), 1; z: -0.5, 0.75, 0.875.
    steps = [(0.0, 0.9, -0.5, 0.9, False), (3.0, 0.8, 0.75, 0.8, False), (1.0, 0.1, 0.875, 0.2, True)]
    for regret, value, z, threshold, stop in steps:
        verdict = detector.update(np.array([regret], np.float32), np.array([value], np.float32))
        assert verdict.score.tolist() == pytest.approx([z])
        assert verdict.threshold.tolist() == pytest.approx([threshold])
        assert verdict.stop.tolist() == [stop]


def test_with_the_gate_behind_the_token_by_hand():
    detector = make_detector(
        1, RegretStatistics(0.0, 1.0), beta=1.0, smoothing=0.5, clip=2.0, delta=1e-12, gate="after"
    )
    # z: 1, 0.5, 0.75; each is compared with the value of the next step, which has seen its token.
    steps = [(2.0, 0.9, 0.0, False), (0.0, 1.1, 1.0, False), (1.0, 0.6, 0.5, False), (0.0, 0.7, 0.75, True)]
    for regret, value, score, stop in steps:
        verdict = detector.update(np.array([regret], np.float32), np.array([value], np.float32))
        assert verdict.score.tolist() == pytest.approx([score])
        assert verdict.threshold.tolist() == pytest.approx([value])
        assert verdict.stop.tolist() == [stop]


def test_the_prompts_success_rate_in_the_gate_by_hand():
    success = np.array([0.0, 0.3, 0.5, 0.9], np.float32)
    regrets, values = np.full(4, 2.0, np.float32), np.array([0.1, 0.9, 0.4, 0.1], np.float32)
    detector = make_detector(4, RegretStatistics(0.0, 1.0), beta=1.0, smoothing=0.0, delta=1e-12, rule="regret_prompt")
    detector.reset(prompt_success=success)
    assert detector.update(regrets, values).threshold.tolist() == pytest.approx([0.2, 0.3, 0.5, 0.9])
    detector.reset(np.array([1]))
    assert detector.update(regrets, values).threshold.tolist() == pytest.approx([0.2, 1.0, 0.5, 0.9])
    detector = make_detector(
        4, RegretStatistics(0.0, 1.0), beta=1.0, smoothing=0.0, delta=1e-12, rule="regret_siblings"
    )
    detector.reset(prompt_success=success)
    verdict = detector.update(regrets, values)
    assert verdict.stop.tolist() == [False, False, True, True]
    assert verdict.threshold[2:].tolist() == pytest.approx([0.4, 0.2])


def test_the_gate_is_before_or_after_the_token():
    with pytest.raises(ValueError, match="expected gate 'before' or 'after', got 'beside'"):
        make_detector(1, gate="beside")


def test_a_confident_policy_is_never_stopped_by_regret():
    detector = make_detector(2, beta=0.05)
    for _ in range(50):
        assert not detector.update(np.zeros(2, np.float32), np.full(2, -1.0, np.float32)).stop.any()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rule=st.sampled_from(["regret_value", "regret_only", "value_only", "random", "never"]),
    slots=st.integers(1, 5),
    smoothing=st.floats(0, 0.99),
    beta=st.floats(0.05, 8),
    gate=st.sampled_from(["before", "after"]),
)
def test_equals_plain_loops_with_refilled_slots_in_any_order(seed, rule, slots, smoothing, beta, gate):
    rng = np.random.default_rng(seed)
    constants = {"mean": 0.3, "var": 0.7, "floor": 0.2, "clip": 5.0, "delta": 1e-6}
    detector = make_detector(
        slots,
        RegretStatistics(0.3, 0.7),
        beta=beta,
        smoothing=smoothing,
        value_floor=0.2,
        clip=5.0,
        delta=1e-6,
        rule=rule,
        gate=gate,
    )
    draws = rng.exponential(size=slots).astype(np.float32)
    detector.reset(draws=draws)
    live: dict[int, tuple[list[float], list[float], float]] = {s: ([], [], draws[s]) for s in range(slots)}
    for _ in range(20):
        chosen = rng.permutation(slots)[: rng.integers(1, slots + 1)]
        regrets = rng.exponential(1.0, size=len(chosen)).astype(np.float32)
        values = rng.uniform(-0.5, 1.0, size=len(chosen)).astype(np.float32)
        verdict = detector.update(regrets, values, chosen)
        for row, slot in enumerate(chosen):
            live[slot][0].append(float(regrets[row]))
            live[slot][1].append(float(values[row]))
            _, score, threshold, stop = slow_detector(
                live[slot][0],
                live[slot][1],
                beta=beta,
                smoothing=smoothing,
                rule=rule,
                draw=live[slot][2],
                gate=gate,
                **constants,
            )[-1]
            assert verdict.score[row] == pytest.approx(score, rel=1e-4, abs=1e-5)
            assert verdict.threshold[row] == pytest.approx(threshold, rel=1e-5)
            if abs(score - threshold) > 1e-4:
                assert verdict.stop[row] == stop
        refilled = chosen[:1]
        draw = rng.exponential(size=1).astype(np.float32)
        detector.reset(refilled, draw)
        live[int(refilled[0])] = ([], [], draw[0])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rule=st.sampled_from(["regret_value", "regret_only", "value_only", "regret_prompt", "regret_siblings", "never"]),
    mean=st.floats(-2, 2),
    var=st.floats(0, 4),
    beta=st.floats(0.05, 8),
    gate=st.sampled_from(["before", "after"]),
)
def test_numpy_and_torch_agree_bit_for_bit_in_float32(seed, rule, mean, var, beta, gate):
    rng = np.random.default_rng(seed)
    in_numpy, in_torch = (
        make_detector(4, RegretStatistics(mean, var), beta=beta, rule=rule, gate=gate) for _ in range(2)
    )
    success = rng.uniform(size=4).astype(np.float32)
    in_numpy.reset(prompt_success=success)
    in_torch.reset(prompt_success=torch.from_numpy(success))
    for step in range(12):
        regrets = rng.exponential(1.0, size=4).astype(np.float32)
        values = rng.uniform(-0.5, 1.0, size=4).astype(np.float32)
        left = in_numpy.update(regrets, values)
        right = in_torch.update(torch.from_numpy(regrets), torch.from_numpy(values))
        for name in ("score", "threshold", "stop"):
            a, b = getattr(left, name), getattr(right, name).numpy()
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        if step % 5 == 4:
            again = success[[3, 1]]
            in_numpy.reset(np.array([1, 3]), prompt_success=again)
            in_torch.reset(torch.tensor([1, 3]), prompt_success=torch.from_numpy(again))


def test_random_rule_in_torch_stops_where_it_stops_in_numpy():
    draws = np.random.default_rng(0).exponential(size=64).astype(np.float32)
    zeros = np.zeros(64, np.float32)
    stops = []
    for convert in (np.asarray, torch.from_numpy):
        detector = make_detector(64, rule="random", beta=2.0)
        detector.reset(draws=convert(draws))
        detector.reset(convert(np.array([3, 5])), convert(draws[[3, 5]]))
        stops.append([detector.update(convert(zeros), convert(zeros)).stop.tolist() for _ in range(30)])
    assert stops[0] == stops[1]


def test_disabled_it_tracks_and_stops_nothing():
    enabled, disabled = (make_detector(3, beta=0.05, enabled=flag) for flag in (True, False))
    regrets, values = np.full(3, 9.0, np.float32), np.zeros(3, np.float32)
    on, off = enabled.update(regrets, values), disabled.update(regrets, values)
    assert on.stop.all()
    assert not off.stop.any()
    assert off.stop.dtype == np.bool_
    np.testing.assert_array_equal(on.score, off.score)


def test_new_statistics_leave_z_where_it_is():
    detector = make_detector(1, beta=1.0)
    first = detector.update(np.array([5.0], np.float32), np.array([0.5], np.float32)).score
    detector.configure(DetectorState(RegretStatistics(5.0, 1.0), beta=3.0))
    verdict = detector.update(np.array([5.0], np.float32), np.array([0.5], np.float32))
    assert verdict.score == pytest.approx(0.9 * first)
    assert verdict.threshold.tolist() == [1.5]


@pytest.mark.parametrize("rule", ["random", "regret_prompt"])
def test_a_moved_slot_takes_its_state_along(rule):
    moved, stayed = (make_detector(3, rule=rule, beta=1.0, seed=0) for _ in range(2))
    draws = np.array([0.1, 0.2, 5.0], np.float32)
    for detector in (moved, stayed):
        detector.reset(draws=draws, prompt_success=np.array([0.1, 0.4, 0.8], np.float32))
        for _ in range(3):
            detector.update(np.arange(3, dtype=np.float32), np.ones(3, np.float32))
    moved.move(2, 0)
    one = np.ones(1, np.float32)
    for _ in range(40):
        a, b = moved.update(one, one, np.array([0])), stayed.update(one, one, np.array([2]))
        assert (a.stop, a.score, a.threshold) == (b.stop, b.score, b.threshold)


def test_random_rule_has_a_constant_hazard_of_exp_minus_beta():
    slots, beta = 20_000, 2.0
    detector = make_detector(slots, rule="random", beta=beta, seed=0)
    zeros = np.zeros(slots, np.float32)
    alive = np.ones(slots, bool)
    for step in range(1, 9):
        alive &= ~detector.update(zeros, zeros).stop
        # Four standard errors.
        assert alive.mean() == pytest.approx(math.exp(-step * math.exp(-beta)), abs=4 * 0.5 / math.sqrt(slots))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slots": 0}, "expected num_slots >= 1, got 0"),
        ({"smoothing": 1.0}, r"expected smoothing in \[0, 1\), got 1.0"),
        ({"smoothing": -0.1}, r"expected smoothing in \[0, 1\), got -0.1"),
        ({"value_floor": 0.0}, "expected value_floor > 0, got 0.0"),
        ({"clip": -1.0}, "expected clip > 0, got -1.0"),
        ({"delta": math.nan}, "expected delta > 0, got nan"),
        ({"beta": math.inf}, "expected a finite beta, got inf"),
        ({"rule": "regret"}, "expected a stop rule out of .*regret_value.*, got 'regret'"),
    ],
)
def test_refuses_constants_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        make_detector(**{"num_slots": 2} | options)
