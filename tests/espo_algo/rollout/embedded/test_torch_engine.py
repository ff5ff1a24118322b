from __future__ import annotations

import copy
import math
from functools import cache

import numpy as np
import pytest
import torch
from flat import engine_settings, make_detector
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.integrations import sdpa_attention

from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.embedded.engine import TorchEngine, _prefill_groups
from espo_algo.rollout.engine import GenerationRequest, SamplingSettings
from espo_algo.rollout.noise import request_noise
from espo_env.early_stopping import DetectorState, RegretStatistics
from espo_env.types import StopReason

VOCABULARY, END, CONTEXT = 19, 0, 48
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "vocab_size": VOCABULARY}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=CONTEXT, attn_logit_softcapping=2.0),
    "mistral": MistralConfig(**SIZES, sliding_window=CONTEXT),
    "gpt2": GPT2Config(**GPT2_SIZES, **NO_DROPOUT, tie_word_embeddings=False, initializer_range=0.2),
}
# Fires now and then on all of these random models.
STATE = DetectorState(RegretStatistics(mean=1.0, var=1.0), beta=1.5)
OPTIONS = {"smoothing": 0.6, "value_floor": 0.1, "clip": 2.0, "delta": 1e-3}


def make_policy(name: str, dtype: torch.dtype = torch.float32):
    """Each with a configuration of its own: transformers writes the dtype into it."""
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]), dtype=dtype).eval()


