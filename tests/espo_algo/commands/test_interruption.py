from __future__ import annotations

import io
import signal
import sys

from espo_algo.commands.interruption import Interruption


class Terminal(io.RawIOBase):
    """A stream in whose first write the process is interrupted."""

    def __init__(self) -> None:
        self.interrupted = False

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        if not self.interrupted:
            self.interrupted = True
            signal.raise_signal(signal.SIGINT)
        return len(data)


def test_a_signal_that_comes_while_something_is_written_is_noted_and_said(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Terminal()), line_buffering=True))
    with Interruption() as interruption:
        interruption.patient = True
        print("30 of 60", file=sys.stderr, flush=True)
    assert interruption.exit_code == 130
    assert (
        capfd.readouterr().err == "\nSIGINT: ends after this iteration, with a checkpoint; a second one ends at once\n"
    )
