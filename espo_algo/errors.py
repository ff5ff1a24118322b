"""What ends training.

- :class:`TrainingError`: training cannot go on.
"""

from __future__ import annotations

__all__ = ["TrainingError"]


class TrainingError(RuntimeError):
    """Training cannot go on: a learner is dead, nothing is left to learn from, or no step has an effect.

    The message says which; on the command line it is all that is printed.
    """
