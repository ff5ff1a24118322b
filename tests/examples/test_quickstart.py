"""The quickstart, run as a newcomer runs it, with few updates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from espo_algo.experiments.config import build_config
from espo_algo.experiments.starts import make_start
from espo_algo.lock import lock

SCRIPT = Path(__file__).parents[2] / "examples" / "quickstart.py"


def run(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )


def test_trains_measures_and_reports(tmp_path):
    pytest.importorskip("reasoning_gym")
    names = ["start", "PPO", "early-stopping PPO"]
    small = ("--iterations", 2, "--problems", 32, "--sft-steps", 3, "--output", tmp_path)
    done = run("--task", "reasoning_gym:chain_sum", *small)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    runs = results["runs"]
    assert ["start", *runs] == names
    points = {"start": results["start"]} | {name: run["at_updates"] for name, run in runs.items()}
    for name, measured in points.items():
        # The table's numbers are those of the file.
        row = next(line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
        for kind in ("sampled", "greedy"):
            assert f"{measured[kind]:.3f} ± {measured[f'{kind}_error']:.3f}" in row
        if name in runs:
            first = runs[name]["history"][:2]
            assert measured["tokens"] == first[-1]["tokens"] > 0
            assert f"{measured['tokens'] / 1e3:.1f}k" in row
            for kind in ("sampling_s", "update_s"):
                assert f"{sum(record[kind] for record in first):.1f} s" in row
    assert runs["early-stopping PPO"]["at_tokens"]["tokens"] <= points["PPO"]["tokens"]
    assert "At equal tokens early-stopping PPO differs from PPO by sampled accuracy" in done.stdout
    # The same start, problems and seeds: the first batch, in which nothing is stopped yet, is the same one.
    assert len({(runs[name]["history"][0]["tokens"], runs[name]["history"][0]["accuracy"]) for name in names[1:]}) == 1
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "responses.html").read_text("utf-8")
    assert all(f'"name":"{name}"' in page for name in names[1:])
    assert page.count('"label":null') == 2 * len(runs)  # a snapshot of each training iteration
    for name in ("results.json", "curves.png", "responses.html"):
        assert str(tmp_path / name) in done.stdout
    assert "built in favour" not in done.stdout


def test_start_is_made_once_for_a_setting(tmp_path):
    folder = make_start("walk", tmp_path, sft_steps=2)
    weights = folder / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert make_start("walk", tmp_path, sft_steps=2) == folder
    assert weights.stat().st_mtime_ns == made
    make_start("walk", tmp_path, sft_steps=3)
    assert weights.stat().st_mtime_ns > made
    with lock(tmp_path / "start-walk.lock"):
        assert make_start("walk", tmp_path, sft_steps=3) == folder  # is there
        with pytest.raises(BlockingIOError, match=f"held by process {os.getpid()} on "):
            make_start("walk", tmp_path, sft_steps=4)
    assert [p["step"] for p in json.loads((folder / "sft.json").read_text("utf-8"))["points"]] == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--task", "walks"],
            "expected a task out of ['arithmetic', 'cycle', 'long_chains', 'path_star', 'smollm2', 'walk']",
        ),
        (["--task", "reasoning_gym:countdown"], "can be scored safely"),
        (["--rule", "sometimes"], "invalid choice: 'sometimes'"),
        (["--iterations", "0"], "expected --iterations of at least 1, got 0"),
        (["--sft-steps", "0"], "expected --sft-steps of at least 1, got 0"),
        (["--model", "no/such/folder"], "expected --model with a config.json in it, got 'no/such/folder'"),
    ],
)
def test_bad_flags_are_explained(arguments, message, capsys):
    quickstart = _load()
    with pytest.raises(SystemExit) as ended:
        quickstart.parse_arguments(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_second_one_in_the_same_folder_is_refused(tmp_path):
    quickstart = _load()
    with lock(tmp_path / "lock"), pytest.raises(SystemExit, match=f"error: .* held by process {os.getpid()} on "):
        quickstart.main(["--output", str(tmp_path)])


def test_build_config_is_a_config_to_start_from(tmp_path):
    config = build_config(task="walk", rule="random", seed=3, iterations=7, output=tmp_path, sft_steps=1)
    config.validate()
    assert (config.rule, config.seed, config.planned_iterations) == ("random", 3, 7)
    assert config.check_task().max_new_tokens == config.max_new_tokens


def _load():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import quickstart
    finally:
        sys.path.pop(0)
    return quickstart
