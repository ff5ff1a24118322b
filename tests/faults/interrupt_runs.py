"""Training runs that are interrupted (Ctrl-C, SIGTERM) or killed, whose checkpoints are damaged, and that go on.

Run with ``PYTHONPATH=.:tests/support``. Starts ``espo train --resume`` again and again, sends it a signal while it
trains, and looks at what it leaves: exit code, log, checkpoints. Between two starts files of the newest checkpoint are
damaged, one at a time (a bit flipped, cut short, deleted), and put back. Last, a run that was interrupted all along is
compared with one that was left alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from coin_task import CoinTask
from safetensors.torch import load_file
from tiny_models import save_tiny_model

from espo_algo.commands.checkpoints import choose_checkpoint, iteration_of, list_checkpoints
from espo_algo.commands.run_log import RunLog
from espo_algo.manifest import BrokenCheckpointError

ROOT = Path(__file__).parents[2]
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}


@dataclass(frozen=True)
class Outcome:
    """What an interrupted process left.

    Attributes:
        exit_code: Of the process; negative where a signal ended it.
        message: What it wrote to stderr.
        logged: Iterations in the log.
        saved: Iteration of the newest whole checkpoint; 0 without one.
    """

    exit_code: int
    message: str
    logged: list[int]
    saved: int


def write_config(folder: Path, iterations: int) -> Path:
    """A configuration that trains an iteration in a fraction of a second, with its model."""
    content = {
        "environment": {"env": "espo_env/TokenGeneration-v0", "env_config": {"task": "coin_task:CoinTask"}},
        "env_runners": {"num_envs_per_env_runner": 8},
        "language_model": {"model": str(save_tiny_model(folder / "start", CoinTask().tokenizer, spare_tokens=5))},
        "generation": {"max_new_tokens": 8},
        "training": {"lr": 1e-3, "train_batch_size_per_learner": 16, "minibatch_size": 8},
        "early_stopping": {"planned_iterations": 100},  # whatever run.iterations is
        "debugging": {"seed": 0},
        "run": {"iterations": iterations, "output": str(folder / "run"), "checkpoint_every": 7},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(config: Path, *options: str) -> subprocess.Popen[str]:
    """Starts ``espo train --resume`` in a process group of its own."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(
        [sys.executable, "-m", "espo_algo.commands.cli", "train", str(config), "--resume", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        process_group=0,
    )


def interrupt(config: Path, number: signal.Signals, delay: float = 0.0, options: Sequence[str] = ()) -> Outcome:
    """Starts or resumes a run, and sends it a signal ``delay`` seconds after its first new iteration."""
    folder = Path(yaml.safe_load(config.read_text())["run"]["output"])
    log = RunLog(folder)
    process = start(config, *options)
    size = -1
    while process.poll() is None:
        now = log.path.stat().st_size if log.path.is_file() else 0
        if 0 <= size < now:  # it has got smaller or stayed as it was before
            break
        size = now
        time.sleep(0.02)
    time.sleep(delay)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, message = process.communicate(timeout=120)
    checkpoint = choose_checkpoint(folder, skip_broken=False)
    saved = 0 if checkpoint is None else iteration_of(checkpoint)
    return Outcome(process.returncode, message, log.iterations(), saved)


def damage(checkpoint: Path, choice: random.Random) -> tuple[str, Path, bytes]:
    """Damages one file of a checkpoint: what was done, to which file, and what was in it."""
    file = choice.choice(sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size))
    content, what = file.read_bytes(), choice.choice(["bits flipped", "files cut short", "files deleted"])
    place = choice.randrange(len(content))
    if what == "bits flipped":
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << choice.randrange(8)]) + content[place + 1 :])
    elif what == "files cut short":
        file.write_bytes(content[:place])
    else:
        file.unlink()
    return what, file, content


