"""Interrupt (Ctrl-C) and SIGTERM in a training run.

- :class:`Interruption`: notes the first signal, so that training ends where it can go on from; obeys the second.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Interruption"]

_STDERR = 2


class Interruption:
    """Takes SIGINT and SIGTERM over while it is entered, in the main thread.

    A signal ends the process with exit code 128 + its number, 130 or 143, as a shell expects: at once, as long as
    :attr:`patient` is False; else the first one is only noted.

    Args:
        what_follows: What is said when the first one is noted.

    Attributes:
        patient: Whether somebody looks at :attr:`number` from time to time, or :attr:`then` does something about it.
        number: The signal that was noted; None before.
        then: Called when a signal is noted.
    """

    def __init__(self, what_follows: str = "ends after this iteration, with a checkpoint") -> None:
        self.patient = False
        self.number: int | None = None
        self.then: Callable[[], object] = lambda: None
        self._what_follows = what_follows
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 + the signal's number; 0 without one."""
        return 0 if self.number is None else 128 + self.number

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self.patient or self.number is not None:
            raise SystemExit(128 + number)
        self.number = number
        name = signal.Signals(number).name
        said = f"\n{name}: {self._what_follows}; a second one ends at once\n"
        try:
            print(said, end="", file=sys.stderr)
        except RuntimeError:  # it refuses a second writer: the signal came while a progress bar writes
            os.write(_STDERR, said.encode())
        self.then()

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
