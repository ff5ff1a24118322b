"""Sharded learners against one learner that has everything; gloo, several processes, no Ray."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import VOCABULARY, build_learner, make_episode, update
from ranks import run_ranks
from torch.distributed.tensor import DTensor

from espo_algo import ESPOConfig, TokenEpisode
from espo_algo.learning.learner import ESPOLearner
from espo_algo.learning.training_data import WholeEpisodeTrainingData
from espo_algo.weight_sync.packing import pieces_of, tensors_of
from espo_env.types import StopReason

UPDATES = 3
METRICS = ("policy_loss", "vf_loss", "entropy", "mean_kl_loss", "grad_norm", "vf_explained_var", "mismatch_kl")


def episodes_of(iteration: int) -> list[TokenEpisode]:
    """Five long responses, each a micro-batch, so that some learners have more of these than others."""
    rng = np.random.default_rng(iteration)
    lengths = [12, 1, 1, 11, 1, 9, 1, 1, 10, 1, 9, 1]
    return [
        make_episode(
            rng.integers(1, VOCABULARY, length),
            StopReason.REGRET if i % 3 == 1 else StopReason.EOS,
            rng.integers(1, VOCABULARY, rng.integers(1, 6) if length > 1 else 1),
            reward=float(rng.random() < 0.5),
            logprobs=rng.normal(-2.8, 0.1, length),
            regrets=rng.exponential(size=length),
            values=rng.normal(size=length),
            request_id=i,
            group=i,
        )
        for i, length in enumerate(lengths)
    ]


def train(learner: ESPOLearner, rank: int, world_size: int, updates: int = UPDATES) -> list[dict[str, float]]:
    """Updates on this rank's share."""
    metrics = []
    for iteration in range(updates):
        config = learner.config
        options: dict[str, Any] = {"num_epochs": config.num_epochs, "minibatch_size": config.minibatch_size}
        shares = WholeEpisodeTrainingData(episodes=episodes_of(iteration)).shard(world_size, **options)
        share, extra = shares[rank]
        metrics.append(update(learner, share.episodes, **extra))
    return metrics


