"""What a run was started with, kept in its folder, and compared with what it is to go on with.

- :class:`RunSettings`: the configuration file and the number of training problems.
- :func:`differences`: between two contents.
- :func:`flat`: nested values by their dotted names.
- :data:`HARMLESS`: keys that may change when a run goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espo_algo.atomic import write_text
from espo_algo.commands.config_file import read_file

__all__ = ["HARMLESS", "RunSettings", "differences", "flat"]

HARMLESS = re.compile(r"run\..*|fault_tolerance\..*|debugging\.log_level|.*_timeout_s")
"""Keys that may change: how long to train, what to keep, what to say, how long to wait."""

_PROBLEMS = "number of training problems"
_FACTS = "run.json"
_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class RunSettings:
    """What training depends on.

    Attributes:
        file: The configuration file; None for a configuration made in Python, which is neither kept nor compared.
        num_problems: Training problems of its task.
    """

    file: Path | None
    num_problems: int

    def differences(self, folder: Path) -> list[str]:
        """What is otherwise than in a run's folder, see :func:`differences`."""
        facts = folder / _FACTS
        before: dict[str, Any] = json.loads(facts.read_text("utf-8")) if facts.is_file() else {}
        now: dict[str, Any] = {_PROBLEMS: self.num_problems}
        if self.file is not None:
            if (kept := _kept_file(folder)) is None:
                return [f"configuration file: nothing in {str(folder)!r} -> {self.file}"]
            before |= read_file(kept)
            now |= read_file(self.file)
        return differences(before, now)

    def keep(self, folder: Path, iteration: int | None) -> None:
        """Copies the file into a run's folder.

        Args:
            folder: The run's.
            iteration: The iteration that the run goes on from; another file that is there stays under the name
                ``config-until-<iteration>``. None for a run that starts: there is nothing then that the other one
                belongs to.
        """
        write_text(folder / _FACTS, json.dumps({_PROBLEMS: self.num_problems}) + "\n")
        if self.file is None:
            return
        text = self.file.read_text("utf-8")
        kept, target = _kept_file(folder), folder / f"config{self.file.suffix}"
        if kept is not None and iteration is not None and kept.read_text("utf-8") != text:
            until = folder / f"config-until-{iteration:06d}{kept.suffix}"
            if not until.exists():  # else nothing was trained since with what is kept now
                write_text(until, kept.read_text("utf-8"))
        write_text(target, text)
        if kept is not None and kept != target:
            kept.unlink()


def differences(before: Mapping[str, Any], now: Mapping[str, Any], harmless: re.Pattern[str] = HARMLESS) -> list[str]:
    """What has changed between two contents of a file.

    Args:
        before: Section -> keyword -> value.
        now: The same.
        harmless: Keys that are left out.

    Returns:
        For each key that differs ``"section.key: old -> new"``.
    """
    before, now = flat(before), flat(now)
    pairs = {name: (_shown(before, name), _shown(now, name)) for name in sorted(before.keys() | now.keys())}
    return [
        f"{name}: {old} -> {new}" for name, (old, new) in pairs.items() if old != new and not harmless.fullmatch(name)
    ]


def _kept_file(folder: Path) -> Path | None:
    files = (folder / f"config{suffix}" for suffix in _SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"training": {"lr": 1}}`` -> ``{"training.lr": 1}``; an empty mapping stays a value."""
    values: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values
