"""Runs an experiment of Ray Tune.

- :func:`fit`: ``Tuner.fit``, which a signal ends where it can go on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ray import tune

from espo_algo.commands.interruption import Interruption

__all__ = ["fit"]


def fit(tuner: tune.Tuner, interruption: Interruption | None = None, **environment: str) -> tune.ResultGrid:
    """Runs the experiment to its end, or until a signal is noted.

    Args:
        tuner: The experiment.
        interruption: A signal that it notes ends the experiment, with its state saved; None for Tune's own way with
            SIGINT.
        environment: Environment variables to set meanwhile.
    """
    if interruption is None:
        with _environment(environment):
            return tuner.fit()
    interruption.then = lambda: signal.raise_signal(signal.SIGUSR1)  # Tune's: it saves its state, and ends
    interruption.patient = True
    try:
        # Tune's own handler of SIGINT would take the place of the interruption's.
        with _environment(environment | {"TUNE_DISABLE_SIGINT_HANDLER": "1"}):
            return tuner.fit()
    finally:
        interruption.patient = False


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables for a time: another experiment of this process may mean others."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
