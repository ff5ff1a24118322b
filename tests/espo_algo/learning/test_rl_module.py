from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hand_made import VOCABULARY, build_module, naive_scores, random_episodes
from ray.rllib.core.columns import Columns
from tiny_models import tiny_qwen2
from torch import Tensor
from transformers import AutoModelForCausalLM

from espo_algo import ESPOConfig, TokenEpisode
from espo_algo.learning import scoring
from espo_algo.learning.batching import SequenceBatch
from espo_algo.learning.rl_module import LanguageModelRLModule, state_numbers, with_numbers
from espo_env.early_stopping import AuditedResponse, EarlyStoppingState

LENGTHS = [5, 1, 12, 7, 3]
CRITICS = pytest.mark.parametrize("critic", ["shared", "separate"])


def forward(module: LanguageModelRLModule, episodes: list[TokenEpisode], entropy: bool = True) -> dict[str, Tensor]:
    batch = SequenceBatch.from_episodes(episodes, "cpu")
    batch.entropy_gradient = entropy
    return module.forward_train(batch)


def naive(module: LanguageModelRLModule, episodes: list[TokenEpisode], temperature: float = 1.0) -> dict[str, Tensor]:
    logprobs, entropies, values, behind = zip(
        *(naive_scores(module.model, e, temperature) for e in episodes), strict=True
    )
    return {
        Columns.ACTION_LOGP: torch.cat(logprobs),
        "entropy": torch.cat(entropies),
        Columns.VF_PREDS: torch.cat(values),
        "last_values": torch.stack(behind),
    }


def gradients(module: LanguageModelRLModule, out: dict[str, Tensor], **weights: float) -> dict[str, Tensor]:
    """Of a sum in which each token has a weight of its own."""
    loss = sum(w * (out[name] * torch.linspace(-1, 2, len(out[name]))).sum() for name, w in weights.items())
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@CRITICS
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_those_of_the_bare_model(config: ESPOConfig, critic: str, temperature: float) -> None:
    module = build_module(config.language_model(critic=critic).generation(temperature=temperature))
    episodes = random_episodes(LENGTHS)
    got, expected = forward(module, episodes), naive(module, episodes, temperature)
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)
        assert got[name].dtype is torch.float32


