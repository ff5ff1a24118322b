"""Prompts that are computed once for their responses, against whole sequences that are padded to the longest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_checks import CONFIGS, make_model
from hand_made import build_learner, make_episode, random_episodes, update
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core import DEFAULT_MODULE_ID
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, MistralConfig

from espo_algo import ESPOConfig, LanguageModelWithCritic, TokenEpisode
from espo_algo.learning.batching import SequenceBatch
from espo_algo.learning.shared_prompts import (
    SharedPromptBatch,
    arrange,
    blocks_of_like_length,
    check_shared_prompts,
)
from espo_algo.learning.training_data import WholeEpisodeTrainingData

LENGTHS = [5, 1, 9, 7, 3, 6, 2, 8, 4, 1, 12, 2]


def siblings(lengths: list[int] = LENGTHS, responses: int = 4, seed: int = 0) -> list[TokenEpisode]:
    """Responses of which so many in a row answer the same prompt."""
    episodes = random_episodes(lengths, seed)
    for i, episode in enumerate(episodes):
        episode.group = i // responses
        episode.prompt_tokens = episodes[episode.group * responses].prompt_tokens
    return episodes


# --- which responses go through the model together ------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), min_size=1, max_size=24),
    st.lists(st.integers(1, 20), min_size=5, max_size=5),
    st.integers(1, 120),
    st.randoms(use_true_random=False),
)
def test_arranged_responses_stand_once_within_the_budget(members, prompts, budget, random):
    episodes = [make_episode([1] * length, prompt=[2 + p] * prompts[p]) for p, length in members]
    chosen = np.array(random.sample(range(len(episodes)), random.randint(1, len(episodes))))
    batches = arrange(episodes, chosen, budget)
    assert sorted(np.concatenate([i for blocks in batches for i in blocks]).tolist()) == sorted(chosen.tolist())
    for blocks in batches:
        own = [episodes[i] for block in blocks for i in block]
        distinct = {e.prompt_tokens.tobytes() for e in own}
        tokens = sum(map(len, own)) + len(distinct) * max(len(e.prompt_tokens) for e in own)
        assert tokens <= budget or len(own) == 1


def test_responses_to_a_prompt_are_put_together():
    episodes = [make_episode([1] * 3, prompt=prompt) for prompt in ([5, 6], [7, 8], [5, 6], [7, 8])]
    batches = arrange(episodes, np.arange(4), max_tokens=8)
    assert [sorted(np.concatenate(blocks).tolist()) for blocks in batches] == [[0, 2], [1, 3]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(0, 50))
def test_blocks_waste_as_little_as_any_split(lengths, pass_tokens):
    blocks = blocks_of_like_length(np.array(lengths), pass_tokens)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(lengths)))
    longest_first = sorted(lengths, reverse=True)

    @cache
    def cheapest(start: int) -> int:
        ends = range(start + 1, len(lengths) + 1)
        return min(((e - start) * longest_first[start] + pass_tokens + cheapest(e) for e in ends), default=0)

    assert sum(len(b) * max(lengths[i] for i in b) + pass_tokens for b in blocks) == cheapest(0)


# --- the same numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("name", CONFIGS)
def test_states_and_gradients_are_those_of_whole_sequences(name, critic):
    model = make_model(name, critic, tied=True).double()
    episodes = siblings()
    blocks = [np.array([10, 2, 7, 3]), np.array([5, 0, 8, 4]), np.array([6, 11, 1, 9])]
    order = np.concatenate(blocks)
    batches = (
        SequenceBatch.from_episodes([episodes[i] for i in order], "cpu", which=[np.float32([i]) for i in order]),
        SharedPromptBatch.from_episodes(episodes, blocks, "cpu", which=[np.float32([i]) for i in range(12)]),
    )
    results = []
    for batch in batches:
        model.zero_grad()
        states = batch.response_states(model)
        torch.manual_seed(1)
        sum((torch.randn_like(s) * s).sum() for s in (states.policy, states.critic, states.last)).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append((states.policy, states.critic, states.last, *gradients))
    # Norms and rotary positions are computed in float32 even here.
    scale = max(float(left.detach().abs().max()) for left in results[0])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=0.0, atol=1e-6 * scale)
    assert batches[0].actions.tolist() == batches[1].actions.tolist()
    assert batches[0].columns["which"].tolist() == batches[1].columns["which"].tolist()


def test_each_prompt_goes_through_the_model_once():
    episodes = siblings()
    batch = SharedPromptBatch.from_episodes(episodes, [np.arange(12)], "cpu")
    assert sorted(map(tuple, batch.prompt_ids.tolist())) == sorted(
        tuple(np.pad(episodes[i].prompt_tokens, (0, batch.prompt_ids.shape[1] - len(episodes[i].prompt_tokens))))
        for i in (0, 4, 8)
    )
    assert len(batch) == sum(LENGTHS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("budget", "longest"), [(1, 1024), (40, 1024), (40, 6), (10_000, 1024)])
def test_an_update_is_that_of_whole_sequences(
    config: ESPOConfig, budget: int, longest: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espo_algo.learning.learner.LONGEST", longest)
    config.training(grad_clip=None, entropy_coeff=0.01).language_model(dtype=dtype)
    plain, shared = (config.copy(copy_frozen=False) for _ in range(2))
    plain.training(max_tokens_per_microbatch=10_000)
    shared.training(max_tokens_per_microbatch=budget, share_prompts=True)
    learners = [build_learner(plain), build_learner(shared)]
    metrics = [update(learner, siblings(), minibatch_size=None, num_epochs=1) for learner in learners]
    largest = max(float(p.grad.abs().max()) for p in learners[0].language_module.parameters())
    tolerance = largest * (1e-6 if dtype == "float32" else 2e-2)
    names = [name for name, _ in learners[0].language_module.named_parameters()]
    for name, left, right in zip(names, *(learner.language_module.parameters() for learner in learners), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=0.0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    for name in ("policy_loss", "vf_loss", "entropy", "total_loss", "vf_explained_var", "mismatch_kl"):
        close = 1e-4 if dtype == "float32" else 0.1
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=close, abs=close), name


# --- minibatches ----------------------------------------------------------------------------------------------------


def steps(learner, episodes, **options):
    """The groups and the responses of each optimiser step."""
    data = WholeEpisodeTrainingData(episodes=episodes)
    number = {tuple(e.response_tokens.tolist()): i for i, e in enumerate(episodes)}
    found = []
    for minibatch in learner._create_iterator_if_necessary(training_data=data, **options):
        responses = []
        for batch in minibatch.policy_batches[DEFAULT_MODULE_ID].batches:
            lengths = torch.cat([block.lengths for block in batch.blocks]).tolist()
            responses += [number[tuple(part.tolist())] for part in batch.actions.split(lengths)]
        found.append(responses)
    return found


def test_minibatches_are_made_of_whole_prompts(config: ESPOConfig) -> None:
    learner = build_learner(config.training(share_prompts=True, max_tokens_per_microbatch=30))
    episodes = siblings([5, 8, 9, 7, 3, 6, 4, 2] * 2, responses=4)
    options = {"num_epochs": 2, "minibatch_size": 8, "shuffle_batch_per_epoch": True}
    found = steps(learner, episodes, **options)
    assert [sorted(found[i] + found[i + 1]) for i in (0, 2)] == [list(range(16))] * 2
    for responses in found:
        assert sorted(responses) == sorted(4 * g + i for g in {r // 4 for r in responses} for i in range(4))
    assert steps(learner, episodes, **options) == found
    learner._weights_seq_no += 1
    assert steps(learner, episodes, **options) != found


def test_with_one_response_a_prompt_the_minibatches_are_those_without_sharing(config: ESPOConfig) -> None:
    episodes = random_episodes([5, 8, 9, 7, 3, 6, 4, 2, 10, 11])
    options = {"num_epochs": 1, "minibatch_size": 4, "shuffle_batch_per_epoch": True}
    shared = build_learner(config.copy(copy_frozen=False).training(share_prompts=True))
    plain = build_learner(config)
    data = WholeEpisodeTrainingData(episodes=episodes)
    for found, minibatch in zip(
        steps(shared, episodes, **options),
        plain._create_iterator_if_necessary(training_data=data, **options),
        strict=True,
    ):
        batches = minibatch.policy_batches[DEFAULT_MODULE_ID].batches
        assert sum(len(batch) for batch in batches) == sum(len(episodes[i]) for i in found)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_positions_that_come_from_the_mask_are_refused():
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    torch.manual_seed(0)
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=19, **sizes)).eval()
    with pytest.raises(ValueError, match=r"expected an architecture that takes a mask of shape .* got BloomFor"):
        check_shared_prompts(LanguageModelWithCritic(bloom))
    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=19)
    check_shared_prompts(LanguageModelWithCritic(AutoModelForCausalLM.from_config(gpt2).eval()))


def test_gradient_checkpointing_beside_it_is_refused(config: ESPOConfig) -> None:
    config.training(share_prompts=True).language_model(gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"gradient_checkpointing=False\) with .training\(share_prompts=True"):
        config.validate()


def test_a_sliding_window_shorter_than_a_response_is_refused(config: ESPOConfig, tmp_path: Path) -> None:
    MistralConfig(vocab_size=20, sliding_window=8, max_position_embeddings=64).save_pretrained(tmp_path)
    config.training(share_prompts=True).language_model(model=tmp_path)
    with pytest.raises(ValueError, match=r"share_prompts=True\): expected max_length <= sliding_window"):
        config.check_task()
