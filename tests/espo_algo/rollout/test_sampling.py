from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_algo.rollout.engine import SamplingSettings
from espo_algo.rollout.noise import TOKENS, request_noise, stream
from espo_algo.rollout.sampling import Drawn, draw, end_broken

LOGITS = [[1.0, 3.0, 2.0, -1.0], [0.0, 0.0, 0.0, 5.0]]


def slow_draw(logits: list[float], uniform: float, temperature: float, kept: set[int]) -> tuple[int, float, float]:
    """Token, log-probability and regret of one row, in float64 and one token at a time."""
    weights = [np.exp(x / temperature) if i in kept else 0.0 for i, x in enumerate(logits)]
    total, below = sum(weights), 0.0
    token = -1
    while below <= uniform * total:
        token += 1
        below += weights[token]
    regret = max(logits[i] for i in kept) / temperature - logits[token] / temperature
    return token, float(np.log(weights[token] / total)), regret


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    st.floats(0, 1, exclude_max=True, width=32),
    st.sampled_from([0.5, 1.0, 1.7]),
)
def test_a_token_its_logprob_and_its_regret_match_a_loop(logits, uniform, temperature):
    drawn = draw(
        torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), SamplingSettings(temperature=temperature)
    )
    token, logprob, regret = slow_draw(logits, uniform, temperature, set(range(len(logits))))
    if int(drawn.tokens) != token:  # the uniform stands on the border of two tokens
        cumulative = np.cumsum(np.exp(np.array(logits) / temperature - max(logits) / temperature))
        assert np.abs(cumulative / cumulative[-1] - uniform).min() < 1e-5
        return
    assert float(drawn.logprobs) == pytest.approx(logprob, abs=2e-5)
    assert float(drawn.regrets) == pytest.approx(regret, abs=2e-5)


def test_frequencies_are_the_probabilities():
    count = 40_000
    uniforms = torch.from_numpy(request_noise(0, count)[0])
    drawn = draw(torch.tensor(LOGITS[:1]).repeat(count, 1), uniforms, SamplingSettings(temperature=2.0))
    expected = torch.tensor(LOGITS[0]).div(2.0).softmax(-1)
    found = torch.bincount(drawn.tokens, minlength=4) / count
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_greedy_takes_the_likeliest_without_regret_at_temperature_one():
    drawn = draw(
        torch.tensor(LOGITS), torch.zeros(2, dtype=torch.float64), SamplingSettings(greedy=True, temperature=0.3)
    )
    assert drawn.tokens.tolist() == [1, 3]
    torch.testing.assert_close(drawn.logprobs, torch.tensor(LOGITS).log_softmax(-1)[[0, 1], [1, 3]])
    assert drawn.regrets.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("uniform", [0.0, 0.5, float(np.nextafter(1.0, 0.0))])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    impossible = -torch.inf
    logits = torch.tensor([[impossible, 0.0, impossible, 0.1, impossible], [impossible] * 4 + [0.0]])
    drawn = draw(logits, torch.full((2,), uniform, dtype=torch.float64), SamplingSettings())
    assert drawn.tokens[0] in (1, 3)
    assert drawn.tokens[1] == 4
    assert drawn.logprobs.isfinite().all()


def test_the_last_uniform_stays_inside_a_large_vocabulary():
    torch.manual_seed(0)
    largest = torch.full((64,), float(np.nextafter(1.0, 0.0)))
    drawn = draw(torch.randn(64, 5000), largest, SamplingSettings())
    assert drawn.tokens.max() < 5000


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (SamplingSettings(top_k=2), {1, 2}),
        (SamplingSettings(top_k=9), {0, 1, 2, 3}),
        # Probabilities of the first row: .090 / .660 / .243 / .012 (tokens 0 to 3, rounded), in order 1, 2, 0, 3.
        (SamplingSettings(top_p=0.6), {1}),
        (SamplingSettings(top_p=0.7), {1, 2}),
        (SamplingSettings(top_p=0.95), {0, 1, 2}),
        (SamplingSettings(top_p=0.95, top_k=2), {1, 2}),
    ],
)
def test_top_k_and_top_p_keep_the_likeliest_and_renormalise(sampling, kept):
    uniforms = np.linspace(0, 0.999, 40)
    drawn = draw(torch.tensor(LOGITS[:1]).repeat(40, 1), torch.from_numpy(uniforms), sampling)
    assert set(drawn.tokens.tolist()) == kept
    for row, uniform in enumerate(uniforms):
        token, logprob, regret = slow_draw(LOGITS[0], float(uniform), 1.0, kept)
        assert int(drawn.tokens[row]) == token
        assert float(drawn.logprobs[row]) == pytest.approx(logprob, abs=1e-5)
        assert float(drawn.regrets[row]) == pytest.approx(regret, abs=1e-5)