@cache
def make_model(name: str = "llama", critic: str = "shared", dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    model = LanguageModelWithCritic(make_policy(name, dtype), critic)
    torch.nn.init.normal_(model.value_head.weight, std=0.1)
    torch.nn.init.constant_(model.value_head.bias, 0.3)
    if model.critic_trunk is not None:  # otherwise it would not be seen if the trunks were mixed up
        for parameter in model.critic_trunk.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def make_engine(model=None, num_slots: int = 4, state: DetectorState = STATE, **options) -> TorchEngine:
    options = {"max_length": CONTEXT, "eos_token_id": END, **OPTIONS, **options}
    engine = TorchEngine(model or make_model(), engine_settings(num_slots=num_slots, **options))
    engine.set_detector_state(state)
    return engine


def make_requests(count: int, max_new_tokens: int = 16, **options) -> list[GenerationRequest]:
    rng = np.random.default_rng(3)
    prompts = [rng.integers(1, VOCABULARY, rng.integers(1, 24)).astype(np.int32) for _ in range(count)]
    return [GenerationRequest(i, prompts[i], 100 + i, max_new_tokens, **options) for i in range(count)]


def run(engine: TorchEngine, requests: list[GenerationRequest]) -> dict[int, object]:
    """All episodes by request id; checks in each step that no slot is idle while there is work."""
    engine.submit(requests)
    episodes = {}
    while remaining := engine.num_unfinished:
        finished = engine.step()
        assert engine.num_live == min(engine.num_slots, remaining)
        assert engine.num_unfinished == remaining - len(finished)
        for episode in finished:
            assert episode.request_id not in episodes
            episodes[episode.request_id] = episode
    assert engine.step() == []
    assert sorted(episodes) == sorted(request.request_id for request in requests)
    return episodes


@torch.no_grad()
def slow_response(model, request: GenerationRequest, rule: str, sampling: SamplingSettings, state=STATE) -> dict:
    """One response alone: no cache, whole forward passes, numpy in float64, the algorithm's formulas as they stand."""
    uniforms, _ = request_noise(request.seed, request.max_new_tokens)
    tokens, z, mark = request.prompt_tokens.tolist(), 0.0, -1
    columns = {name: [] for name in ("logprobs", "regrets", "values", "z", "thresholds")}
    reason = StopReason.LENGTH
    for t in range(request.max_new_tokens):
        hidden = model.trunk(torch.tensor([tokens]), use_cache=False).last_hidden_state
        trunk = model.critic_trunk or model.trunk
        critic = trunk(torch.tensor([tokens]), use_cache=False).last_hidden_state
        logits = model.project(hidden)[0, -1].double().numpy()
        value = float(model.value(critic)[0, -1])
        if sampling.greedy:
            token = int(logits.argmax())
        else:
            logits = logits / sampling.temperature
            cumulative = np.cumsum(np.exp(logits - logits.max()))
            token = int(np.argmax(cumulative > uniforms[t] * cumulative[-1]))
        regret = logits.max() - logits[token]
        normalised = (regret - state.statistics.mean) / math.sqrt(state.statistics.var + OPTIONS["delta"])
        normalised = max(-OPTIONS["clip"], min(OPTIONS["clip"], normalised))
        z = OPTIONS["smoothing"] * z + (1 - OPTIONS["smoothing"]) * normalised
        threshold = state.beta * max(value, OPTIONS["value_floor"]) if rule == "regret_value" else math.inf
        tokens.append(token)
        row = (logits[token] - np.logaddexp.reduce(logits), regret, value, z, threshold)
        for column, number in zip(columns.values(), row, strict=True):
            column.append(number)
        if token == END:
            reason = StopReason.EOS
            break
        if t + 1 < request.max_new_tokens and z > threshold and mark < 0:
            mark = t
            if not request.mark_only:
                reason = StopReason.REGRET
                break
    return {"tokens": tokens[len(request.prompt_tokens) :], "reason": reason, "mark": mark, "columns": columns}


def assert_same(episode, expected: dict, tolerance: float = 1e-5) -> None:
    assert episode.response_tokens.tolist() == expected["tokens"]
    assert episode.stop_reason is expected["reason"]
    assert episode.mark == expected["mark"]
    for name, column in expected["columns"].items():
        found = getattr(episode, name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, column, atol=tolerance, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_keys_and_values_are_never_copied_for_the_heads_that_share_them(critic, monkeypatch):
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda *_: pytest.fail("copied"))
    run(make_engine(make_model(critic=critic)), make_requests(6))


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_signals_and_stops_are_those_of_a_plain_loop(name, critic):
    model, requests, sampling = make_model(name, critic), make_requests(12), SamplingSettings(temperature=1.2)
    engine = make_engine(model, num_slots=5, sampling=sampling)
    for request in requests[::3]:
        request.mark_only = True
    episodes = run(engine, requests)
    for request in requests:
        assert_same(episodes[request.request_id], slow_response(model, request, "regret_value", sampling))
    assert StopReason.REGRET in {episode.stop_reason for episode in episodes.values()}


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_those_of_a_plain_loop(name):
    model, requests, sampling = make_model(name), make_requests(8), SamplingSettings(greedy=True)
    episodes = run(make_engine(model, num_slots=3, sampling=sampling), requests)
    for request in requests:
        assert_same(episodes[request.request_id], slow_response(model, request, "regret_value", sampling))


def test_long_and_short_prompts_side_by_side_are_those_of_a_plain_loop():
    torch.manual_seed(0)
    model = LanguageModelWithCritic(
        AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "max_position_embeddings": 256})).eval()
    )
    lengths, rng = [1, 150, 3, 33, 90, 32, 2, 70], np.random.default_rng(0)
    prompts = [rng.integers(1, VOCABULARY, length).astype(np.int32) for length in lengths]
    requests = [GenerationRequest(i, prompt, seed=i, max_new_tokens=4) for i, prompt in enumerate(prompts)]
    episodes = run(make_engine(model, num_slots=6, max_length=200), requests)
    for request in requests:
        assert_same(episodes[request.request_id], slow_response(model, request, "regret_value", SamplingSettings()))


class PrefillCount(TorchEngine):
    """Counts the prompts that are computed."""

    num_prefilled = 0

    def _prefill(self, slots):
        self.num_prefilled += len(slots)
        super()._prefill(slots)