def damage_and_mend(folder: Path, choice: random.Random) -> str:
    """Damages the newest checkpoint of a run, sees that it is refused by the file's name, and mends it."""
    what, file, content = damage(list_checkpoints(folder)[-1], choice)
    try:
        raise SystemExit(f"{file}, {what}: {choose_checkpoint(folder, skip_broken=False)} is taken as whole")
    except BrokenCheckpointError as error:
        if file.name not in str(error):
            raise
    file.write_bytes(content)
    return what


def damage_for_good(config: Path, folder: Path, choice: random.Random) -> None:
    """Damages the newest checkpoint, and sees that ``espo train --resume`` ends at once and names the file."""
    what, file, _ = damage(list_checkpoints(folder)[-1], choice)
    process = start(config)
    _, message = process.communicate(timeout=120)
    if process.returncode != 1 or file.name not in message or "Traceback" in message:
        raise SystemExit(f"{file}, {what}: exit code {process.returncode}, {message}")


def same_export(config: Path, iterations: int) -> bool:
    """Whether the run, brought to its end, exports what one comes to that was left alone from its start."""
    exports = []
    for output in ("run", "alone"):
        content = yaml.safe_load(config.read_text())
        content["run"] |= {"iterations": iterations, "output": str(config.parent / output)}
        config.write_text(yaml.safe_dump(content))
        process = start(config)
        _, message = process.communicate()
        if process.returncode:
            raise SystemExit(message)
        files = sorted((config.parent / output / "model").rglob("*.safetensors"))
        exports.append([load_file(file) for file in files])
    return len(exports[0]) == len(exports[1]) > 0 and all(
        left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)
        for left, right in zip(*exports, strict=True)
    )


def main() -> None:
    """Prints what was seen, as rows of a table; ends at once where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--damages", type=int, default=50, help="a round")
    options = parser.parse_args()
    signals, damages, again, set_aside = Counter[str](), Counter[str](), 0, list[str]()
    choice, started = random.Random(0), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        config, run = write_config(Path(name), iterations=1_000_000), Path(name) / "run"
        for _, number in zip(range(options.rounds), itertools.cycle(EXIT_CODES), strict=False):
            for_good = number == signal.SIGTERM and len(list_checkpoints(run)) > 1
            if for_good:
                set_aside.append(f"broken-{list_checkpoints(run)[-1].name}")
                damage_for_good(config, run, choice)
            outcome = interrupt(config, number, choice.uniform(0, 0.5), ["--skip-broken"] if for_good else [])
            whole_log = outcome.logged == [*range(1, len(outcome.logged) + 1)]
            if outcome.exit_code != EXIT_CODES[number] or not whole_log:
                raise SystemExit(f"{number.name}: {outcome}")
            if number != signal.SIGKILL and outcome.saved != outcome.logged[-1]:
                raise SystemExit(f"{number.name}: {outcome}")
            signals[number.name] += 1
            again += outcome.logged[-1] - outcome.saved
            damages.update(damage_and_mend(run, choice) for _ in range(options.damages))
        # An iteration that is done again may be broken again.
        if (broken := {path.name for path in run.glob("checkpoints/broken-*")}) != set(set_aside):
            raise SystemExit(f"expected checkpoints {sorted(set_aside)} set aside, got {sorted(broken)}")
        seconds = time.monotonic() - started
        rows = {
            "processes that trained": ", ".join(f"{n} ended by {what}" for what, n in signals.items())
            + f", in {seconds:.0f} s",
            "exit code, and a log without gap or double line": f"{signals.total()} of {signals.total()}",
            "iterations done again": f"{again} after SIGKILL, 0 after SIGINT and SIGTERM",
            "damages to the newest checkpoint, refused by the file's name": f"{damages.total()} of {damages.total()}: "
            + ", ".join(f"{n} {what}" for what, n in sorted(damages.items())),
            "broken checkpoints skipped with --skip-broken": str(len(set_aside)),
            f"export after {outcome.saved + 5} iterations as that of a run left alone": "equal"
            if same_export(config, outcome.saved + 5)
            else "NOT EQUAL",
        }
    print("\n".join(f"| {name} | {value} |" for name, value in rows.items()))


if __name__ == "__main__":
    main()
