r"""Finding the final answer in a response.

- :func:`extract_answer`: the last complete ``\boxed{}``, else the text after the last ``####``, else the last
  ``Answer:`` line.
- :func:`last_number`: for responses that mark no answer.
"""

from __future__ import annotations

import re

__all__ = ["MAX_ANSWER_CHARS", "MAX_DEPTH", "TAIL_CHARS", "extract_answer", "last_number", "nesting_depth"]

TAIL_CHARS = 16384
"""Only this much of a response's end is looked at, so that grading takes no longer for longer responses. (8 kB would
miss a right answer in published outputs, where a sampled response rambles on for 10 kB after its box.)"""
MAX_ANSWER_CHARS = 400
"""No final answer of the usual data sets is longer; longer ones only cost time."""
MAX_DEPTH = 20
"""Deepest nesting of brackets in an answer."""

# An escaped character is consumed as a pair, so that neither "\{" nor the second half of "\\" counts as a brace.
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)
_ANSWER_LINE = re.compile(r"(?:\banswer\s*(?:is\b\s*:?|:)|^[ \t]*A:)\s*(\S.*)", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\d)")
_MARKDOWN = " \t\r\n*_`"


def _last_box(text: str) -> str | None:
    """Content of the box that closes last, in one pass; of a box around a box and nothing else, the inner one's."""
    stack: list[tuple[int, int] | None] = []  # where an open box and its content start; None for another group
    content = None
    start = end = 0  # the box that closed last
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            if stack and (group := stack.pop()) is not None:
                inside = text[group[1] : match.start()]
                if content is None or inside.strip() != text[start:end]:
                    content = inside
                start, end = group[0], match.end()
        elif token == "{":
            stack.append(None)
        elif token[1] in "bf" and len(token) > 2:
            stack.append((match.start(), match.end()))
    return content


def extract_answer(response_text: str) -> str | None:
    r"""The final answer as it is written, stripped of white space; None if there is none.

    Args:
        response_text: The response. Only its last :data:`TAIL_CHARS` characters are looked at.

    Returns:
        The content of the last complete ``\boxed{}`` or ``\fbox{}`` (braces matched; a box that is cut off is not
        complete), else the rest of the line after the last ``####``, else after the last ``Answer:``, ``A:`` (at
        the start of a line) or ``answer is``.
    """
    tail = response_text[-TAIL_CHARS:]
    content = _last_box(tail)
    if content is None:
        _, mark, rest = tail.rpartition("####")
        if mark:
            content = rest.strip().partition("\n")[0]
        else:
            lines = _ANSWER_LINE.findall(tail)
            content = lines[-1] if lines else ""
        content = content.strip(_MARKDOWN)
    return content.strip() or None


def last_number(response_text: str) -> str | None:
    """The last number literal of a response, such as ``-3``, ``1,234`` or ``2.5``; None if there is none.

    The sign counts as the number's where nothing stands right before it: the last number of ``7-3`` is 3.

    Args:
        response_text: The response. Only its last :data:`TAIL_CHARS` characters are looked at.
    """
    numbers = _NUMBER.findall(response_text[-TAIL_CHARS:])
    return numbers[-1] if numbers else None


def nesting_depth(text: str) -> int:
    """Deepest nesting of round, square and curly brackets, escaped ones included; unmatched ones count as open."""
    depth = deepest = 0
    for char in text:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    return deepest
