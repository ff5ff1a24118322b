r"""Exact values of numbers, also of those that are written as a power or in words.

- :class:`Value`: a value, and what is left to work out in the way it is written.
- :func:`read_value`: reads number literals, ``(7)``, ``1\frac{1}{2}``, ``1.2 \times 10^{-3}``, ``2^{10}``,
  ``0.1\overline{6}``, ``twenty-one``, ``tenth``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from espo_env.grading.extraction import MAX_ANSWER_CHARS
from espo_env.grading.number_words import read_number_words
from espo_env.grading.numeric import parse_number

__all__ = ["MAX_BITS", "MAX_BRACKETS", "Value", "read_value"]

MAX_BITS = 1 << 15
"""Longest numerator or denominator, so that ``9^{9^9}`` is refused rather than computed."""
MAX_BRACKETS = 4
"""Deepest nesting of brackets and fractions."""


class Value(NamedTuple):
    """An exact value.

    Attributes:
        value: The value.
        powers: Powers of two or more, or negative, that are left standing.
        factors: Factors beside them; two of them, or a power of zero or one, are left to be multiplied out.
        division: Whether it was written as a quotient.
    """

    value: Fraction
    powers: int = 0
    factors: int = 1
    division: bool = False

    @property
    def unevaluated(self) -> bool:
        """Whether something other than a power is left to do: a product, or a division that comes out even."""
        return self.factors > 1 or (self.division and self.value.denominator == 1)


_MIXED = re.compile(r"([+-]?)\s*([0-9]+)\s*(?:(\\frac\s*\{\s*[0-9]+\s*\}\s*\{\s*[0-9]+\s*\})|(?<=\s)([0-9]+/[0-9]+))")
_SPACED = re.compile(r"[+-]?[0-9]{1,3}(?: [0-9]{3})+")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_TOKEN = re.compile(
    r"\s*([0-9]*\.[0-9]*(?:\\(?:overline|bar|dot)\s*\{\s*[0-9]+\s*\}|\\(?:overline|bar|dot)\s*[0-9]|\([0-9]+\))"
    r"|(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,9})?|\.[0-9]+(?:[eE][+-]?[0-9]{1,9})?"
    r"|\\cdot|\\times|\\frac|\*\*|[-+*/^(){}])\s*"
)
_RECURRING = re.compile(r"([0-9]*)\.([0-9]*)[^0-9]+([0-9]+)[^0-9]*")


def _read_recurring(token: str) -> Fraction | None:
    match = _RECURRING.fullmatch(token)
    if match is None:
        return None
    whole, fixed, period = match.groups()
    nines = (10 ** len(period) - 1) * 10 ** len(fixed)
    return int(whole or 0) + Fraction(int(fixed or 0), 10 ** len(fixed)) + Fraction(int(period), nines)


def _fits(value: Fraction) -> bool:
    return max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS


class _Refused(Exception):
    """The text is no product of powers of numbers, or too large a one."""


class _Reader:
    """Reads products, quotients and powers of number literals, and next to no sum."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _Refused
            self.tokens.append(match.group(1))
            position = match.end()
        self.tokens.append("")
        self.next = 0
        self.depth = 0

    def take(self, *expected: str) -> str:
        """The next token, if it is one of those expected; else an empty string, and it stays."""
        token = self.tokens[self.next]
        if token and token in expected:
            self.next += 1
            return token
        return ""

    def need(self, expected: str) -> None:
        if not self.take(expected):
            raise _Refused

    def product(self) -> Value:
        self.depth += 1
        if self.depth > MAX_BRACKETS + 1:
            raise _Refused
        sign = -1 if self.take("-", "+") == "-" else 1
        result = self.power()
        while operator := self.take("\\cdot", "\\times", "*", "/"):
            result = self.combine(result, self.power(), operator == "/")
        self.depth -= 1
        return result._replace(value=sign * result.value)

    def product_or_so(self) -> Value:
        """A product, or a power and one or two beside it, as in ``2^{10} - 1``."""
        result = self.product()
        sign = self.take("+", "-")
        if not sign:
            return result
        rest = self.product()
        small, large = sorted((result, rest), key=lambda value: abs(value.value))
        if small.powers or small.unevaluated or abs(small.value) not in (1, 2) or not large.powers:
            raise _Refused
        value = result.value + (rest.value if sign == "+" else -rest.value)
        return Value(value, large.powers, large.factors, large.division)

    def combine(self, left: Value, right: Value, division: bool) -> Value:
        if division and not right.value:
            raise _Refused
        value = left.value / right.value if division else left.value * right.value
        if not _fits(value):
            raise _Refused
        factors = max(left.factors, right.factors) if division else left.factors + right.factors
        return Value(value, left.powers + right.powers, factors, left.division or right.division or division)

    def power(self) -> Value:
        base = self.base()
        if not self.take("^", "**"):
            return base
        closing = {"{": "}", "(": ")", "": ""}[self.take("{", "(")]
        sign = -1 if self.take("-", "+") == "-" else 1
        digits = self.tokens[self.next]
        if not digits.isdecimal() or len(digits) > 5:
            raise _Refused
        self.next += 1
        if closing:
            self.need(closing)
        exponent = sign * int(digits)
        value = base.value
        size = max(value.numerator.bit_length(), value.denominator.bit_length())
        if size * abs(exponent) > MAX_BITS or (not value and exponent <= 0):
            raise _Refused
        plain = exponent in (0, 1) and value != 10  # 1.4 \times 10^1 is scientific notation
        if plain or abs(value) == 1 or base.factors > 1:
            return Value(value**exponent, factors=2)
        return Value(value**exponent, powers=1, factors=0)

    def base(self) -> Value:
        if self.take("("):
            result = self.product()
            self.need(")")
            return result
        if self.take("{"):
            result = self.product()
            self.need("}")
            return result
        if self.take("\\frac"):
            self.need("{")
            top = self.product()
            self.need("}")
            self.need("{")
            bottom = self.product()
            self.need("}")
            return self.combine(top, bottom, division=True)
        token = self.tokens[self.next]
        number = parse_number(token.rstrip(".")) if token[:1].isdecimal() or token[:1] == "." else None
        value = _read_recurring(token) if token and number is None else number and number.value
        if value is None:
            raise _Refused
        self.next += 1
        return Value(value)


