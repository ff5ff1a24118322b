"""Adapters of policy and critic on one frozen model: against full training of the merged weights, by the chain rule."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hand_made import build_learner, build_module, random_episodes, update
from tiny_models import tiny_qwen2

from espo_algo import ESPOConfig, LanguageModelWithCritic
from espo_algo.commands.config_file import load_config
from espo_algo.learning.learner import ESPOLearner
from espo_algo.learning.lora import LanguageModelWithLoRA, LoRASettings, check_base, layers_to_adapt, write_base
from espo_algo.learning.model import load_language_model
from espo_algo.weight_sync.packing import pack_tensors, tensors_of, unpack_pieces, unpack_state

SETTINGS = LoRASettings(r=3, alpha=6.0)
TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def with_lora(config: ESPOConfig, **options: Any) -> ESPOConfig:
    options = {"critic": "separate", "lora": {"r": 3, "alpha": 6.0}} | options
    return config.copy(copy_frozen=False).language_model(**options)


@torch.no_grad()
def randomise_adapters(model: LanguageModelWithCritic) -> None:
    """Their second matrices are zero at first, which would hide errors."""
    generator = torch.Generator().manual_seed(2)
    for parameter in [*model.policy_parameters(), *model.critic_parameters()]:
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def trained(learner: ESPOLearner) -> dict[str, torch.Tensor]:
    return {n: p for n, p in learner.language_module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_the_merged_weights_compute_what_the_adapters_compute(model_folder, critic, dtype, tolerance):
    adapted = LanguageModelWithLoRA(load_language_model(model_folder, dtype), critic, settings=SETTINGS).eval()
    start = LanguageModelWithCritic(load_language_model(model_folder, dtype), critic).eval()
    for got, expected in zip(adapted.hidden_states(TOKENS), start.hidden_states(TOKENS), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)  # training starts from the model itself
    frozen = {name: parameter.clone() for name, parameter in start.policy.named_parameters()}
    randomise_adapters(adapted)
    plain = LanguageModelWithCritic(load_language_model(model_folder, dtype, weights=False), critic).eval()
    unpack_pieces(plain, [pack_tensors(adapted.plain_weights(), dtype)])
    for got, expected in zip(adapted.hidden_states(TOKENS), plain.hidden_states(TOKENS), strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * float(expected.detach().abs().max()))
    # base + alpha / r * B @ A, written out for a weight of each trunk; the base itself has not moved.
    layer = adapted.trunk.layers[1].mlp.up_proj
    base = frozen["model.layers.1.mlp.up_proj.weight"]
    torch.testing.assert_close(layer.base_layer.weight, base, rtol=0, atol=0)
    trunks = {"policy": plain.trunk, "critic": plain.critic_trunk} if critic == "separate" else {"policy": plain.trunk}
    for name, trunk in trunks.items():
        product = layer.lora_B[name].weight @ layer.lora_A[name].weight
        expected = (base.float() + 6.0 / 3 * product).to(dtype)
        torch.testing.assert_close(trunk.layers[1].mlp.up_proj.weight, expected, rtol=1e-6, atol=1e-6)
        assert not torch.equal(expected, base)
    if critic == "separate":  # two adapters, one base
        own, others = (adapted.hidden_states(TOKENS)[i] for i in (0, 1))
        assert (own - others).abs().max() > 0.1
    count = sum(p.nbytes for p in adapted.parameters() if not p.requires_grad)
    assert count == sum(p.nbytes for p in frozen.values())
    assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "training"),
    [
        ({"critic": "shared"}, {}),
        ({"critic": "separate"}, {}),
        ({"critic": "separate", "gradient_checkpointing": True}, {}),
        ({"critic": "separate"}, {"share_prompts": True}),
    ],
    ids=["shared", "separate", "gradient_checkpointing", "share_prompts"],
)
def test_gradients_are_those_of_the_merged_weights_by_the_chain_rule(config, options, training):
    """``W = base + s B A``: the gradient of ``B`` is ``s dW A'``, that of ``A`` is ``s B' dW``."""
    config.training(grad_clip=None, **training)
    learner = build_learner(with_lora(config, **options))
    randomise_adapters(learner.language_module.model)
    whole = build_learner(config.copy(copy_frozen=False).language_model(critic=options["critic"]))
    unpack_state(tensors_of(whole.language_module), pack_tensors(learner.language_module.plain_tensors()))
    factors = {name: parameter.detach().clone() for name, parameter in trained(learner).items()}
    episodes = random_episodes([3, 7, 1, 5, 2, 6, 4, 8])
    metrics, expected_metrics = update(learner, episodes), update(whole, episodes)
    for name in ("policy_loss", "vf_loss", "entropy", "vf_explained_var"):
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=1e-4, abs=1e-5), name
    gradients = {name: p.grad for name, p in whole.language_module.named_parameters()}
    norms = 0.0
    for name, parameter in trained(learner).items():
        norms += float(parameter.grad.square().sum())
        if "lora_" not in name:
            expected = gradients[name]
        else:
            place, part, adapter, _ = name.rsplit(".", 3)
            place = f"{place}.weight"
            if adapter == "critic":
                place = place.replace("model.policy.model.", "model.critic_trunk.")
            weight = gradients[place]
            other = factors[name.replace("lora_A", "lora_B") if part == "lora_A" else name.replace("lora_B", "lora_A")]
            expected = 2.0 * (other.T @ weight if part == "lora_A" else weight @ other.T)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    # The norm that is clipped and reported is that of what is trained.
    assert metrics["grad_norm"] == pytest.approx(norms**0.5, rel=1e-4)


def test_nothing_but_adapters_and_value_head_is_trained_or_has_moments(config):
    learner = build_learner(with_lora(config))
    frozen = {n: p.detach().clone() for n, p in learner.language_module.named_parameters() if not p.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained(learner).items()}
    for iteration in range(2):  # in the first one the second matrices alone have gradients
        update(learner, random_episodes([3, 5, 2, 6], seed=iteration))
    after = dict(learner.language_module.named_parameters())
    for name, parameter in frozen.items():
        assert torch.equal(after[name], parameter), name
        assert after[name].grad is None
    assert all(not torch.equal(after[name], parameter) for name, parameter in before.items())
    optimized = [p for group in learner._named_optimizers.values() for g in group.param_groups for p in g["params"]]
    assert {*map(id, optimized)} == {*map(id, trained(learner).values())}
    layers = 7 * 2  # of two blocks
    assert len(before) == 2 * 2 * layers + 2  # policy and critic, A and B; the value head


def test_dropout_is_in_the_gradients_and_never_in_what_is_compared_with_the_sampler(config):
    config.training(num_epochs=1)
    dropped = build_learner(with_lora(config, lora={"r": 3, "dropout": 0.5}))
    plain = build_learner(with_lora(config, lora={"r": 3}))
    metrics = []
    for learner in (dropped, plain):
        randomise_adapters(learner.language_module.model)
        metrics.append(update(learner, random_episodes([3, 5, 2, 6])))
    assert metrics[0]["mismatch_kl"] == metrics[1]["mismatch_kl"]
    assert abs(metrics[0]["mean_kl_loss"]) > 1e-4 > abs(metrics[1]["mean_kl_loss"])


def test_a_restored_learner_goes_on_bit_for_bit_and_its_checkpoint_holds_the_adapters_alone(config):
    settings = with_lora(config, lora={"r": 3, "dropout": 0.3}, dtype="bfloat16")
    learner = build_learner(settings)
    update(learner, random_episodes([3, 5, 2, 6]))
    state = learner.get_state()
    held = state["rl_module"]["default_policy"]
    assert held.keys() == {
        *trained(learner),
        *(name for name, _ in learner.language_module.named_buffers() if "regret_" in name),
        "base_sha256",
    }
    other = build_learner(settings)
    other.set_state(state)
    for each in (learner, other):
        update(each, random_episodes([4, 1, 7, 2], seed=1))
    for name, parameter in trained(learner).items():
        assert torch.equal(trained(other)[name], parameter), name


def test_adapters_of_another_model_are_refused(config, tmp_path):
    state = build_module(with_lora(config)).get_state()
    policy = load_language_model(config.model_name)
    with torch.no_grad():
        policy.get_input_embeddings().weight[0, 0] += 1.0
    policy.save_pretrained(tmp_path)
    for settings in (with_lora(config, model=tmp_path), with_lora(config, dtype="bfloat16")):
        with pytest.raises(ValueError, match=r"expected adapters of the weights of .* got some of others"):
            build_module(settings).set_state(state)
    with pytest.raises(ValueError, match=r"unknown \['base_sha256'"):
        build_module(config).set_state(state)
    with pytest.raises(ValueError, match=r"missing \['model.policy.*lora_A"):
        build_module(with_lora(config)).set_state(build_module(config).get_state())


def test_a_checkpoint_names_the_model_that_it_needs(config, tmp_path):
    own, other = (build_module(with_lora(config, dtype=dtype)).model.fingerprint for dtype in ("float32", "bfloat16"))
    check_base(tmp_path, "here", "float32", own)  # a checkpoint that does not say
    write_base(tmp_path, "models/a", "bfloat16", other)
    check_base(tmp_path, "models/b", "bfloat16", other)  # wherever it lies now
    with pytest.raises(ValueError, match=r"expected the weights .*'models/a' in bfloat16.* got 'models/b' in float32"):
        check_base(tmp_path, "models/b", "float32", own)


def test_every_process_starts_from_the_same_adapters_and_every_seed_from_others(config):
    first, second, third = (
        build_module(with_lora(config.copy(copy_frozen=False).debugging(seed=seed))) for seed in (1, 1, 2)
    )
    name = "model.policy.model.layers.0.mlp.up_proj.lora_A.policy.weight"
    matrices = [dict(module.named_parameters())[name] for module in (first, second, third)]
    assert torch.equal(matrices[0], matrices[1])
    assert not torch.equal(matrices[0], matrices[2])


@pytest.mark.parametrize(
    "lora",
    [{}, {"r": 0}, {"r": 2.5}, {"r": 2, "rank": 3}, {"r": 2, "alpha": 0}, {"r": 2, "dropout": 1.0}, 8]
    + [{"r": 2, "target_modules": targets} for targets in ([], "q_proj", [1])],
)
def test_wrong_settings_are_named_with_what_was_expected(config, lora):
    with pytest.raises(ValueError, match=r"\.language_model\(lora\): expected r \(a whole number >= 1\).* got "):
        config.language_model(lora=lora).validate()


def test_layers_that_are_not_there_are_named_before_anything_starts(config):
    config.language_model(lora={"r": 2, "target_modules": ["q_proj", "wq"]}).validate()
    with pytest.raises(ValueError, match=r"lora\): target_modules: expected .*'q_proj'.* got \['wq'\]"):
        config.check_task()
    config.language_model(lora={"r": 2, "target_modules": ["lm_head"]})  # tied, and no part of the critic's trunk
    with pytest.raises(ValueError, match=r"linear layers of the trunk .* got \['lm_head'\]"):
        config.check_task()
    chosen = LoRASettings(2, target_modules=("mlp.up_proj", "q_proj"))
    found = layers_to_adapt(tiny_qwen2(20), chosen)
    assert found == [f"layers.{i}.{name}" for i in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")]


def test_a_missing_peft_is_named_before_anything_starts(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"expected peft to be installed: pip install 'espo\[lora\]'"):
        with_lora(config).check_task()


def test_the_example_is_a_valid_configuration(model_folder, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "smollm2" / "model"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(model_folder)
    monkeypatch.chdir(tmp_path)
    config, run = load_config(Path(__file__).parents[3] / "examples" / "lora_smollm2_2_cores.yaml")
    assert config.lora_settings == LoRASettings(r=16, alpha=16)
    assert run.iterations == config.planned_iterations
