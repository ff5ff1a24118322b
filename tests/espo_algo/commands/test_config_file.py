"""Configurations as files."""

from __future__ import annotations

import json

import pytest

from espo_algo import ESPOConfig
from espo_algo.commands.config_file import RunOptions, build_config, load_config

YAML = """
environment: {env: espo_env/Arithmetic-v0, env_config: {max_terms: 2}}
env_runners: {num_envs_per_env_runner: 7}
language_model: {model: some/folder, critic: separate}
generation: {max_new_tokens: 33}
early_stopping: {beta: auto, beta_bounds: [0.5, 9], stops_in_evaluation: off}
training: {lr: 1e-6, critic_lr: 5E-4, gamma: 1., train_batch_size_per_learner: 12}
evaluation: {evaluation_interval: 5, evaluation_config: {greedy: true}}
fault_tolerance: {max_empty_rounds: 9}
debugging: {seed: 4}
run: {iterations: 8, output: runs/x}
"""


def by_hand():
    return (
        ESPOConfig()
        .environment("espo_env/Arithmetic-v0", env_config={"max_terms": 2})
        .env_runners(num_envs_per_env_runner=7)
        .language_model(model="some/folder", critic="separate")
        .generation(max_new_tokens=33)
        .early_stopping(beta="auto", beta_bounds=[0.5, 9], stops_in_evaluation="off", planned_iterations=8)
        .training(lr=1e-6, critic_lr=5e-4, gamma=1.0, train_batch_size_per_learner=12)
        .evaluation(evaluation_interval=5, evaluation_config={"greedy": True})
        .fault_tolerance(max_empty_rounds=9)
        .debugging(seed=4)
    )


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_file_says_the_same_as_the_methods(tmp_path, suffix):
    path = tmp_path / f"config{suffix}"
    content = YAML
    if suffix == ".json":
        yaml_path = tmp_path / "config.yaml"
        yaml_path.write_text(YAML)
        import yaml

        content = json.dumps(
            yaml.safe_load(YAML.replace("1e-6", "1.0e-6").replace("5E-4", "5.0e-4").replace(": off", ": 'off'"))
        )
    path.write_text(content)
    config, run = load_config(path)
    assert config.to_dict() == by_hand().to_dict()
    assert run == RunOptions(iterations=8, output="runs/x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6), ("-1.5E+3", -1500.0), (".5", 0.5), ("5.", 5.0), ("3", 3), ("1e5", 1e5),
        ("off", "off"), ("no", "no"), ("y", "y"), ("true", True), ("False", False), ("~", None), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_numbers_and_truth_values_are_those_of_yaml_1_2(tmp_path, text, value):
    path = tmp_path / "config.yaml"
    path.write_text(f"environment: {{env: x, env_config: {{it: {text}}}}}")
    got = load_config(path)[0].env_config["it"]
    assert (got, type(got)) == (value, type(value))


def test_planned_iterations_are_the_runs_unless_given():
    assert build_config({"run": {"iterations": 5}})[0].planned_iterations == 5
    content = {"early_stopping": {"planned_iterations": 70}, "run": {"iterations": 5}}
    assert build_config(content)[0].planned_iterations == 70


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trainig": {}}, "unknown section: 'trainig'; did you mean 'training'?"),
        ({"training": {"lrr": 1}}, "unknown key of section training: 'lrr'; did you mean 'lr'?"),
        ({"early_stopping": {"target_stop": 1}}, "did you mean 'target_stop_rate'?"),
        ({"training": {"max_new_tokens": 1}}, "'max_new_tokens'; it belongs to section generation"),
        ({"run": {"iteration": 1}}, "did you mean 'iterations'?"),
        ({"training": {"qqqq": 1}}, "unknown key of section training: 'qqqq'$"),
        ({"training": {"lr": "5e-5"}}, "training.lr: expected a number .*, got '5e-5'; without quotes it is a number$"),
        ({"training": {"use_gae": True}}, "training.use_gae: expected to be left out, because nothing here reads it; "),
        (
            {"generation": {"top_p": 2}, "run": {"iterations": 0}},
            r"generation.top_p: .*, got 2\nrun.iterations: .*, got 0",
        ),
        (
            {"evaluation": {"evaluation_config": {"top_k": -1}}},
            "evaluation_config: generation.top_k: expected .* got -1",
        ),
        ({"evaluation": {"evaluation_config": {"greddy": 1}}}, "evaluation_config: 'greddy'; did you mean 'greedy'?"),
        ({"env_runners": {"num_rollout_workers": 1}}, "unknown key of section env_runners: 'num_rollout_workers'"),
        ({"training": None}, "section training: expected keys and values, got None"),
        (["training"], "expected sections .*, got "),
        ({"run": {"iterations": "5"}}, "run.iterations: expected a whole number >= 1, got '5'"),
        ({"run": {"iterations": True}}, "run.iterations: expected a whole number >= 1, got True"),
        ({"run": {"checkpoint_every": 0}}, "run.checkpoint_every: expected a whole number >= 1, got 0"),
    ],
)
def test_what_is_wrong_is_named(content, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        build_config(content)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "training: {lr: 1, lr: 2}", r"each name once, got \['lr'\]"),
        ("a.json", '{"run": {}, "run": {}}', r"each name once, got \['run'\]"),
        ("a.yaml", "training: [", "a.yaml: while parsing"),
        ("a.json", "{", "a.json: Expecting"),
        ("a.toml", "x = 1", r"\.yaml, \.yml or \.json, got '\.toml'"),
        ("a.yaml", "", "expected sections"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_file(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / name)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"a\.yaml: expected a text file in UTF-8, got byte 0 of another kind"):
        load_config(tmp_path / "a.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a configuration file, got '.*none\.yaml'"):
        load_config(tmp_path / "none.yaml")
