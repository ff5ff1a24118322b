"""``measure.py`` on a machine that has torch and transformers, what these need, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

SCRIPT = Path(__file__).with_name("measure.py")


def needed(*names: str) -> dict[str, metadata.Distribution]:
    """The distributions with everything that they need, as far as it is installed."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # such as CUDA's libraries, beside a CPU build
        asked = map(Requirement, found[name].requires or [])
        waiting += [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def bare_machine(folder: Path) -> Path:
    """Python of a virtual environment with torch and transformers alone: links into this one."""
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in needed("torch", "transformers").values():
        for name in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(distribution.locate_file(name))
    return folder / "bin" / "python"


def test_engine_and_update_are_measured_with_torch_and_transformers_alone(tmp_path):
    python = bare_machine(tmp_path / "bare")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    absent = ("ray", "vllm", "gymnasium", "scipy", "espo_algo")
    look = f"from importlib.util import find_spec; print([name for name in {absent} if find_spec(name)])"
    assert subprocess.check_output([python, "-c", look], env=environment, text=True, cwd=tmp_path).strip() == "[]"
    command = [python, SCRIPT, "--quick", "--model", "tiny", "--output", tmp_path / "table.md"]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert child.returncode == 0, child.stderr[-4000:]
    text = (tmp_path / "table.md").read_text()
    assert text in child.stdout
    rows = {what: cells for what, *cells in (re.split(r" \| ", line[2:-2]) for line in text.splitlines()[2:])}
    assert "vllm not installed, ray not installed" in rows[""][1]
    for beginning, unit, ratio in (
        ("embedded engine, 8 responses", "tokens/s", True),
        ("its stopping", "ms a step", True),
        ("update: a step on 4 x 48 tokens", "s", False),
        ("its floating-point operations (MFU)", "TFLOP/s", True),
        ("its peak memory", "GB", False),
    ):
        (cells,) = (cells for what, cells in rows.items() if what.startswith(beginning))
        number, _, got = cells[1].partition(" ")
        assert got == unit
        assert float(number.replace(",", "")) > 0
        assert bool(cells[3].strip()) is ratio
    assert "No module named 'ray'" in rows["its peak memory"][2]
    assert "not measured: " in rows["vLLM with stopping and plain `LLM.generate`, tokens/s"][1]
    assert "got none: pip install" in rows["vLLM with stopping and plain `LLM.generate`, tokens/s"][1]
    for way, gpus in (("ipc", 1), ("nccl", 2)):
        assert rows[f"weights by {way}"][1] == f"not measured: needs {gpus} GPU(s), got 0"
