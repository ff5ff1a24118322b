"""Text of others on a terminal or page: shown, not obeyed.

- :func:`visible`: writes out what a terminal would act on.
"""

from __future__ import annotations

import re

__all__ = ["visible"]

# Controls (C0 but for tab and line feed, delete, C1), with which every escape sequence begins; what turns the direction
# of reading; further line breaks; halves of surrogate pairs, which cannot be written as UTF-8.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with everything that a terminal or browser would act on written out.

    A policy's response, a data set or a model's tokenizer may hold escape sequences, which set a window's title, write
    to the clipboard or clear the screen.

    >>> print(visible("\x1b[2Jred\u202e\n"), end="")
    \x1b[2Jred\u202e
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)