@pytest.mark.parametrize("num_slots", [5, 6, 12])
def test_a_prompt_that_is_in_a_slot_is_copied_not_computed_again(num_slots):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, VOCABULARY, length).astype(np.int32) for length in (9, 1, 20, 4)]
    # Of like length, so that a sibling is always there when the next one comes; the second one has nothing to compute.
    requests = [GenerationRequest(i, prompts[i // 4], seed=i, max_new_tokens=6 + i % 3) for i in range(16)]
    model = make_model("qwen2", "separate")
    settings = engine_settings(num_slots=num_slots, max_length=CONTEXT, eos_token_id=END, **OPTIONS)
    engine = PrefillCount(model, settings)
    engine.set_detector_state(STATE)
    engine.num_prefilled = 0
    episodes = run(engine, requests)
    assert engine.num_prefilled == 3
    for request in requests:
        assert_same(episodes[request.request_id], slow_response(model, request, "regret_value", SamplingSettings()))


@given(st.lists(st.integers(0, 6000), max_size=20))
def test_prefill_passes_hold_every_prompt_once_with_bounded_padding(lengths):
    groups = _prefill_groups(np.array(lengths, np.int64))
    assert sorted(row for group in groups for row in group) == [i for i, length in enumerate(lengths) if length]
    for group in groups:
        longest, shortest = max(lengths[row] for row in group), min(lengths[row] for row in group)
        assert longest <= max(2 * shortest, 32)
        assert len(group) == 1 or len(group) * longest <= 16384


def test_a_bfloat16_model_decodes_with_float32_signals():
    model = make_model("qwen2", "separate", torch.bfloat16)
    episodes = run(make_engine(model, num_slots=3), make_requests(8))
    for episode in episodes.values():
        assert np.isfinite(episode.values).all()
        assert (episode.logprobs <= 0).all()
        assert (episode.regrets >= 0).all()
        with torch.no_grad():
            tokens = torch.tensor([[*episode.prompt_tokens.tolist(), *episode.response_tokens.tolist()]])
            hidden, critic = model.hidden_states(tokens)
            start = len(episode.prompt_tokens) - 1
            expected = model.project(hidden)[0, start:-1].log_softmax(-1)
            taken = expected.gather(-1, tokens[0, start + 1 :, None])[:, 0]
            values = model.value(critic)[0, start:-1]
        np.testing.assert_allclose(episode.logprobs, taken, atol=0.15)  # bf16 has 8 bits; logits go up to 8
        np.testing.assert_allclose(episode.values, values, atol=0.05)


@pytest.mark.parametrize("rule", ["regret_value", "random"])
def test_a_response_does_not_depend_on_its_companions(rule):
    requests = make_requests(14)
    state = DetectorState(STATE.statistics, beta=2.5) if rule == "random" else STATE
    alone = run(make_engine(num_slots=1, rule=rule, state=state), requests)
    shuffled = [requests[i] for i in np.random.default_rng(0).permutation(len(requests))]
    for num_slots, order in ((4, requests), (4, shuffled), (64, shuffled)):
        together = run(make_engine(num_slots=num_slots, rule=rule, state=state), order)
        for number, episode in alone.items():
            assert together[number].response_tokens.tolist() == episode.response_tokens.tolist()
            assert together[number].stop_reason is episode.stop_reason
            np.testing.assert_allclose(together[number].z, episode.z, atol=1e-5)
    assert StopReason.REGRET in {episode.stop_reason for episode in alone.values()}


def test_another_seed_gives_another_response():
    prompt = np.array([3, 4, 5], np.int32)
    requests = [GenerationRequest(i, prompt, seed=i, max_new_tokens=12) for i in range(6)]
    episodes = run(make_engine(num_slots=6, rule="never"), requests)
    assert len({tuple(episode.response_tokens.tolist()) for episode in episodes.values()}) == 6


def test_rule_never_and_a_disabled_detector_write_the_same_tokens_and_stop_nothing():
    requests = make_requests(12)
    never = run(make_engine(rule="never"), requests)
    disabled = run(make_engine(state=DetectorState(STATE.statistics, STATE.beta, enabled=False)), requests)
    stopped = run(make_engine(), requests)
    for number, episode in never.items():
        assert episode.stop_reason in (StopReason.EOS, StopReason.LENGTH)
        assert episode.mark == disabled[number].mark == -1
        np.testing.assert_array_equal(episode.response_tokens, disabled[number].response_tokens)
        shorter = stopped[number].response_tokens  # a stop cuts; it changes no token before
        np.testing.assert_array_equal(episode.response_tokens[: len(shorter)], shorter)


@pytest.mark.parametrize("rule", ["regret_value", "regret_only", "value_only", "random"])
def test_the_engine_and_the_wrappers_detector_agree_bit_for_bit(rule):
    beta = {"regret_value": 0.8, "regret_only": 0.3, "value_only": 4.0, "random": 2.5}[rule]
    state = DetectorState(STATE.statistics, beta=beta)
    episodes = run(make_engine(num_slots=5, rule=rule, state=state), make_requests(16))
    for episode in episodes.values():
        detector = make_detector(1, state.statistics, beta, rule=rule, **OPTIONS)
        _, exponential = request_noise(episode.seed, 16)
        detector.reset([0], np.array([exponential], np.float32))
        fired = -1
        for t in range(len(episode)):
            verdict = detector.update(episode.regrets[t : t + 1], episode.values[t : t + 1])
            np.testing.assert_allclose(verdict.score, episode.z[t], atol=0 if rule != "random" else 1e-6)
            np.testing.assert_array_equal(verdict.threshold[0], episode.thresholds[t])
            if verdict.stop[0] and fired < 0:
                fired = t
        stopped = episode.stop_reason is StopReason.REGRET
        assert episode.mark == (len(episode) - 1 if stopped else -1)
        if stopped:
            assert fired == len(episode) - 1
        else:  # a natural end wins over a stop on the same step
            assert fired in (-1, len(episode) - 1)
    assert StopReason.REGRET in {episode.stop_reason for episode in episodes.values()}


def test_a_marked_response_runs_on_and_names_the_place_of_its_stop():
    stopped = run(make_engine(), make_requests(16))
    marked = run(make_engine(), make_requests(16, mark_only=True))
    places = [episode.mark for episode in stopped.values() if episode.stop_reason is StopReason.REGRET]
    assert places
    for number, episode in marked.items():
        assert episode.stop_reason in (StopReason.EOS, StopReason.LENGTH)
        assert episode.mark == stopped[number].mark
        assert len(episode) >= len(stopped[number])


def test_a_natural_end_is_neither_stopped_nor_marked():
    everything_fires = DetectorState(RegretStatistics(mean=-5.0), beta=1e-3)
    requests = make_requests(24, max_new_tokens=1)
    episodes = run(make_engine(state=everything_fires, sampling=SamplingSettings(temperature=3.0)), requests)
    assert {episode.stop_reason for episode in episodes.values()} == {StopReason.EOS, StopReason.LENGTH}
    for episode in episodes.values():
        assert episode.z[0] > episode.thresholds[0]
        assert episode.mark == -1
        assert (episode.stop_reason is StopReason.EOS) == (episode.response_tokens[-1] == END)
    for request in requests:
        request.max_new_tokens = 2
    longer = run(make_engine(state=everything_fires, sampling=SamplingSettings(temperature=3.0)), requests)
    for number, episode in longer.items():
        ended = episodes[number].stop_reason is StopReason.EOS
        assert len(episode) == 1
        assert episode.stop_reason is (StopReason.EOS if ended else StopReason.REGRET)


def test_abort_gives_back_what_was_written_and_leaves_the_engine_usable():
    requests = make_requests(7)
    whole = run(make_engine(rule="never"), requests)
    engine = make_engine(rule="never", num_slots=4)
    engine.submit(requests)
    finished = {episode.request_id for _ in range(3) for episode in engine.step()}
    aborted = engine.abort()
    assert engine.num_unfinished == engine.num_live == 0
    assert finished | {episode.request_id for episode in aborted} == set(range(7))
    assert len(finished) + len(aborted) == 7
    lengths = []
    for episode in aborted:
        assert episode.stop_reason is StopReason.ABORT
        assert not episode.terminated
        lengths.append(len(episode))
        np.testing.assert_array_equal(
            episode.response_tokens, whole[episode.request_id].response_tokens[: len(episode)]
        )
        assert len(episode.logprobs) == len(episode.z) == len(episode) or len(episode) == 0
    assert max(lengths) == 3
    assert min(lengths) == 0  # never admitted
    assert engine.abort() == []
    again = run(engine, requests)
    assert all(again[i].response_tokens.tolist() == whole[i].response_tokens.tolist() for i in range(7))


def test_requests_may_be_added_while_others_run():
    requests = make_requests(9)
    expected = run(make_engine(), requests)
    engine = make_engine(num_slots=3)
    episodes, waiting = [], list(requests)
    engine.submit([waiting.pop(0)])
    while engine.num_unfinished or waiting:
        episodes += engine.step()
        engine.submit([waiting.pop(0)] if waiting else [])
    assert len(episodes) == 9
    for episode in episodes:
        np.testing.assert_array_equal(episode.response_tokens, expected[episode.request_id].response_tokens)


def test_new_weights_take_effect_and_stamp_the_episodes():
    model = LanguageModelWithCritic(make_policy("qwen2"))
    engine, request, sampling = make_engine(model), make_requests(1)[0], SamplingSettings()
    assert run(engine, [request])[0].weights_version == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    engine.weights_changed(5)
    episode = run(engine, [request])[0]
    assert episode.weights_version == 5
    assert_same(episode, slow_response(model, request, "regret_value", sampling))


def test_the_learner_can_still_backpropagate_through_the_module_that_wrote():
    model = LanguageModelWithCritic(make_policy("qwen2").train())
    run(make_engine(model), make_requests(2))
    assert model.policy.training
    hidden, _ = model.hidden_states(torch.tensor([[1, 2, 3]]))
    model.project(hidden).sum().backward()
    assert model.policy.get_input_embeddings().weight.grad is not None


def test_episodes_own_their_memory_and_carry_the_request():
    engine, request = make_engine(num_slots=1, rule="never"), make_requests(1, max_new_tokens=4)[0]
    episode = run(engine, [request])[0]
    kept = {name: getattr(episode, name).copy() for name in ("response_tokens", "logprobs", "values", "z")}
    run(engine, make_requests(3))
    for name, column in kept.items():
        np.testing.assert_array_equal(getattr(episode, name), column)
    assert episode.response_tokens.dtype == np.int32
    assert episode.prompt_tokens is request.prompt_tokens
    assert (episode.seed, episode.reward, episode.correct) == (request.seed, 0.0, None)


def test_the_cache_is_allocated_once_and_freed_on_shutdown():
    engine = make_engine(make_model(critic="separate"), num_slots=2)
    layers = [layer for slots in engine._caches for layer in slots.layers]
    addresses = [layer.keys.data_ptr() for layer in layers]
    expected = run(engine, make_requests(5))
    assert [layer.keys.data_ptr() for layer in layers] == addresses
    assert len(layers) == 4
    engine.shutdown()
    assert all(layer.keys is None and layer.values is None for layer in layers)
    again = run(engine, make_requests(5))
    assert all(again[i].response_tokens.tolist() == expected[i].response_tokens.tolist() for i in range(5))


@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [
        ([], 4, "at least one token, got none"),
        ([1] * 40, 9, r"max_length 48 .*got 40 \+ 9 = 49"),
        ([1, VOCABULARY], 4, r"token ids in \[0, 19\), got 1 to 19"),
        ([1, -1], 4, r"token ids in \[0, 19\), got -1 to 1"),
        ([1], 0, "max_new_tokens >= 1, got 0"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_its_numbers(prompt, new, message):
    engine = make_engine()
    bad = GenerationRequest(1, np.array(prompt, np.int32), seed=0, max_new_tokens=new)
    with pytest.raises(ValueError, match=message):
        engine.submit([make_requests(1)[0], bad])
    assert engine.num_unfinished == 0


def test_a_prompt_that_just_fits_fills_the_context():
    fits = GenerationRequest(0, np.ones(40, np.int32), seed=0, max_new_tokens=8)
    engine = make_engine(max_length=1000, rule="never", eos_token_id=None)
    assert engine.max_length == CONTEXT
    assert len(run(engine, [fits])[0]) == 8


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"a seed in \[0, 2\*\*64\), got -1"):
        make_engine().submit([GenerationRequest(0, np.ones(2, np.int32), seed=-1, max_new_tokens=2)])


def test_settings_do_not_change_under_unfinished_responses():
    engine = make_engine(num_slots=2)
    engine.submit(make_requests(3))
    for change in (
        lambda: engine.set_sampling(SamplingSettings(greedy=True)),
        lambda: engine.set_detector_state(DetectorState()),
        lambda: engine.weights_changed(1),
    ):
        with pytest.raises(RuntimeError, match=r"expected no unfinished responses at .*, got 3"):
            change()
    engine.abort()
    engine.set_sampling(SamplingSettings(greedy=True))
    engine.weights_changed(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slots": 0}, "num_slots >= 1, got 0"),
        ({"max_length": 1}, "max_length >= 2 .*, got 1"),
        ({"eos_token_id": VOCABULARY}, r"vocab_size=19\), got 19"),
        ({"rule": "luck"}, "stop rule out of .* got 'luck'"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_engine(**options)


def test_a_position_scheme_computed_from_the_mask_is_refused():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 1, "n_head": 4}
    config = BloomConfig(**sizes, hidden_dropout=0.0, attention_dropout=0.0)
    model = LanguageModelWithCritic(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(ValueError, match="got BloomForCausalLM"):
        make_engine(model)


def test_dropout_is_refused():
    config = GPT2Config(**GPT2_SIZES, resid_pdrop=0.5, initializer_range=0.3)
    model = LanguageModelWithCritic(AutoModelForCausalLM.from_config(config).train())
    with pytest.raises(ValueError, match="or dropout is on"):
        make_engine(model)


@cache
def tiny_model() -> LanguageModelWithCritic:
    torch.manual_seed(1)
    sizes = {**SIZES, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LanguageModelWithCritic(AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).eval())


@cache
def tiny_response(length: int, seed: int, new: int) -> list[int]:
    request = GenerationRequest(0, np.arange(1, length + 1, dtype=np.int32), seed, new)
    return run(make_engine(tiny_model(), num_slots=1, rule="never"), [request])[0].response_tokens.tolist()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(1, 8), st.booleans()), min_size=1, max_size=14
    ),
    st.integers(1, 5),
)
def test_whatever_the_schedule_every_request_gets_its_own_response(rows, num_slots):
    requests = [
        GenerationRequest(i, np.arange(1, length + 1, dtype=np.int32), seed, new, mark_only)
        for i, (length, seed, new, mark_only) in enumerate(rows)
    ]
    episodes = run(make_engine(tiny_model(), num_slots=num_slots), requests)
    for request in requests:
        episode = episodes[request.request_id]
        whole = tiny_response(len(request.prompt_tokens), request.seed, request.max_new_tokens)
        assert episode.response_tokens.tolist() == whole[: len(episode)]
        if episode.stop_reason is StopReason.REGRET:
            assert not request.mark_only
            assert len(episode) < request.max_new_tokens
        else:
            assert len(episode) == len(whole)
