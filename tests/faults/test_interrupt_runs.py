"""Interrupted runs end with a checkpoint, and come to the same as a run that was left alone."""

import signal

import pytest
import yaml
from interrupt_runs import EXIT_CODES, interrupt, write_config
from safetensors.torch import load_file
from typer.testing import CliRunner

from espo_algo.commands.cli import app

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.faults
def test_interrupted_runs_save_say_how_to_go_on_and_come_to_the_same(tmp_path):
    config = write_config(tmp_path, iterations=40)
    done = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        outcome = interrupt(config, number)
        assert outcome.exit_code == EXIT_CODES[number], outcome.message
        assert outcome.logged == [*range(1, outcome.saved + 1)]
        assert done < outcome.saved < 40
        done = outcome.saved
        assert f"{number.name}: ends after this iteration" in outcome.message
        assert f"to go on: espo train {config} --resume\n" in outcome.message
        assert "Traceback" not in outcome.message
    whole = tmp_path / "whole.yaml"
    content = yaml.safe_load(config.read_text())
    content["run"]["output"] = str(tmp_path / "whole")
    whole.write_text(yaml.safe_dump(content))
    for arguments in (["train", str(config), "--resume"], ["train", str(whole)]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    left, right = (load_file(next((tmp_path / name / "model").rglob("model.safetensors"))) for name in ("run", "whole"))
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)
