import numpy as np
import pytest
import torch
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from coin_task import CoinTask
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from espo_algo.export import export, load_export

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.parametrize(
    ("critic", "lora"),
    [("shared", None), ("separate", None), ("separate", {"r": 4, "target_modules": ["q_proj", "mlp.up_proj"]})],
)
def test_exported_folders_give_the_learners_logits_and_values(coin_config, coin_model, tmp_path, critic, lora):
    algo = coin_config().language_model(critic=critic, lora=lora).training(lr=0.01).build_algo()
    for _ in range(2):
        result = algo.train()
    assert result["mismatch"]["kl"] < 1e-6  # the embedded engine has what the learner computes with
    folder = export(algo, tmp_path / "out")
    model = algo.learner_group._learner.language_module.model
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        hidden, critic_hidden = model.hidden_states(tokens)
        policy = AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
        values = AutoModelForTokenClassification.from_pretrained(folder / "critic")(tokens).logits[..., 0]
        np.testing.assert_allclose(policy[..., : model.vocab_size], model.project(hidden), atol=1e-5)
        np.testing.assert_allclose(values, model.value(critic_hidden), atol=1e-5)
        assert values.abs().max() > 0
        loaded, state = load_export(folder, algo.config.early_stopping_state)
        assert loaded.vocab_size == model.vocab_size
        hidden, critic_hidden = loaded.hidden_states(tokens)
        np.testing.assert_allclose(loaded.project(hidden), policy[..., : model.vocab_size], atol=1e-5)
        np.testing.assert_allclose(loaded.value(critic_hidden), values, atol=1e-5)
    assert state == algo.policy().early_stopping
    assert state.num_updates == 2
    if lora is not None:
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(coin_model), folder / "adapter")
        bare = AutoModelForCausalLM.from_pretrained(coin_model)
        with torch.no_grad():
            np.testing.assert_allclose(adapted(tokens).logits, policy, atol=1e-5)
            assert (bare(tokens).logits - policy).abs().max() > 1e-3
        assert adapted.peft_config["default"].base_model_name_or_path == str(coin_model)
    assert (folder / "adapter").exists() == (lora is not None)
    kinds = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja"}  # nothing that would be unpickled
    for part in (folder, folder / "critic"):
        tokenizer = AutoTokenizer.from_pretrained(part)
        assert tokenizer("abc")["input_ids"] == CoinTask().tokenizer.encode("abc")
        assert tokenizer.eos_token_id == CoinTask().tokenizer.eos_token_id
    algo.stop()
