"""AdamW with moments in 8 bits, beside the one with float32."""

from __future__ import annotations

import sys

import pytest
import torch
from hand_made import build_learner, random_episodes, update
from tiny_models import save_tiny_model

from espo_algo import ESPOConfig
from espo_algo.learning.learner import ESPOLearner
from espo_algo.learning.optimizers import make_adamw, moment_bytes
from espo_algo.memory import update_peak
from espo_env.tasks import ArithmeticTask

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """One of which some tensors are large enough for 8 bits, and the embedding is, too."""
    return save_tiny_model(tmp_path_factory.mktemp("wide"), ArithmeticTask().tokenizer, spare_tokens=60, **SIZES)


def moments_of(learner: ESPOLearner) -> dict[torch.nn.Parameter, dict]:
    return {p: state for optimizer in learner._named_optimizers.values() for p, state in optimizer.state.items()}


def test_thirty_steps_go_where_float32_goes():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 256, generator=generator)
    target = torch.randn(64, 256, generator=generator)
    ends = []
    for moments in ("float32", "8bit"):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = make_adamw([parameter], 0.01, moments)
        optimizer.param_groups[0]["lr"] = 0.01
        for step in range(30):
            noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(step))
            parameter.grad = (parameter.detach() - target) + noise
            optimizer.step()
        ends.append(parameter.detach() - start)
    exact, rounded = ends
    # Of the way that was gone: a percent on average, and nothing went astray.
    assert float((rounded - exact).norm() / exact.norm()) < 0.02
    assert float((rounded - exact).abs().max()) < 0.2 * float(exact.abs().max())


def test_an_update_is_close_to_float32s_and_large_tensors_alone_are_in_8_bits(config: ESPOConfig, wide_model):
    config.language_model(model=wide_model, critic="separate")
    exact, rounded = (build_learner(config.copy(copy_frozen=False).training(moments=m)) for m in ("float32", "8bit"))
    before = {name: p.detach().clone() for name, p in exact.language_module.named_parameters()}
    for iteration in range(4):
        losses = [update(each, random_episodes([5, 3, 7, 2], seed=iteration)) for each in (exact, rounded)]
        assert losses[1]["policy_loss"] == pytest.approx(losses[0]["policy_loss"], rel=0.02, abs=1e-3)
    moved = difference = 0.0
    for name, parameter in rounded.language_module.named_parameters():
        other = dict(exact.language_module.named_parameters())[name]
        moved += float((other - before[name]).detach().square().sum())
        difference += float((other - parameter).detach().square().sum())
    assert 0 < difference < 0.1**2 * moved
    kinds = {name: moments_of(rounded)[p]["state1"].dtype for name, p in rounded.language_module.named_parameters()}
    large = {name for name, dtype in kinds.items() if dtype == torch.uint8}
    assert "model.policy.model.embed_tokens.weight" not in large  # of 5,000 elements
    assert "model.value_head.weight" not in large
    assert {name.rsplit(".", 2)[1] for name in large} == {"q_proj", "o_proj", "up_proj", "gate_proj", "down_proj"}
    # What the dry run says.
    expected = 0
    embeddings = {*map(id, rounded.language_module.model.embeddings())}
    for parameter, moments in moments_of(rounded).items():
        held = sum(t.nbytes for name, t in moments.items() if torch.is_tensor(t) and not name.startswith("qmap"))
        assert held == moment_bytes(parameter, "8bit", id(parameter) in embeddings)
        expected += held
    sizes = {"sequences": 2, "length": 12, "prompt": 4, "accumulates": False, "gradient_checkpointing": False}
    peak = update_peak(config.pretrained_config, "separate", 17, torch.float32, **sizes, moments="8bit")
    assert peak.held["AdamW's two moments, 8bit"] == expected
    assert expected < 0.6 * peak.held["weights"] * 2


def test_a_checkpoint_goes_on_bit_for_bit_and_one_of_the_other_kind_is_refused(config: ESPOConfig, wide_model):
    config.language_model(model=wide_model).training(moments="8bit")
    learner, other = build_learner(config), build_learner(config)
    update(learner, random_episodes([5, 3, 7, 2]))
    state = learner.get_state()
    other.set_state(state)
    for each in (learner, other):
        update(each, random_episodes([4, 6, 1, 2], seed=1))
    for left, right in zip(learner.language_module.parameters(), other.language_module.parameters(), strict=True):
        assert torch.equal(left, right)
        for name, tensor in moments_of(learner)[left].items():
            assert torch.equal(torch.as_tensor(tensor), torch.as_tensor(moments_of(other)[right][name])), name
    exact = build_learner(config.copy(copy_frozen=False).training(moments="float32"))
    with pytest.raises(ValueError, match=r"expected a checkpoint with .training\(moments='float32'\), got .*'8bit'"):
        exact.set_state(state)
    update(exact, random_episodes([5, 3, 7, 2]))
    with pytest.raises(ValueError, match=r"expected a checkpoint with .training\(moments='8bit'\), got .*'float32'"):
        learner.set_state(exact.get_state())


def test_what_cannot_be_had_is_refused_before_anything_starts(config: ESPOConfig, monkeypatch):
    config.training(moments="8bit")
    config.validate()
    with pytest.raises(
        ValueError, match=r"expected .training\(moments='float32'\) with .*sharding='fsdp'.* got '8bit'"
    ):
        config.copy(copy_frozen=False).language_model(sharding="fsdp").learners(num_learners=2).validate()
    with pytest.raises(ValueError, match=r".training\(moments\): expected 'float32' or '8bit', got '4bit'"):
        config.copy(copy_frozen=False).training(moments="4bit").validate()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"expected bitsandbytes to be installed .*pip install 'espo\[optim8bit\]'"):
        config.validate()