def arrays(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights and moments by name."""
    found = dict(state["rl_module"]["default_policy"])
    for name, optimizer in state["optimizer"].items():
        for index, entry in optimizer["state"]["state"].items():
            found |= {f"{name}.{index}.{moment}": np.asarray(array) for moment, array in entry.items()}
    return found


def run_sharded(rank: int, config: ESPOConfig, start: dict[str, Any], updates: int = UPDATES) -> tuple[Any, ...]:
    learner = build_learner(config)
    learner.set_state(start)
    parameters = dict(learner.language_module.named_parameters())
    assert all(isinstance(parameter, DTensor) for parameter in parameters.values())
    held = sum(parameter.to_local().nbytes for parameter in parameters.values())
    missing = []
    count = learner._passes_missing
    learner._passes_missing = lambda passes: missing.append(count(passes)) or missing[-1]
    metrics = train(learner, rank, config.num_learners, updates)
    assert sum(learner._across.sums(*missing)) > 0  # some learner has had less to do
    gradients = {}
    for name, parameter in learner.language_module.named_parameters():
        if parameter.requires_grad:
            gradients[name] = parameter.grad.full_tensor().numpy()
    learner.gather(optimizer=True)
    return metrics, gradients, learner.get_state() if rank == 0 else None, held


def run_alone(config: ESPOConfig, start: dict[str, Any]) -> tuple[Any, ...]:
    learner = build_learner(config)
    learner.set_state(start)
    metrics = train(learner, 0, 1)
    gradients = {n: p.grad.numpy() for n, p in learner.language_module.named_parameters() if p.requires_grad}
    return metrics, gradients, learner.get_state(), sum(p.nbytes for p in learner.language_module.parameters())


def settings(config: ESPOConfig, num_learners: int, stop_weight: float = 1.0, **language_model: Any) -> ESPOConfig:
    """Every update is one minibatch, because learners shuffle and split their own shares."""
    config = config.copy(copy_frozen=False)
    config.language_model(**language_model).early_stopping(stop_weight=stop_weight)
    config.training(
        lr=1e-3,
        critic_lr=1e-3,
        grad_clip=0.5,
        entropy_coeff=0.01,
        weight_decay=0.1,
        minibatch_size=12,
        train_batch_size_per_learner=12,
        max_tokens_per_microbatch=18,
        num_epochs=2,
        lambda_=0.9,
    )
    if num_learners > 1:
        config.learners(num_learners=num_learners).language_model(sharding="fsdp")
    return config


@pytest.mark.parametrize(
    ("num_learners", "options"),
    [
        (2, {"critic": "shared", "stop_weight": 0.5}),
        (3, {"critic": "separate", "gradient_checkpointing": True}),
        # Low rank: many parameters are frozen, and each block runs twice before its gradients come.
        (2, {"critic": "separate", "gradient_checkpointing": True, "lora": {"r": 2}}),
    ],
)
def test_sharded_learners_learn_what_one_learner_learns(config, num_learners, options):
    alone = settings(config, 0, **options)
    start = build_learner(alone).get_state()
    expected, expected_gradients, expected_state, weights = run_alone(alone, start)
    results = run_ranks(num_learners, run_sharded, settings(config, num_learners, **options), start)
    for rank, (metrics, gradients, state, held) in enumerate(results):
        assert held < 1.1 * weights / num_learners
        for got, want in zip(metrics, expected, strict=True):
            for name in METRICS:
                assert got[name] == pytest.approx(want[name], rel=1e-4, abs=1e-6), name
        for name, gradient in expected_gradients.items():
            np.testing.assert_allclose(gradients[name], gradient, rtol=1e-3, atol=1e-6, err_msg=name)
        if rank == 0:
            got, want = arrays(state), arrays(expected_state)
            assert got.keys() == want.keys()
            for name, array in want.items():
                # Weights by a hundredth of an optimiser's step, moments by their size.
                tolerance = 1e-5 if name.startswith("model.") else 1e-4 * np.abs(array).max()
                np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=tolerance, err_msg=name)


def restore(rank: int, config: ESPOConfig, state: dict[str, Any]) -> dict[str, Any] | None:
    learner = build_learner(config)
    learner.set_state(state)
    learner.gather(optimizer=True)
    return learner.get_state() if rank == 0 else None


def test_what_two_learners_save_one_and_three_restore(config):
    language_model = {"critic": "separate"}
    start = build_learner(settings(config, 0, **language_model)).get_state()
    (_, _, saved, _), _ = run_ranks(2, run_sharded, settings(config, 2, **language_model), start, 1)
    alone = build_learner(settings(config, 0, **language_model))
    alone.set_state(saved)
    restored = run_ranks(3, restore, settings(config, 3, **language_model), saved)[0]
    expected = arrays(saved)
    for state in (restored, alone.get_state()):
        got = arrays(state)
        assert got.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    # All moments are there, and none is empty.
    assert sum(name.endswith("exp_avg_sq") and bool(array.any()) for name, array in expected.items()) > 20


def run_bfloat16(rank: int, config: ESPOConfig, start: dict[str, Any]) -> Any:
    learner = build_learner(config)
    learner.set_state(start)
    metrics = train(learner, rank, 2, updates=2)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in learner.language_module.parameters())
    sent = [*learner.pieces_to_send()]
    learner.gather(optimizer=False)
    return metrics, sent, learner.get_state(not_components="optimizer") if rank == 0 else None


def test_bfloat16_computes_in_it_and_keeps_float32_weights(config):
    language_model = {"critic": "separate", "dtype": "bfloat16"}
    alone = build_learner(settings(config, 0, **language_model))
    start = alone.get_state()
    expected = train(alone, 0, 1, updates=2)
    (metrics, sent, state), (others_metrics, others_sent, _) = run_ranks(
        2, run_bfloat16, settings(config, 2, **language_model), start
    )
    for got, other in zip(metrics, others_metrics, strict=True):
        assert [got[name] for name in METRICS] == [other[name] for name in METRICS]
    assert others_sent == []
    for got, want in zip(metrics, expected, strict=True):
        for name in ("policy_loss", "vf_loss", "entropy", "grad_norm"):
            assert got[name] == pytest.approx(want[name], rel=0.05, abs=0.02), name
    # A runner gets what a replicated learner would send.
    alone.set_state(state)
    (piece,) = alone.pieces_to_send()
    assert {name for arrays in sent for name in arrays} == piece.keys()
    for arrays_sent in sent:
        for name, array in arrays_sent.items():
            np.testing.assert_array_equal(array, piece[name], err_msg=name)
    weights = state["rl_module"]["default_policy"]
    assert any(not torch.equal(torch.tensor(a), torch.tensor(a).bfloat16().float()) for a in weights.values())


def die_in_the_middle(rank: int, config: ESPOConfig) -> tuple[int, float]:
    """Pieces that the first learner got, and seconds until it knew that the other one had died."""
    learner = build_learner(config)
    if rank == 0:  # RLlib asks this one alone
        with pytest.raises(RuntimeError, match=r"expected gather\(\) on every learner before one is asked"):
            learner.get_state()
    pieces = pieces_of(tensors_of(learner.language_module), most_bytes=4000)
    assert len(pieces) > 10
    start, got = time.monotonic(), 0
    with contextlib.suppress(RuntimeError):
        for names in pieces:
            learner.piece(names)
            got += 1
            if rank == 1 and got == 3:
                os._exit(0)
    return got, time.monotonic() - start


def test_nobody_waits_for_a_learner_that_dies_while_weights_are_gathered(config):
    (got, seconds), _ = run_ranks(2, die_in_the_middle, settings(config, 2), may_die=1)
    assert 3 <= got <= 4
    assert seconds < 60


def test_what_cannot_be_sharded_is_refused_before_anything_starts(config):
    config.language_model(sharding="fsdp")
    for num_learners in (0, 1):
        with pytest.raises(ValueError, match=rf"expected .learners\(num_learners\) >= 2 with .* got {num_learners}"):
            config.learners(num_learners=num_learners).validate()
    config.learners(num_learners=2)
    with pytest.raises(ValueError, match=r"expected .training\(share_prompts=False\) with .*sharding='fsdp'"):
        config.copy(copy_frozen=False).training(share_prompts=True).validate()
    with pytest.raises(ValueError, match=r"expected .framework\(torch_ddp_kwargs\) left empty"):
        config.copy(copy_frozen=False).framework(torch_ddp_kwargs={"bucket_cap_mb": 1}).validate()
    with pytest.raises(ValueError, match=r".language_model\(sharding\): expected 'fsdp' or none, got 'ddp'"):
        config.copy(copy_frozen=False).language_model(sharding="ddp").validate()
    config.validate()
