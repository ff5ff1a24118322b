r"""Matrices and vectors as they are written in LaTeX's environments.

- :class:`Matrix`: its entries, and whether it is a determinant.
- :func:`read_matrix`: reads ``\begin{pmatrix}1\\2\end{pmatrix}`` and its relatives, ``\langle 1, 2 \rangle`` and
  ``[[1, 2], [3, 4]]``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from espo_env.grading.normalise import split_list

__all__ = ["Matrix", "read_matrix"]


class Matrix(NamedTuple):
    """A matrix.

    Attributes:
        rows: Its entries, as they are written.
        bars: ``|`` or ``||`` for a determinant or norm, else empty.
    """

    rows: tuple[tuple[str, ...], ...]
    bars: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), len(self.rows[0])

    @property
    def entries(self) -> list[str]:
        """Row after row."""
        return [entry for row in self.rows for entry in row]


_ENVIRONMENT = re.compile(
    r"(\(|\[|\||\\\||)\s*\\begin\s*\{([pbBvV]?)(?:small)?(matrix|array)\*?\}\s*(.*?)\s*"
    r"\\end\s*\{\2(?:small)?\3\*?\}\s*(\)|\]|\||\\\||)",
    re.DOTALL,
)
_COLUMNS = re.compile(r"\s*\{[lcr|\s]*\}")
_END_OF_ROW = re.compile(r"(?:\\\\)+\s*(?:\[[^\[\]]{1,8}\])?|\\cr(?![a-zA-Z])")
_ANGLES = re.compile(r"(?:\\langle|<)(?![a-zA-Z])(.*)(?:\\rangle|>)", re.DOTALL)
_BRACKETS = {"": "", "(": ")", "[": "]", "|": "|", r"\|": r"\|"}
_BARS = {"v": "|", "V": "||"}


def _rectangle(rows: list[list[str]], bars: str = "") -> Matrix | None:
    width = len(rows[0]) if rows else 0
    if not width or any(len(row) != width or not all(row) for row in rows):
        return None
    return Matrix(tuple(tuple(row) for row in rows), bars)


def _read_rows(text: str) -> Matrix | None:
    """``[[1, 2], [3, 4]]``."""
    rows = split_list(text[1:-1])
    if not all(row.startswith("[") and row.endswith("]") for row in rows):
        return None
    return _rectangle([split_list(row[1:-1]) for row in rows])


def read_matrix(text: str) -> Matrix | None:
    r"""Reads a matrix.

    Args:
        text: The answer, as :func:`~espo_env.grading.normalise.tidy` returned it.

    Returns:
        The matrix, with one column for a vector in angle brackets; None if the text is no matrix and nothing else, or
        a row is shorter than another.
    """
    if text.startswith("[[") and text.endswith("]]"):
        return _read_rows(text)
    if match := _ANGLES.fullmatch(text):
        elements = split_list(match.group(1))
        return _rectangle([[element] for element in elements]) if len(elements) > 1 else None
    match = _ENVIRONMENT.fullmatch(text)
    if match is None:
        return None
    left, style, environment, body, right = match.groups()
    if _BRACKETS[left] != right or r"\begin" in body or r"\end" in body or (left and style):
        return None
    if environment == "array":
        body = _COLUMNS.sub("", body, count=1)
    rows = [row for row in _END_OF_ROW.split(body) if row.strip()]
    bars = _BARS.get(style, left.replace("\\|", "||") if "|" in left else "")
    return _rectangle([[cell.strip() for cell in row.split("&")] for row in rows], bars)
