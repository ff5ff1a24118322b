"""Responses that are cut and carried on: by the same weights the uncut ones; by others each token keeps its own."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from engine_checks import CONTEXT, END, SAMPLING, make_model, make_requests, run, train_a_little
from flat import engine_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.engine import GenerationRequest
from espo_algo.rollout.partial import PartialResponse
from espo_env.early_stopping import DetectorState, RegretStatistics
from espo_env.types import TRACE_COLUMNS, Segment

# Each fires now and then on these random models.
BETAS = {"regret_value": 0.8, "regret_only": 0.2, "value_only": 1.5, "random": 4.0, "never": 7.0} | {
    "regret_prompt": 0.4,
    "regret_siblings": 0.6,
}
CASES = [*((rule, "before") for rule in BETAS), ("regret_value", "after"), ("value_only", "after")]
STATISTICS = RegretStatistics(mean=2.0, var=4.0)


@cache
def model(critic: str = "shared") -> LanguageModelWithCritic:
    return make_model("qwen2", critic, tied=False)


def engine_of(
    model: LanguageModelWithCritic, rule: str = "regret_value", gate: str = "before", slots: int = 6, version: int = 0
) -> TorchEngine:
    sizes = {"num_slots": slots, "max_length": CONTEXT, "eos_token_id": END, "sampling": SAMPLING}
    detector = {"rule": rule, "gate": gate, "smoothing": 0.6, "value_floor": 0.1, "clip": 2.0, "delta": 1e-3}
    engine = TorchEngine(model, engine_settings(**sizes, **detector))
    engine.weights_changed(version)
    engine.set_detector_state(DetectorState(STATISTICS, BETAS[rule]))
    return engine


def requests(count: int = 14, mark_only: bool | None = None) -> list[GenerationRequest]:
    """Prompts of different lengths, some of them shared; by default every third response is only marked."""
    posed = make_requests(count)
    success = np.linspace(0.1, 1.0, count)
    return [
        replace(r, prompt_success=float(success[i]), mark_only=r.mark_only if mark_only is None else mark_only)
        for i, r in enumerate(posed)
    ]


def after_steps(engine: TorchEngine, asked: list[GenerationRequest], steps: int) -> tuple[dict, dict]:
    """What is over after so many steps, and what is not: by request."""
    engine.submit(asked)
    over = {episode.request_id: episode for _ in range(steps) for episode in engine.step()}
    return over, engine.suspend()


def carried_on(asked: list[GenerationRequest], partials: dict[int, PartialResponse]) -> list[GenerationRequest]:
    return [
        replace(request, partial=partials[request.request_id]) for request in asked if request.request_id in partials
    ]


def assert_same(left, right, tolerance: float = 1e-4) -> None:
    assert left.response_tokens.tolist() == right.response_tokens.tolist()
    assert (left.stop_reason, left.mark, left.seed) == (right.stop_reason, right.mark, right.seed)
    for name in TRACE_COLUMNS:
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=0, atol=tolerance, err_msg=name)


@cache
def uncut(rule: str, gate: str, critic: str, mark_only: bool | None) -> list:
    return run(engine_of(model(critic), rule, gate), requests(mark_only=mark_only))


@pytest.mark.parametrize(("rule", "gate"), CASES)
@settings(max_examples=5, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 14), min_size=1, max_size=3),
    slots=st.integers(1, 16),
    critic=st.sampled_from(["shared", "separate"]),
    mark_only=st.sampled_from([None, True]),
    seed=st.integers(0, 99),
)
def test_a_response_that_is_cut_anywhere_is_the_uncut_one(rule, gate, cuts, slots, critic, mark_only, seed):
    asked, over = requests(mark_only=mark_only), {}
    for cut in cuts:
        engine = engine_of(model(critic), rule, gate, slots)
        ended, partials = after_steps(engine, asked, cut)
        assert engine.num_unfinished == engine.num_live == 0
        engine.set_detector_state(engine._detector.state)  # which an engine that is busy refuses
        over |= ended
        asked = carried_on(asked, partials)
        np.random.default_rng(seed).shuffle(asked)
    engine = engine_of(model(critic), rule, gate, slots)
    over |= {episode.request_id: episode for episode in run(engine, asked)}
    for expected in uncut(rule, gate, critic, mark_only):
        episode = over[expected.request_id]
        assert_same(episode, expected)
        assert sum(segment.tokens for segment in episode.segments) == len(episode)


def test_the_cases_cover_every_end_and_marks():
    reasons = {(rule, str(e.stop_reason)) for rule, gate in CASES for e in uncut(rule, gate, "shared", None)}
    assert {rule for rule, reason in reasons if reason == "regret"} == BETAS.keys() - {"never"}
    assert {"eos", "length"} <= {reason for _, reason in reasons}
    assert any(e.mark >= 0 for e in uncut("regret_value", "before", "shared", True))


def test_with_other_weights_each_token_keeps_what_it_was_drawn_with():
    asked, old = requests(), model()
    _, partials = after_steps(engine_of(old, version=3), asked, 5)
    torch.manual_seed(0)
    changed = make_model("qwen2", "shared", tied=False)
    train_a_little(changed)
    engine = engine_of(changed, version=4)
    engine.set_detector_state(DetectorState(STATISTICS, beta=0.9, enabled=False))
    episodes = run(engine, carried_on(asked, partials))
    assert len(episodes) > 8
    for episode in episodes:
        before = partials[episode.request_id]
        new = len(episode) - len(before)
        expected = (Segment(len(before), 3, True),) if len(before) else ()
        assert episode.segments == (*expected, Segment(new, 4, False))
        assert (episode.first_version, episode.weights_version) == (3 if len(before) else 4, 4)
        assert episode.response_tokens[: len(before)].tolist() == before.response_tokens.tolist()
        for name, column in zip(TRACE_COLUMNS, before.trace, strict=True):
            np.testing.assert_array_equal(getattr(episode, name)[: len(before)], column)
        # The others are the new weights': a whole pass over the text, without a cache.
        text = torch.tensor([[*episode.prompt_tokens.tolist(), *episode.response_tokens.tolist()]])
        written = slice(len(episode.prompt_tokens) - 1, -1)
        with torch.no_grad():
            hidden, critic = changed.hidden_states(text)
            logprobs = (changed.project(hidden)[0, written] / SAMPLING.temperature).log_softmax(-1)
            values = changed.value(critic)[0, written]
        drawn = logprobs[torch.arange(len(episode)), torch.from_numpy(episode.response_tokens).long()].numpy()
        np.testing.assert_allclose(episode.logprobs[len(before) :], drawn[len(before) :], atol=1e-4)
        np.testing.assert_allclose(episode.values[len(before) :], values.numpy()[len(before) :], atol=1e-4)
        if len(before):
            assert np.abs(episode.logprobs[: len(before)] - drawn[: len(before)]).max() > 1e-3
        # The score goes on from where it was, with the new statistics.
        z = before.z
        for t in range(len(before), len(episode)):
            normalised = (episode.regrets[t] - STATISTICS.mean) / np.sqrt(STATISTICS.var + 1e-3)
            z = 0.6 * z + 0.4 * min(max(normalised, -2.0), 2.0)
            assert episode.z[t] == pytest.approx(z, abs=1e-5)


def test_an_engine_refuses_what_has_no_token_left():
    request = requests()[0]
    tokens = np.ones(request.max_new_tokens, np.int32)
    partial = PartialResponse(tokens, np.zeros((len(TRACE_COLUMNS), len(tokens)), np.float32))
    with pytest.raises(ValueError, match=r"expected less than max_new_tokens=24 tokens to go on from, got 24"):
        engine_of(model()).submit([replace(request, partial=partial)])
