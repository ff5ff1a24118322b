"""The small tasks of the experiments, with starts that are hardly trained."""

from __future__ import annotations

import json

import pytest
from tiny_models import save_tiny_model

from espo_algo.experiments.config import build_config
from espo_algo.experiments.families import families_table
from espo_algo.experiments.settings import SETTINGS, get_setting, measure_task
from espo_algo.experiments.starts import make_start
from espo_env.tasks import CycleTask
from espo_env.tokenizer import Tokenizer


@pytest.mark.parametrize("name", SETTINGS)
def test_solutions_fit_into_the_horizon(name):
    if get_setting(name).env == "espo_env/ReasoningGym-v0":
        pytest.importorskip("reasoning_gym")
    horizon, task = measure_task(get_setting(name))
    task.validate(50)
    assert max(len(task.encode_solution(task.problem(index))) for index in range(300)) <= horizon


def test_a_start_that_goes_on_from_another_has_room_for_its_own_responses(tmp_path):
    folder = make_start("long_chains", tmp_path, sft_steps=1)
    horizon, task = measure_task(get_setting("long_chains"))
    context = json.loads((folder / "config.json").read_text("utf-8"))["max_position_embeddings"]
    assert context == task.max_prompt_tokens + horizon
    assert (tmp_path / "start-arithmetic" / "sft.json").is_file()


def test_starts_of_other_seeds_have_other_weights_and_problems(tmp_path):
    shared, first, second = (make_start("cycle", tmp_path, sft_steps=1, seed=seed) for seed in (None, 0, 1))
    assert [folder.name for folder in (shared, first, second)] == [
        "start-cycle",
        "start-cycle-seed-0",
        "start-cycle-seed-1",
    ]
    names = ("start-walk", "start-walk-seed-0", "start-walk-seed-1")  # which they go on from
    for folders in ((shared, first, second), [tmp_path / name for name in names]):
        assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 3
        assert (
            len({json.loads((folder / "sft.json").read_text("utf-8"))["points"][0]["loss"] for folder in folders}) == 3
        )


def test_a_start_that_has_not_learnt_enough_is_named(tmp_path, caplog):
    make_start("walk", tmp_path, sft_steps=1)
    assert "espo_env/Walk-v0: expected a start with a sampled accuracy of 0.38, got 0.00 after 1 updates" in caplog.text


def test_the_table_has_a_row_for_each_task(tmp_path):
    text = families_table(["walk", "cycle"], tmp_path, num_problems=4, sft_steps=1, start_seed=1)
    assert (tmp_path / "start-cycle-seed-1").is_dir()
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:]}
    assert list(rows) == ["walk", "cycle"]
    for sampled, greedy, right, wrong, error, saving, half in rows.values():
        # After one update nothing is right, and all is wrong from the first tokens on.
        assert (sampled, greedy, right) == ("0.000", "0.000", "nan")
        assert 0 <= float(error) < float(wrong) <= CycleTask().max_prompt_tokens + 40
        assert float(saving.rstrip("%")) / 2 == pytest.approx(float(half.rstrip("%")), abs=0.06)


def test_a_pretrained_start_keeps_its_tokenizer(tmp_path):
    """A small model with a vocabulary of bytes stands in the place where the pretrained one would be made."""
    pytest.importorskip("reasoning_gym")
    tokenizer = Tokenizer.from_bytes()
    save_tiny_model(tmp_path / "smollm2", tokenizer, max_position_embeddings=512)
    config = build_config(task="smollm2", output=tmp_path, sft_steps=1)
    assert config.model_name == str(tmp_path / "start-smollm2")
    mdp = config.check_task()
    assert mdp.task.tokenizer.encode("1+2=3;") == tokenizer.encode("1+2=3;")
    problem = mdp.task.problem(0)
    assert problem.prompt.endswith("=\n")
    assert mdp.task.grade(problem, problem.solution).correct
    assert len(mdp.task.encode_solution(problem)) <= mdp.max_new_tokens == 128
