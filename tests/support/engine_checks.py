"""What every engine is held against: a plain loop over transformers' logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from espo_algo.episodes import TokenEpisode
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.engine import Engine, GenerationRequest, SamplingSettings
from espo_algo.rollout.noise import request_noise
from espo_algo.rollout.vllm.support import check_vllm
from espo_env.early_stopping import DetectorState, RegretStatistics
from espo_env.types import TRACE_COLUMNS, StopReason

VOCABULARY, PADDED, END, CONTEXT = 19, 24, 0, 128
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
# Fires now and then on these random models, whose regrets have a mean around 2 nats.
STATE = DetectorState(RegretStatistics(mean=2.0, var=4.0), beta=0.8)
DETECTOR = {"smoothing": 0.6, "value_floor": 0.1, "clip": 2.0, "delta": 1e-3}
SAMPLING = SamplingSettings(temperature=1.2)


def make_model(
    name: str, critic: str, tied: bool, scale: float = 0.2, vocabulary: int = VOCABULARY
) -> LanguageModelWithCritic:
    """A small model with random weights, a padded embedding, and an end token that is not the task's."""
    torch.manual_seed(0)
    config = CONFIGS[name](
        vocab_size=vocabulary + PADDED - VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tied,
        initializer_range=scale,
        bos_token_id=None,
        eos_token_id=2,
    )
    model = LanguageModelWithCritic(AutoModelForCausalLM.from_config(config).eval(), critic, vocabulary)
    with torch.no_grad():
        model.value_head.weight.normal_(std=0.1)
        model.value_head.bias.fill_(0.3)
        if model.critic_trunk is not None:  # else nobody would see it if the trunks were mixed up
            for parameter in model.critic_trunk.parameters():
                parameter.normal_(std=0.2)
    return model


def needs_weight_transfer() -> None:
    """Skips a test where the installed vLLM has no weight transfer that is known."""
    try:
        check_vllm(weight_transfer="nccl")
    except ImportError as error:
        pytest.skip(str(error))


@torch.no_grad()
def train_a_little(model: LanguageModelWithCritic) -> None:
    """Changes every weight."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)


def make_requests(count: int, max_new_tokens: int = 24, **options: Any) -> list[GenerationRequest]:
    """Prompts of 1 to 80 tokens, a quarter of them posed four times; every third response is marked only."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(1, VOCABULARY, rng.integers(1, 81)).astype(np.int32) for _ in range(count)]
    return [
        GenerationRequest(i, prompts[i % 4 if i % 4 == 0 else i], 100 + i, max_new_tokens, mark_only=i % 3 == 0)
        for i in range(count)
    ]


def run(engine: Engine, requests: Sequence[GenerationRequest], always_full: bool = True) -> list[TokenEpisode]:
    """All episodes in the order of the requests; checks that no slot is idle while there is work."""
    engine.submit(requests)
    episodes: dict[int, TokenEpisode] = {}
    while remaining := engine.num_unfinished:
        finished = engine.step()
        if always_full:
            assert engine.num_live == min(engine.num_slots, remaining)
        assert engine.num_unfinished == remaining - len(finished)
        episodes |= {episode.request_id: episode for episode in finished}
    assert engine.step() == []
    assert engine.num_live == 0
    return [episodes[request.request_id] for request in requests]


@torch.no_grad()
def differences(
    model: LanguageModelWithCritic,
    request: GenerationRequest,
    episode: TokenEpisode,
    sampling: SamplingSettings = SAMPLING,
    state: DetectorState = STATE,
) -> dict[str, float]:
    """Goes through a response token by token, in float64, the algorithm's formulas as they stand.

    Asserts the drawn tokens, the mark, the place and the reason of the end.

    Returns:
        The greatest difference in each column.
    """
    tokens = torch.tensor([[*episode.prompt_tokens.tolist(), *episode.response_tokens.tolist()]])
    written = slice(len(episode.prompt_tokens) - 1, -1)
    hidden, critic = model.hidden_states(tokens.to(model.policy.device))
    logits = model.project(hidden)[0, written].double().cpu().numpy() / sampling.temperature
    values = model.value(critic)[0, written].tolist()
    uniforms, _ = request_noise(request.seed, request.max_new_tokens)
    z, mark, reason, columns = 0.0, -1, None, []
    for t, token in enumerate(episode.response_tokens.tolist()):
        assert reason is None, f"tokens after the end ({reason}) of request {request.request_id} at {t}"
        cumulative = np.cumsum(np.exp(logits[t] - logits[t].max()))
        cumulative /= cumulative[-1]
        assert cumulative[token] > uniforms[t] - 1e-5
        assert token == 0 or cumulative[token - 1] <= uniforms[t] + 1e-5
        regret = logits[t].max() - logits[t][token]
        normalised = (regret - state.statistics.mean) / math.sqrt(state.statistics.var + DETECTOR["delta"])
        z = DETECTOR["smoothing"] * z + (1 - DETECTOR["smoothing"]) * min(max(normalised, -2.0), 2.0)
        threshold = state.beta * max(values[t], DETECTOR["value_floor"])
        columns.append((logits[t][token] - np.logaddexp.reduce(logits[t]), regret, values[t], z, threshold))
        if token == END:
            reason = StopReason.EOS
        elif t + 1 == request.max_new_tokens:
            reason = StopReason.LENGTH
        elif z > threshold and mark < 0:
            mark = t
            reason = None if request.mark_only else StopReason.REGRET
    assert episode.stop_reason is reason
    assert episode.mark == mark
    found = [getattr(episode, name) for name in TRACE_COLUMNS]
    return {
        name: float(np.abs(column - expected).max())
        for name, column, expected in zip(TRACE_COLUMNS, found, np.array(columns).T, strict=True)
    }


def worst_differences(
    model: LanguageModelWithCritic, requests: Sequence[GenerationRequest], episodes: Sequence[TokenEpisode]
) -> dict[str, float]:
    """The greatest difference in each column over all episodes."""
    each = [differences(model, *pair) for pair in zip(requests, episodes, strict=True)]
    return {name: max(one[name] for one in each) for name in each[0]}
