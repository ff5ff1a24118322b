r"""Number literals, read exactly: no parser of expressions, no ``eval``, no floating point.

- :class:`Number`: a value, and whether it was written as a division.
- :func:`parse_number`: reads ``18``, ``-1,234.50``, ``3/4``, ``\frac{3}{4}``, ``$5``, ``40\%``, ``1.5e-3``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from espo_env.grading.extraction import MAX_ANSWER_CHARS

__all__ = ["MAX_EXPONENT", "Number", "parse_number"]

MAX_EXPONENT = 400
"""Largest exponent of ten, so that ``1e999999999`` is refused rather than computed."""

# [0-9] and never \d: digits of other scripts are not read as numbers.
_INTEGER = r"(?:[0-9]{1,3}(?:(?:,\\!|,|\{,\}|\\,)[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"([+-]?)\s*({_INTEGER}?)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{{1,9}}))?")
_DIVISION = re.compile(rf"([+-]?)\s*({_INTEGER})\s*/\s*([+-]?)({_INTEGER})")
_FRAC = re.compile(
    r"([+-]?)\s*\\[dt]?frac\s*"
    rf"(?:\{{\s*([+-]?)\s*({_INTEGER})\s*\}}|()([0-9]))\s*"
    rf"(?:\{{\s*([+-]?)\s*({_INTEGER})\s*\}}|()([0-9]))"
)
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("{", "}"))
_CURRENCY = re.compile(r"^([+-]?)\s*\\?\$\s*")
_SEPARATORS = re.compile(r"[^0-9]")


class Number(NamedTuple):
    """A number literal.

    Attributes:
        value: Its exact value.
        division: Whether it was written as one integer over another.
    """

    value: Fraction
    division: bool


def _integer(sign: str, digits: str) -> int:
    value = int(_SEPARATORS.sub("", digits))
    return -value if sign == "-" else value


def _strip(text: str) -> str:
    """Takes off what stands around a number: math delimiters, currency and percent signs, a full stop."""
    text = text.strip().replace("\u2212", "-")
    if text.endswith("."):
        text = text[:-1].rstrip()
    for left, right in _WRAPPERS:
        if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
            text = text[len(left) : -len(right)].strip()
    text = _CURRENCY.sub(r"\1", text)
    if text.endswith("%"):
        text = text[:-1].removesuffix("\\").rstrip()
    if text.endswith("."):
        text = text[:-1]
    return text


def parse_number(text: str) -> Number | None:
    r"""Reads one number literal.

    Args:
        text: An integer, decimal or fraction, with a sign, thousands separators (``,`` or its LaTeX forms), leading
            zeros, a currency or percent sign (both ignored), a full stop, in ``$...$``.

    Returns:
        The number; None for anything else: an expression, a chain of equations, digits of another script, a zero
        denominator, more than ``MAX_ANSWER_CHARS`` characters, an exponent beyond ``MAX_EXPONENT``.
    """
    if len(text) > MAX_ANSWER_CHARS:
        return None
    text = _strip(text)
    if match := _DECIMAL.fullmatch(text):
        sign, whole, decimals, exponent = match.groups()
        if not whole and not decimals:
            return None
        power = int(exponent or 0)
        if abs(power) > MAX_EXPONENT:
            return None
        decimals = decimals or ""
        digits = _SEPARATORS.sub("", whole) + decimals
        power -= len(decimals)
        value = Fraction(_integer(sign, digits) * 10 ** max(power, 0), 10 ** max(-power, 0))
        return Number(value, division=False)
    if match := _DIVISION.fullmatch(text):
        sign, numerator, sign_below, denominator = match.groups()
        top, bottom = _integer(sign, numerator), _integer(sign_below, denominator)
    elif match := _FRAC.fullmatch(text):
        sign, sign_top, top_long, _, top_short, sign_bottom, bottom_long, _, bottom_short = match.groups("")
        top = _integer(sign_top, top_long or top_short) * (-1 if sign == "-" else 1)
        bottom = _integer(sign_bottom, bottom_long or bottom_short)
    else:
        return None
    return Number(Fraction(top, bottom), division=True) if bottom else None
