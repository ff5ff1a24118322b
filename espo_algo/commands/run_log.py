"""The log of a run: what ``ESPO.train()`` gave back, its numbers, one iteration a line.

- :class:`RunLog`: appends, reads, and drops what training is about to do again.
- :data:`LOG`: its name in the run's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from espo_algo.atomic import write_text
from espo_algo.evaluation.report import iteration_record

__all__ = ["LOG", "RunLog"]

LOG = "results.jsonl"


class RunLog:
    """A JSON Lines file, a line for each iteration.

    A last line without its end is what a killed process left half-written: it does not count.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / LOG

    def append(self, result: Mapping[str, Any]) -> None:
        """Writes an iteration's line; it is safe from the end of this process, whatever ends it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_numbers(result), allow_nan=False) + "\n")

    def iterations(self) -> list[int]:
        """Numbers of the iterations that are logged, as they stand there; empty without a file.

        Raises:
            ValueError: If a line is no iteration's, naming it.
        """
        return [int(row["training_iteration"]) for _, row in self._rows()]

    def records(self) -> list[dict[str, float]]:
        """The record (:func:`~espo_algo.evaluation.report.iteration_record`) of each iteration.

        Raises:
            FileNotFoundError: If there is no log.
            ValueError: As :meth:`iterations`.
        """
        return [iteration_record(result) for result in self.results()]

    def results(self) -> list[dict[str, Any]]:
        """The numbers that ``ESPO.train()`` gave back, nested as they were, of each iteration.

        Raises:
            FileNotFoundError: If there is no log.
            ValueError: As :meth:`iterations`.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"expected the folder of a run, with {LOG} in it, got {str(self.path.parent)!r}")
        return [_with_nan(row) for _, row in self._rows()]

    def forget_after(self, iteration: int) -> None:
        """Drops the lines of later iterations, which training does again, and a half line."""
        kept = [line for line, row in self._rows() if row["training_iteration"] <= iteration]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def _rows(self) -> list[tuple[str, dict[str, Any]]]:
        text = self.path.read_text("utf-8") if self.path.is_file() else ""
        rows = []
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            try:
                row = json.loads(line)
                int(row["training_iteration"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{self.path}:{number}: expected an iteration as JSON, got {line[:80]!r} ({error!r})"
                ) from None
            rows.append((line, row))
        return rows


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a result, nested as they are; None for those that were not measured."""
    numbers: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            if name != "config" and (inner := _numbers(value)):
                numbers[str(name)] = inner
        elif isinstance(value, Real):
            numbers[str(name)] = float(value) if math.isfinite(value) else None
    return numbers


def _with_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _with_nan(value) if isinstance(value, Mapping) else math.nan if value is None else value
        for name, value in numbers.items()
    }
