"""A configuration with ranges: what is in it is checked at the ends of its ranges, before anything starts."""

import re

import pytest
import yaml

from espo_algo.commands.config_file import load_config
from espo_algo.tuning.search_file import load_search


def write(folder, model="none", **changes):
    content = {
        "environment": {"env": "espo_env/Arithmetic-v0", "env_config": {"max_terms": 2, "max_digits": 1}},
        "language_model": {"model": str(model)},
        "generation": {"max_new_tokens": 12},
        "early_stopping": {"target_stop_rate": {"uniform": [0.1, 0.4]}},
        "training": {"lr": {"loguniform": [1e-5, 1e-3]}, "train_batch_size_per_learner": 8, "minibatch_size": 8},
        "evaluation": {"evaluation_interval": 2},
        "run": {"iterations": 8, "output": str(folder / "run")},
        "tune": {"samples": 3, "grace": 2},
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def test_options_of_the_command_line_win(tmp_path):
    search = load_search(write(tmp_path), samples=7, output="elsewhere")
    assert (search.options.samples, search.options.grace, search.run().output) == (7, 2, "elsewhere")
    assert load_search(write(tmp_path)).options.samples == 3


def test_each_range_is_tried_at_both_ends(tmp_path):
    assert load_search(write(tmp_path)).corners() == [
        {"early_stopping.target_stop_rate": 0.1, "training.lr": 1e-5},
        {"early_stopping.target_stop_rate": 0.4, "training.lr": 1e-5},
        {"early_stopping.target_stop_rate": 0.1, "training.lr": 1e-3},
    ]


def test_it_says_what_it_would_do(tmp_path):
    training = {"lr": {"grid_search": [1e-5, 1e-4]}}
    said = str(load_search(write(tmp_path, training=training, tune={"samples": 5, "grace": 2})))
    assert said.startswith("10 trials of 8 iterations, for the maximum of eval_accuracy; searcher: random; ASHA ends")
    assert "\ntraining.lr: grid_search [1e-05, 0.0001]" in said


def test_a_trial_trains_what_it_drew_in_a_folder_of_its_own(tmp_path, model_folder):
    search = load_search(write(tmp_path, model_folder))
    values = {"early_stopping.target_stop_rate": 0.2, "training.lr": 5e-4}
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(search.filled(values, tmp_path / "trial")))
    config, run = load_config(path)
    assert (config.target_stop_rate, config.lr, run.output) == (0.2, 5e-4, str(tmp_path / "trial"))
    assert config.lr == search.config(values).lr
    assert search.check().lr == 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"lrr": {"uniform": [0, 1]}}}, "unknown key of section training: 'lrr'; did you mean 'lr'?"),
        ({"training": {"lr": {"uniform": [-1, 1]}}}, "training.lr: expected a number >= 0"),
        ({"early_stopping": {"rule": {"choice": ["never", 3]}}}, "early_stopping.rule: expected a text, got 3"),
        ({"early_stopping": {}, "training": {}}, "expected a range in the place of a value, such as lr:"),
        ({"tune": {"sample": 3}}, "unknown key of section tune: 'sample'; did you mean 'samples'?"),
        ({"tune": {"samples": 0}}, "tune.samples: expected a whole number >= 1, got 0"),
        (
            {"tune": {"metric": "acuracy", "grace": 2}},
            "expected tune.metric out of ['iteration', 'tokens', 'accuracy', ",
        ),
        ({"tune": {"grace": 9}}, "expected tune.grace of at most run.iterations (8), got 9"),
        ({"evaluation": {}}, "expected evaluation.evaluation_interval in [1, 2], so that tune.metric 'eval_accuracy'"),
        (
            {"run": {"iterations": {"randint": [5, 9]}}},
            "expected a value in section run, which all trials share, got run.",
        ),
        (
            {"training": {"lr": {"grid_search": [1e-3]}}, "tune": {"searcher": "optuna", "grace": 2}},
            "expected choice instead of grid_search for training.lr, or tune.searcher: random, got 'optuna'",
        ),
        ({"training": ["lr"]}, "section training: expected keys and values, got ['lr']"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"^{path}: .*{re.escape(message)}"):
        load_search(path)


def test_what_several_settings_get_wrong_together_is_named_with_the_values(tmp_path, model_folder):
    training = {"train_batch_size_per_learner": 8, "minibatch_size": {"choice": [8, 16]}}
    with pytest.raises(
        ValueError, match=r"with .*training.minibatch_size=16: expected .*at most train_batch_size"
    ) as e:
        load_search(write(tmp_path, model_folder, training=training)).check()
    assert "minibatch_size=8:" not in str(e.value)


def test_a_search_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"training\.lr: expected a number"):
        load_config(write(tmp_path))
    with pytest.raises(
        ValueError, match="expected the configuration of one run, got section 'tune', which is for espo"
    ):
        load_config(write(tmp_path, early_stopping={}, training={}))
