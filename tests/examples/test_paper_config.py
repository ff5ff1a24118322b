"""The 8-GPU configurations: loaded, checked, and held against a model and data of their form."""

import json
from pathlib import Path

import pytest
from installed import needs_vllm
from transformers import AutoTokenizer

from espo_algo.commands.config_file import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = EXAMPLES / "paper_1_5b_8_gpus.yaml"
pytestmark = needs_vllm  # the configuration asks for it
MODELS = ("models/DeepSeek-R1-Distill-Qwen-1.5B", "models/DeepSeek-R1-Distill-Qwen-7B")


@pytest.fixture
def here(model_folder, tmp_path, monkeypatch):
    """A working directory with a small model and a sample of the data where the configuration looks for them."""
    for model in MODELS:
        folder = tmp_path / model
        folder.parent.mkdir(exist_ok=True)
        folder.symlink_to(model_folder)
    row = {"prompt": [{"role": "user", "content": "1+1="}], "reward_model": {"ground_truth": "2"}}
    data = tmp_path / "dapo.jsonl"
    data.write_text("".join(json.dumps(row | {"id": i}) + "\n" for i in range(4)))
    monkeypatch.chdir(tmp_path)
    return data


@pytest.mark.parametrize(
    ("file", "model", "sharding"),
    [("paper_1_5b_8_gpus.yaml", MODELS[0], None), ("paper_7b_8_gpus.yaml", MODELS[1], "fsdp")],
)
def test_the_configuration_is_valid_and_is_the_papers(here, file, model, sharding):
    config, run = load_config(EXAMPLES / file)
    config.validate()
    assert (config.model_name, config.env_config["model"], config.sharding) == (model, model, sharding)
    assert (config.max_new_tokens, config.rollouts_per_prompt, config.total_train_batch_size) == (8192, 8, 64)
    assert (config.lr, config.gamma, config.temperature) == (1e-6, 1.0, 1.0)
    assert (config.beta, config.target_stop_rate, config.tolerance_rate) == (7.0, 0.25, 0.1)
    assert (config.smoothing, config.value_floor, config.fail_reward) == (0.9, 0.2, -1.0)
    gpus = config.num_env_runners * config.num_gpus_per_env_runner + config.num_learners * config.num_gpus_per_learner
    assert gpus == 8
    assert run.iterations == config.planned_iterations


def test_a_context_that_is_too_short_is_named_before_anything_starts(here, model_folder):
    config, _ = load_config(CONFIG)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert tokenizer.eos_token_id is not None
    config.environment(env_config={"train": str(here), "template": "{problem}", "max_prompt_tokens": 16})
    with pytest.raises(ValueError, match=r"at most 64 tokens .*max_new_tokens=8192"):
        config.check_task()
