"""Docstrings as Markdown, for the reference of the API.

- :func:`in_markdown`: what this repository writes in reStructuredText (roles, double backticks, literal blocks).
- :class:`Docstrings`: griffe's extension that applies it.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


def in_markdown(text: str) -> str:
    """A docstring's roles, double backticks and literal blocks as Markdown."""
    text = re.sub(r":\w+:`~([^`]+)`", lambda found: f"`{found[1].split('.')[-1]}`", text)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


class Docstrings(Extension):
    """Rewrites every docstring that is loaded."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Griffe calls it for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = in_markdown(obj.docstring.value)