@CRITICS
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_are_those_of_the_bare_model(
    config: ESPOConfig, critic: str, gradient_checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_CHUNK", 4)
    module = build_module(config.language_model(critic=critic, gradient_checkpointing=gradient_checkpointing))
    episodes = random_episodes(LENGTHS)
    weights = {Columns.ACTION_LOGP: 1.0, Columns.VF_PREDS: 0.5, "entropy": 0.3}
    got = gradients(module, forward(module, episodes), **weights)
    expected = gradients(module, naive(module, episodes), **weights)
    assert got.keys() == expected.keys() == dict(module.named_parameters()).keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("chunk", [1, 3, 27])
def test_the_chunk_size_changes_nothing_but_the_rows_of_logits(
    config: ESPOConfig, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, episodes = build_module(config), random_episodes(LENGTHS)
    expected = forward(module, episodes)
    monkeypatch.setattr(scoring, "_CHUNK", chunk)
    rows: list[int] = []
    project = module.model.project
    monkeypatch.setattr(module.model, "project", lambda hidden: rows.append(len(hidden)) or project(hidden))
    got = forward(module, episodes)
    assert sum(rows) == sum(LENGTHS)
    assert max(rows) == min(chunk, sum(LENGTHS))
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=1e-6, msg=name)


def test_entropy_has_a_gradient_only_where_it_is_asked_for(config: ESPOConfig) -> None:
    module, episodes = build_module(config), random_episodes(LENGTHS)
    with_gradient, without = forward(module, episodes), forward(module, episodes, entropy=False)
    torch.testing.assert_close(with_gradient["entropy"], without["entropy"])
    assert with_gradient["entropy"].requires_grad
    assert not without["entropy"].requires_grad
    assert without[Columns.ACTION_LOGP].requires_grad


def largest_saved_tensor(compute: object) -> int:
    """Elements of the largest tensor that autograd keeps from the forward for the backward pass."""
    sizes = [0]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        compute()
    return max(sizes)


def test_no_logits_are_kept_for_the_backward_pass(config: ESPOConfig, tmp_path: Path) -> None:
    vocabulary, tokens = 2000, 200
    wide = tiny_qwen2(vocabulary, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path)
    module = LanguageModelRLModule(
        observation_space=None,
        action_space=type(config.check_task().action_space())(vocabulary),
        model_config={**config._model_config_auto_includes, "model": str(tmp_path)},
    )
    episodes = random_episodes([tokens // 4] * 4)
    kept = largest_saved_tensor(lambda: forward(module, episodes))
    naively = largest_saved_tensor(lambda: torch.log_softmax(module.model.policy(torch.zeros(4, 50).long()).logits, -1))
    assert naively >= tokens * vocabulary
    # What is kept is no larger than the largest weight.
    assert kept <= max(p.numel() for p in module.parameters())
    assert kept < tokens * vocabulary / 4


@CRITICS
@torch.no_grad()
def test_observations_are_answered_like_sequences(config: ESPOConfig, critic: str) -> None:
    module = build_module(config.language_model(critic=critic).generation(temperature=0.7))
    episodes = random_episodes(LENGTHS)
    tokens = np.zeros((len(episodes), 40), np.int32)
    lengths = []
    for row, episode in enumerate(episodes):
        written = np.concatenate([episode.prompt_tokens, episode.response_tokens[:-1]])
        tokens[row, : len(written)] = written
        lengths.append(len(written))
    observations = {Columns.OBS: {"tokens": tokens, "length": np.array(lengths, np.int32)}}
    expected = [naive_scores(module.model, e, 0.7) for e in episodes]
    for out in (module.forward_inference(observations), module.forward_exploration(observations)):
        logits = out[Columns.ACTION_DIST_INPUTS]
        assert logits.shape == (len(episodes), VOCABULARY)
        actions = torch.tensor([int(e.response_tokens[-1]) for e in episodes])
        logprobs = logits.log_softmax(-1)[torch.arange(len(episodes)), actions]
        torch.testing.assert_close(logprobs, torch.stack([e[0][-1] for e in expected]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            out[Columns.VF_PREDS], torch.stack([e[2][-1] for e in expected]), rtol=1e-5, atol=1e-5
        )
    values = module.compute_values(
        {Columns.OBS: {name: torch.from_numpy(o) for name, o in observations["obs"].items()}}
    )
    torch.testing.assert_close(values, out[Columns.VF_PREDS])


# --- state ----------------------------------------------------------------------------------------------------------


def test_the_regret_state_is_in_the_buffers(config: ESPOConfig) -> None:
    module = build_module(config)
    start = module.early_stopping
    assert math.isnan(start.warmup.last_loss)
    assert (start.statistics, start.tolerance.beta, start.num_updates) == (
        config.early_stopping_state.statistics,
        7.0,
        0,
    )
    changed = replace(
        start,
        statistics=replace(start.statistics, mean=0.1, var=0.3),
        tolerance=replace(start.tolerance, beta=1 / 3),
        warmup=replace(start.warmup, done=True, streak=2, last_loss=0.7),
        num_updates=5,
    )
    module.early_stopping = changed
    assert module.early_stopping == changed
    assert {name for name, _ in module.named_buffers() if name.startswith("regret_")} == {
        "regret_mean",
        "regret_var",
        "regret_beta",
        "regret_warmup_done",
        "regret_warmup_streak",
        "regret_warmup_last_loss",
        "regret_num_updates",
    }


def test_what_was_audited_is_in_a_buffer_of_its_own(config: ESPOConfig) -> None:
    config.early_stopping(controller="false_positive_rate", shadow_fraction=0.1, audit_window=5)
    module, other = build_module(config), build_module(config, inference_only=True)
    start = module.early_stopping
    assert start.tolerance == config.early_stopping_state.tolerance
    assert start.tolerance.audited == ()
    never = AuditedResponse(-math.inf, -math.inf, True)
    tolerance = start.tolerance.updated(
        [AuditedResponse(2.5, 1 / 3, True), AuditedResponse(0.1, -math.inf, False), never]
    )
    module.early_stopping = replace(start, tolerance=tolerance)
    assert module.early_stopping.tolerance == tolerance
    other.set_state({name: np.array(array) for name, array in module.get_state(inference_only=True).items()})
    assert other.early_stopping.tolerance == tolerance
    # An export has the numbers alone, and goes on with what was promised.
    promised = replace(start, tolerance=replace(tolerance, may_stop=True))
    assert with_numbers(start, state_numbers(promised)).tolerance == replace(promised.tolerance, audited=())
    assert not with_numbers(start, state_numbers(EarlyStoppingState())).tolerance.may_stop
    # The window moves on; fewer than before leave nothing behind.
    full = tolerance.updated([never] * 4)
    assert len(full.audited) == 5
    for tolerance in (full, start.tolerance):
        module.early_stopping = replace(start, tolerance=tolerance)
        assert module.early_stopping.tolerance == tolerance


@CRITICS
def test_state_comes_back_exactly(config: ESPOConfig, critic: str) -> None:
    source, target = (build_module(config.language_model(critic=critic)) for _ in range(2))
    source.early_stopping = replace(source.early_stopping, tolerance=replace(source.early_stopping.tolerance, beta=0.1))
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(1.0)
    state = source.get_state()
    target.set_state({name: np.array(array) for name, array in state.items()})
    assert not any("lm_head" in name for name in state)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]) or name == "regret_warmup_last_loss", name
    assert math.isnan(target.early_stopping.warmup.last_loss)
    assert target.early_stopping.tolerance.beta == 0.1


@CRITICS
def test_a_runner_in_bfloat16_is_sent_bfloat16(config: ESPOConfig, critic: str) -> None:
    config.language_model(critic=critic, dtype="bfloat16")
    learner, runner = build_module(config), build_module(config, inference_only=True)
    learner.early_stopping = replace(
        learner.early_stopping, tolerance=replace(learner.early_stopping.tolerance, beta=0.1)
    )
    assert learner.model.policy.dtype is torch.float32
    assert runner.model.policy.dtype is torch.bfloat16
    state = learner.get_state(inference_only=True)
    assert {array.dtype for name, array in state.items() if "value_head" in name} == {np.dtype(np.float32)}
    assert {array.dtype for name, array in state.items() if name.startswith("regret_")} == {np.dtype(np.float64)}
    assert {array.dtype for name, array in state.items() if "trunk" in name or "policy" in name} == {np.dtype(np.int16)}
    runner.set_state(state)
    received = dict(runner.named_parameters())
    for name, parameter in learner.named_parameters():
        expected = parameter if "value_head" in name else parameter.bfloat16()
        assert torch.equal(received[name], expected), name
    assert runner.early_stopping.tolerance.beta == 0.1
    # The learner keeps its own precision in a checkpoint.
    assert not any(name.endswith(":bfloat16") for name in learner.get_state())
    runner.get_state()


def test_scores_in_bfloat16_come_back_in_float32(config: ESPOConfig) -> None:
    episodes = random_episodes(LENGTHS)
    exact = forward(build_module(config), episodes)
    rough = forward(build_module(config.copy(copy_frozen=False).language_model(dtype="bfloat16")), episodes)
    for name in rough:
        assert rough[name].dtype is torch.float32
        torch.testing.assert_close(rough[name], exact[name], rtol=0.1, atol=0.2, msg=name)
    assert not torch.equal(rough[Columns.ACTION_LOGP], exact[Columns.ACTION_LOGP])


def test_foreign_weights_are_rejected(config: ESPOConfig) -> None:
    shared, separate = (
        build_module(config),
        build_module(config.copy(copy_frozen=False).language_model(critic="separate")),
    )
    with pytest.raises(ValueError, match=r"unknown \['model\.critic_trunk"):
        shared.set_state(separate.get_state())
    with pytest.raises(ValueError, match=r"missing \['model\.critic_trunk"):
        separate.set_state(shared.get_state())