def read_value(text: str) -> Value | None:
    r"""Reads a number.

    Args:
        text: The answer, as :func:`~espo_env.grading.normalise.tidy` returned it.

    Returns:
        The exact value of a number literal (:func:`~espo_env.grading.numeric.parse_number`), also in round brackets, of
        a mixed number, a recurring decimal, a product or quotient of powers (``2 \cdot 3^4``,
        ``1.2 \times 10^{-3}``), also with one or two beside it (``2^{10} - 1``), or a number below a thousand in words,
        which may be an ordinal; None for everything else, other sums among it, and for values of more than
        :data:`MAX_BITS` bits.
    """
    if len(text) > MAX_ANSWER_CHARS:
        return None
    if number := parse_number(text):
        return Value(number.value, division=number.division)
    if match := _MIXED.fullmatch(text):
        sign, whole, frac, slashed = match.groups()
        part = parse_number(frac or slashed)
        if part is None or part.value >= 1:
            return None
        return Value((int(whole) + part.value) * (-1 if sign == "-" else 1))
    if _SPACED.fullmatch(text):
        return Value(Fraction(text.replace(" ", "")))
    plain = _TEXT.sub(r"\1", text).strip()
    if plain[:1].isalpha():
        number_in_words = read_number_words(plain)
        return None if number_in_words is None else Value(Fraction(number_in_words))
    try:
        reader = _Reader(plain)
        value = reader.product_or_so()
    except _Refused:
        return None
    return None if reader.tokens[reader.next] else value
