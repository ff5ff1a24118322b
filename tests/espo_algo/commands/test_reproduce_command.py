"""``espo reproduce``: its options. What it runs is tested in tests/examples/test_reproduce.py."""

import pytest
from typer.testing import CliRunner

from espo_algo.commands.cli import app
from espo_algo.experiments.config import parse_setting


def reproduce(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["reproduce", "--dry-run", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_a_dry_run_says_what_would_run(tmp_path):
    output = tmp_path / "results"
    text = reproduce("--arms", "all", "--families", "cycle", "--seeds", "3,5-6", "--output", str(output))
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in text.splitlines() if line.startswith("cycle")}
    assert rows["cycle", "start"][:3] == ["0", "1", "1"]
    assert rows["cycle", "ppo"][:3] == rows["cycle", "random"][:3] == ["60", "3", "3"]
    assert "runs to do: about" in text
    assert not output.exists()


def test_what_takes_hours_runs_where_it_is_named(tmp_path):
    pytest.importorskip("reasoning_gym")
    text = reproduce("--full", "--output", str(tmp_path))
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in text.splitlines()}
    assert rows["cycle", "random"][1] == rows["arithmetic_8", "espo"][1] == "5"
    assert ("arithmetic_8", "random") not in rows
    assert ("cycle", "pilots") not in rows  # with one response to a prompt there is none to wait for
    assert "long_chains" not in text
    assert "smollm2" not in text
    text = reproduce("--full", "--families", "cycle", "--output", str(tmp_path))
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in text.splitlines()}
    assert rows["cycle", "espo"][1] == "5"  # it is in both parts, and is run once
    text = reproduce("--families", "smollm2", "--seeds", "100-101", "--problems", "256", "--output", str(tmp_path))
    rows = {line.split()[1]: line.split()[2:] for line in text.splitlines() if line.startswith("smollm2")}
    assert rows["ppo"][:3] == ["40", "2", "2"]
    assert float(rows["ppo"][3]) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "one"], "expected --seeds such as 100-104 or 0,1,2, got 'one'"),
        (["--seeds", "5-4"], "expected a seed or more, got '5-4'"),
        (["--arms", "pro"], "expected an arm out of ['ppo', "),
        (["--families", "cycle,walks"], "got 'walks'"),
        (["--set", "lr"], "expected --set NAME=VALUE, got 'lr'"),
        (["--set", "fail_rewards=0"], "expected a setting of ESPOConfig (fail_reward?), got 'fail_rewards'"),
    ],
)
def test_bad_options_are_explained(arguments, message):
    assert message in reproduce(*arguments, code=1)


def test_values_are_those_of_yaml_with_exponents():
    assert [
        parse_setting(text) for text in ("lr=1e-4", "beta=auto", "lambda_=1.0", "critic_lambda=null", "rule=never")
    ] == [
        ("lr", 1e-4),
        ("beta", "auto"),
        ("lambda_", 1.0),
        ("critic_lambda", None),
        ("rule", "never"),
    ]