def test_noise_depends_on_the_seed_alone():
    uniforms, exponential = request_noise(7, 20)
    longer, same_exponential = request_noise(7, 50)
    np.testing.assert_array_equal(longer[:20], uniforms)
    assert exponential == same_exponential > 0
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert not np.array_equal(request_noise(8, 20)[0], uniforms)


def test_uniforms_are_finer_than_24_bits_and_begin_with_the_same_ones() -> None:
    """Of 24 bits alone, a token less likely than 6e-8 was drawn too often or never."""
    uniforms, _ = request_noise(7, 1000)
    steps = uniforms * 2.0**24
    coarse = stream(7, TOKENS).random(1000, dtype=np.float32)
    np.testing.assert_array_equal(np.floor(steps) / 2.0**24, coarse)
    assert np.all(steps % 1.0 > 0.0)
    # What comes behind is uniform again, and says nothing about the first bits.
    assert abs(np.mean(steps % 1.0) - 0.5) < 0.03
    assert abs(np.corrcoef(steps % 1.0, coarse)[0, 1]) < 0.1


def test_every_token_of_a_large_vocabulary_is_drawn_in_its_own_interval() -> None:
    """Sums in float32 and uniforms of 24 bits drew a neighbour of many tokens: two out of five here."""
    vocabulary, sampled = 150_000, 2_000
    generator = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(1, vocabulary, generator=generator)
    tokens = torch.randperm(vocabulary, generator=generator)[:sampled]
    weights = (logits - logits.max()).exp()
    ends = np.cumsum(weights[0].numpy(), dtype=np.longdouble)  # exact, as far as float64 can tell
    starts = np.concatenate([[0.0], ends[:-1]])
    middles = torch.from_numpy((((starts + ends) / 2 / ends[-1])[tokens.numpy()]).astype(np.float64))

    drawn = torch.cat([draw(logits.clone(), middle[None], SamplingSettings()).tokens for middle in middles])
    assert torch.equal(drawn, tokens)

    sums = weights.cumsum(-1)
    coarse = (middles * 2**24).floor().float() / 2**24
    before = torch.searchsorted(sums[0], coarse * sums[0, -1], right=True)
    missed = int((before != tokens).sum())
    assert missed > sampled // 4, missed  # 802 of 2000


def test_a_draw_takes_one_float32_and_one_float64_buffer() -> None:
    """vLLM leaves that much memory free. The sums' addends, cast to float64, were a third buffer beside them."""
    rows, vocabulary = 4, 50_000
    logits, uniforms = torch.randn(rows, vocabulary), torch.rand(rows, dtype=torch.float64)
    with torch.profiler.profile(profile_memory=True) as profile:
        draw(logits, uniforms, SamplingSettings())
    in_use, most = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            most = max(most, in_use)
    assert most <= (4 + 8) * rows * vocabulary + 10_000


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("options", [{}, {"greedy": True}, {"top_k": 2}, {"top_p": 0.9}, {"temperature": 0.5}])
def test_logits_that_are_not_finite_draw_a_token_of_the_vocabulary_and_show(broken, options):
    """The token was one behind the last: an error of the look-up here, the end of the process on a GPU."""
    settings = SamplingSettings(**options)
    logits = torch.tensor([LOGITS[0], [broken] * 4, LOGITS[1], LOGITS[0]])
    logits[3, 1] = torch.nan
    drawn = draw(logits, torch.full((4,), 0.99, dtype=torch.float64), settings)
    sound = draw(torch.tensor(LOGITS), torch.full((2,), 0.99, dtype=torch.float64), settings)
    assert ((drawn.tokens >= 0) & (drawn.tokens < 4)).all()
    assert drawn.logprobs.isfinite().tolist() == [True, False, True, False]
    torch.testing.assert_close(drawn.logprobs[[0, 2]], sound.logprobs)
    torch.testing.assert_close(drawn.tokens[[0, 2]], sound.tokens)


def test_a_response_whose_numbers_are_not_finite_is_ended():
    zeros = torch.zeros(4)
    drawn = Drawn(torch.tensor([1, 2, 3, 1]), torch.tensor([-1.0, torch.nan, -1.0, -1.0]), zeros)
    end_broken(drawn, torch.tensor([0.5, 0.5, torch.inf, 0.5]), eos_token_id=0)
    assert drawn.tokens.tolist() == [1, 0, 0, 1]
