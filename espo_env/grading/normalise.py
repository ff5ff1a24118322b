r"""Normal forms of LaTeX answers, made without parsing them.

- :func:`tidy`: takes off what only concerns the looks, so that a parser (or a comparison) sees the answer alone.
- :func:`key`: the string under which two answers are the same as they stand.
- :func:`split_list`: the elements of a list, at the commas that stand in no bracket.
"""

from __future__ import annotations

import re

__all__ = ["key", "split_list", "tidy"]

_TEXT_COMMAND = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*"
_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[\u2212\u2013]", "-"),
        (r"\\\$|\$", ""),
        (r"\\[()\[\]]", ""),  # math delimiters
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle)(?![a-zA-Z])\.?", ""),
        (r"(?<=\d)(?:,\\!|\{,\}|\\,)(?=\d{3}(?!\d))", ","),  # thousands
        (r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(le|ge|ne)q(?:slant)?(?![a-zA-Z])", r"\\\1"),
        (r"\\infin(?![a-zA-Z])", r"\\infty"),
        (r"\s*\\?%", ""),
        (r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|\u00b0)", ""),
        (rf",?\s*{_TEXT_COMMAND}\{{[\s,]*(?:and|or)\s*\}}\s*", ", "),
        (r",?\s+(?:and|or)\s+", ", "),
        (r"\\frac\s*(\\[a-zA-Z]+|\w)", r"\\frac{\1}"),
        (rf"\\frac\s*({_GROUP})\s*(\\[a-zA-Z]+|\w)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"([_^])\s*\{(\w)\}", r"\1\2"),
        (r"\s+", " "),
    )
)
_TEXT_GROUP = re.compile(_TEXT_COMMAND + r"\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z]{3,}")
_LETTER_CHOICE = re.compile(r"\(([A-Za-z])\)")


def tidy(text: str) -> str:
    """The answer without dollar, percent and degree signs, sizes of brackets, spacing commands, a last full stop.

    ``and`` and ``or`` between answers become commas.
    """
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".").rstrip()


def key(text: str) -> str:
    """A string that is equal for answers that are the same as they stand.

    Args:
        text: The answer, as :func:`tidy` returned it.
    """
    text = _TEXT_GROUP.sub(r"\1", text)
    text = re.sub(r"\s", "", text).rstrip(".")
    if choice := _LETTER_CHOICE.fullmatch(text):
        text = choice.group(1)
    return text.casefold() if _WORD.fullmatch(text) else text


def split_list(text: str) -> list[str]:
    """Splits at commas and semicolons that stand in no bracket; empty elements are dropped."""
    elements, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char in ",;" and depth == 0:
            elements.append(text[start:i])
            start = i + 1
    elements.append(text[start:])
    return [element.strip() for element in elements if element.strip()]
