"""One node that dies, of what ``make faults`` loses; in a process of its own, beside the tests' one Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "lose_nodes.py"
SUPPORT = SCRIPT.parents[1] / "support"


def test_two_nodes_run_it_all_and_either_may_die(tmp_path: Path) -> None:
    root = SCRIPT.parents[2]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": f"{root}{os.pathsep}{SUPPORT}"}
    command = [sys.executable, SCRIPT, "--losses", "1", "--output", tmp_path / "report.json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["learner_at_home"]
    assert report["runners_at_home"]
    # Once for the two runners of the node, and little else.
    assert report["weights_put"] > 1_500_000
    assert report["weights_put"] <= report["weights_received"] < 1.2 * report["weights_put"]
    # What the lost node should have written is missing, and said so; those of the node that joined write on.
    assert report["missing"] > 0
    assert report["planned"] == report["missing"] + report["answered"]
    assert report["runners_at_home_at_last"]
    assert "got none from [0] (dead" in report["learner_lost"]
