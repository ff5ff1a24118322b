"""The command line, on real files: a run is trained, resumed, evaluated, played and reported."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from coin_fixtures import coin_model  # noqa: F401 (fixture)
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from espo_algo.commands.cli import app
from espo_algo.commands.run_log import LOG

pytestmark = pytest.mark.usefixtures("ray_session")


def espo(*arguments: object, input: str | None = None, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


def write_config(folder: Path, model: Path, **changes: object) -> Path:
    content = {
        "environment": {"env": "espo_env/TokenGeneration-v0", "env_config": {"task": "coin_task:CoinTask"}},
        "env_runners": {"num_envs_per_env_runner": 8},
        "language_model": {"model": str(model)},
        "generation": {"max_new_tokens": 8},
        "early_stopping": {"beta": "auto", "target_stop_rate": 0.3},
        "training": {"lr": 1e-3, "train_batch_size_per_learner": 16, "minibatch_size": 8},
        "debugging": {"seed": 0},
        "run": {"iterations": 3, "output": str(folder / "run"), "checkpoint_every": 2, "responses": 6},
    }
    content.update(changes)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, coin_model):
    """Three iterations, trained by the command."""
    folder = tmp_path_factory.mktemp("cli")
    config = write_config(folder, coin_model)
    assert "done" in espo("train", config)
    return folder / "run", config


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_train_leaves_a_log_checkpoints_and_a_model(run):
    folder, _ = run
    assert len(rows(folder / LOG)) == 3
    assert list(folder.rglob("iteration-*"))
    assert AutoModelForCausalLM.from_pretrained(folder / "model").config.vocab_size == 16


def test_train_goes_on_from_the_newest_checkpoint(run, tmp_path, coin_model):
    short = {"iterations": 2, "output": str(tmp_path / "run"), "checkpoint_every": 2, "responses": 0}
    espo("train", write_config(tmp_path, coin_model, run=short))
    again = espo("train", write_config(tmp_path, coin_model, run=short | {"iterations": 3}), "--resume")
    assert "done" in again
    resumed, whole = (AutoModelForCausalLM.from_pretrained(folder / "model") for folder in (tmp_path / "run", run[0]))
    for left, right in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert left.equal(right)


def test_training_that_cannot_go_on_ends_with_a_message(tmp_path, coin_model):
    task = {"task": "coin_task:CoinTask", "broken_prompts": list(range(1000))}
    environment = {"env": "espo_env/TokenGeneration-v0", "env_config": task}
    output = espo("train", write_config(tmp_path, coin_model, environment=environment), code=1)
    assert "\nerror: expected responses to train on, got none in 3 rounds of 16; lost: 48 to KeyError" in output
    assert "new API stack" not in output


@pytest.mark.parametrize("place", [("model",), (".", "--checkpoint")], ids=["model", "checkpoint"])
def test_evaluate_scores_a_run_with_and_without_stops(run, tmp_path, place):
    folder, config = run
    arguments = [
        "evaluate",
        folder / place[0],
        *place[1:],
        "--config",
        config,
        "--problems",
        12,
        "--samples",
        3,
        "--output",
        tmp_path / "e",
    ]
    first = espo(*arguments, "--early-stopping")
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert json.dumps(results).count("pass@") > 0
    assert 0 < results["data_sets"]["eval"]["with_stops"]["tokens"] <= results["data_sets"]["eval"]["tokens"]
    assert espo(*arguments, "--early-stopping").splitlines()[-2:] == first.splitlines()[-2:]  # nothing left to do


def test_a_folder_that_was_not_called_a_checkpoint_is_not_unpickled(run, tmp_path, coin_model):
    folder, config = run
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return Path.touch, (ran,)

    for name, made_of in (("safe", [coin_model]), ("checkpoint", [])):
        for source in [*made_of, sorted(folder.rglob("iteration-*"))[-1]]:
            shutil.copytree(source, tmp_path / name, dirs_exist_ok=True)
        for file in (tmp_path / name).rglob("*.pkl"):
            file.write_bytes(pickle.dumps(Trap()))
    arguments = ["--config", config, "--problems", 2, "--output", tmp_path / "e"]
    assert "results" in espo("evaluate", tmp_path / "safe", *arguments)
    refused = espo("evaluate", tmp_path / "checkpoint", *arguments, code=1)
    assert "loading it runs whatever code is in it; add --checkpoint if you trust it" in refused
    broken = espo("evaluate", tmp_path / "checkpoint", *arguments, "--checkpoint", code=1)
    assert "with the SHA-256" in broken  # what has changed since it was written is not unpickled either
    assert not ran.exists()
    pickle.loads((tmp_path / "safe" / "algorithm_state.pkl").read_bytes())
    assert ran.exists()


def test_report_draws_what_the_run_logged(run, tmp_path):
    espo("report", run[0], "--output", tmp_path)
    assert (tmp_path / "responses.html").read_text().count("<") > 10
    assert list(tmp_path.glob("*.png"))


def test_play_shows_the_wrapper_at_work(run):
    folder, config = run
    shown = espo("play", "--config", config, "--model", folder / "model", "--problem", 0, input="abc\n")
    assert "regret" in shown
    assert "threshold" in shown


def test_fine_tuning_raises_a_fresh_model_above_zero(run, tmp_path, coin_model):
    config = write_config(tmp_path, coin_model)
    output = espo("sft", config, "--output", tmp_path / "tuned", "--fresh", "--steps", 30, "--evaluate-every", 30)
    points = json.loads((tmp_path / "tuned" / "sft.json").read_text())
    assert points[-1]["accuracy"] > 0.6  # an untrained one is right about every other time
    assert "accuracy" in output
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").config.vocab_size == 11


def test_grade_counts_verdicts_by_reason(tmp_path):
    file = tmp_path / "responses.jsonl"
    answers = [("so \\boxed{4}", "4"), ("#### 5", "4"), ("no idea", "4"), ("\\boxed{\\frac{1}{2}}", "\\frac12")]
    file.write_text("".join(json.dumps({"response": r, "reference": a}) + "\n" for r, a in answers))
    output = espo("grade", file, "--output", tmp_path / "graded.jsonl")
    assert "right: 2 of 4 (50.0%)" in output
    assert [row["grade"]["reason"] for row in rows(tmp_path / "graded.jsonl")][1:3] == ["different", "no_answer"]


def test_odd_text_is_graded_and_kept(tmp_path):
    file = tmp_path / "responses.jsonl"
    file.write_text(json.dumps({"response": "\ud83d so #### 4", "reference": "4"}) + "\n")
    assert "right: 1 of 1" in espo("grade", file, "--output", tmp_path / "new" / "graded.jsonl", "--kind", "numeric")
    (row,) = rows(tmp_path / "new" / "graded.jsonl")
    assert row["response"] == "\ud83d so #### 4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainig": {"lr": 1}}, "did you mean 'training'?"),
        ({"language_model": {"model": "owner/none"}}, "a hub name, got 'owner/none': there is no such folder"),
        ({"environment": {"env": "CartPole-v1"}}, ".environment(env='CartPole-v1', env_config={}): expected"),
        ({"environment": {"env": "espo_env/Arithmetics-v0"}}, "Did you mean: `Arithmetic`?"),
        (
            {"environment": {"env": "espo_env/Arithmetic-v0", "env_config": {"max_term": 2}}},
            "unexpected keyword argument 'max_term'",
        ),
        ({"env_runners": {"num_env_runners": 64}}, "expected a cluster with 64 CPU for 64 env runners with 1 CPU each"),
        ({"learners": {"num_gpus_per_learner": 1}}, "at most the GPUs that PyTorch finds here (0)"),
    ],
)
def test_a_wrong_file_ends_with_a_message(tmp_path, coin_model, changes, message):
    output = espo("train", write_config(tmp_path, coin_model, **changes), code=1)
    assert message in output
    assert len(output.splitlines()) <= 2


def without_torch_and_ray(*arguments: object) -> str:
    """What a command prints, in a process that must not have imported what takes seconds."""
    code = (
        "import sys\n"
        "from espo_algo.commands.cli import app\n"
        f"try: app({[str(argument) for argument in arguments]})\n"
        "except SystemExit: print('imported', {'torch', 'ray', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "imported set()" in done.stdout
    return done.stdout + done.stderr


@pytest.mark.parametrize(("argument", "shown"), [("--version", "espo 0"), ("--help", "train")])
def test_version_and_help_do_not_wait_for_torch_and_ray(argument, shown):
    assert shown in without_torch_and_ray(argument)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"language_model": {"model": "./none"}},
            "expected a model folder with a config.json, got './none'",
        ),
        (
            {"run": {"output": "/dev/null/run"}},
            "can be written, got '/dev/null/run': in '/dev/null' nothing can be made (Not a directory)",
        ),
        ({"run": {"output": "/proc/run/a"}}, "got '/proc/run/a': in '/proc' nothing can be made (No such file"),
        (
            {"early_stopping": {"target_stop_rate": 1.5}},
            "early_stopping.target_stop_rate: expected a number in [0, 1], got 1.5",
        ),
    ],
)
def test_a_wrong_place_or_value_is_said_at_once(tmp_path, coin_model, changes, message):
    assert message in without_torch_and_ray("train", write_config(tmp_path, coin_model, **changes))


def test_a_sigterm_while_ray_starts_ends_with_143():
    """Ray's own handler, which is there for that time, ends with 15."""
    code = (
        "import os, signal, threading, time\n"
        "from espo_algo.commands.interruption import Interruption\n"
        "from espo_algo.commands.terminal import ray_started\n"
        "def terminate(ours):\n"
        "    while signal.getsignal(signal.SIGTERM) == ours: time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "with Interruption():\n"
        "    ours = signal.getsignal(signal.SIGTERM)\n"
        "    threading.Thread(target=terminate, args=[ours], daemon=True).start()\n"
        "    with ray_started(): time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 143
