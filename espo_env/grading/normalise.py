r"""Normal forms of LaTeX answers, made without parsing them.

- :func:`clean`: takes off what only concerns the looks.
- :func:`tidy`: does so and writes ``and`` and ``or`` as commas, so that a parser (or a comparison) sees the answers
  alone.
- :func:`key`: the string under which two answers are the same as they stand.
- :func:`split_list`: the elements of a list, at the commas that stand in no bracket.
"""

from __future__ import annotations

import functools
import re

__all__ = ["clean", "key", "split_list", "tidy"]

_TEXT_COMMAND = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*"
_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)"
_DEGREE = r"(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|\u00b0)"
# A second backslash is the end of a row and no part of a command: "\\ " is no space.
_COMMAND = r"(?<!\\)\\"
_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _compile(*rules: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


_CHARACTERS = {
    **{"\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00b1": r"\pm "},
    **{"\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u221e": r"\infty ", "\u2208": r"\in "},
    **{"\u222a": r"\cup ", "\u2229": r"\cap ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}", "\u03c0": r"\pi "},
    **{"\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u03b8": r"\theta ", "\u03bb": r"\lambda ", "\u2227": r"\land "},
    **{"\u2228": r"\lor ", "\u27e8": r"\langle ", "\u27e9": r"\rangle ", "\u2248": r"\approx ", "\u2044": "/"},
    **{"\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}", "\u2153": r"\frac{1}{3}"},
    **{"\u2154": r"\frac{2}{3}", "\u00a0": " ", "\u2009": " ", "\u00a3": "", "\u20ac": "", "\u202f": " "},
}
_SUPERSCRIPTS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-")
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_ROOT = _compile(("\u221a\\s*\\(([^()]*)\\)", r"\\sqrt{\1}"), ("\u221a\\s*([0-9]+|\\w)", r"\\sqrt{\1}"))
_TRANSLATION = str.maketrans(_CHARACTERS)
_LOOKS = _compile(
    (r"\\\$|\$", ""),
    (r"(?<!\\)\\[()\[\]]", ""),  # math delimiters
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![a-zA-Z])\.?", ""),
    (r"\\[hv]?phantom\s*\{[^{}]*\}", ""),
    (r"\\boxed\s*\{([^{}]*)\}", r"\1"),
    (r"(?<=\d)(?:,\\!|\{,\}|\\,)(?=\d{3}(?!\d))", ","),  # thousands
    (_COMMAND + r"[,;:! ]|\\q?quad(?![a-zA-Z])|~", " "),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\(?:[lr]vert|mid)(?![a-zA-Z])", "|"),
    (r"\\boldsymbol\s*\{([^{}]*)\}", r"\1"),
    (r"^\*\*|\*\*$", ""),  # Markdown's bold
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"\\(le|ge|ne)q(?:slant)?(?![a-zA-Z])", r"\\\1"),
    (r"\\infin(?![a-zA-Z])", r"\\infty"),
    (r"(?<![\w)}\]])\+\s*\\infty", r"\\infty"),
    (r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset"),
    (r"\\mathbb\s*([A-Z])|\\([RZNQ])(?![a-zA-Z])", r"\\mathbb{\1\2}"),
    (r"\\(?:setminus|smallsetminus|backslash)(?![a-zA-Z])", r"\\setminus"),
    (r"(?<=\d)\s*x\s*(?=10\s*\^)", r" \\times "),  # 1.2 x 10^3
    (r"(?<=\d)\s*(?:\{:\}|\\colon(?![a-zA-Z]))\s*(?=\d)", ":"),
    (rf"({_TRIGONOMETRIC})\s*[({{]?\s*(\d+)\s*{_DEGREE}\s*[)}}]?", r"\1{(\\frac{\2\\pi}{180})}"),
    (r"\s*\\?%", ""),
    (rf"\s*{_DEGREE}", ""),
)
_AND_OR = _compile(
    (rf",?\s*{_TEXT_COMMAND}\{{[\s,]*(?:and|or)\s*\}}\s*", ", "),
    (r",?\s+(?:and|or)\s+", ", "),
    (r"\s*\\(?:lor|vee)(?![a-zA-Z])\s*", ", "),
)
_ARGUMENTS = _compile(
    (r"\\frac\s*(\\[a-zA-Z]+|\w)", r"\\frac{\1}"),
    (rf"\\frac\s*({_GROUP})\s*(\\[a-zA-Z]+|\w)", r"\\frac\1{\2}"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"([_^])\s*\{(\w)\}(?![0-9])", r"\1\2"),
    (r"\s+", " "),
)
_TEXT_GROUP = re.compile(_TEXT_COMMAND + r"\{([^{}]*)\}")
_SPACE = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")  # a space between digits is not left out: 1 2 is not 12
_WORDS = re.compile(r"[A-Za-z'-]{3,}|[Nn]o")
_LETTER_CHOICE = re.compile(r"\(([A-Za-z])\)")


def _apply(rules: _Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _replace_characters(text: str) -> str:
    """Unicode's mathematical characters as LaTeX."""
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match.group().translate(_SUPERSCRIPTS)}}}", text)
    return _apply(_ROOT, text).translate(_TRANSLATION)


def _finish(text: str) -> str:
    return _apply(_ARGUMENTS, text).strip().rstrip(".").rstrip()


# The responses to one problem repeat its reference, and mostly their answers.
@functools.lru_cache(maxsize=1024)
def clean(text: str) -> str:
    """The answer without dollar, percent and degree signs, sizes of brackets, spacing commands, a last full stop."""
    return _finish(_apply(_LOOKS, text if text.isascii() else _replace_characters(text)))


@functools.lru_cache(maxsize=1024)
def tidy(text: str) -> str:
    """The same, and with ``and`` and ``or`` between answers as commas."""
    return _finish(_apply(_AND_OR, clean(text)))


@functools.lru_cache(maxsize=4096)
def key(text: str) -> str:
    """A string that is equal for answers that are the same as they stand.

    Args:
        text: The answer, as :func:`tidy` returned it.
    """
    text = _TEXT_GROUP.sub(r"\1", text)
    text = _SPACE.sub("", text).rstrip(".")
    if choice := _LETTER_CHOICE.fullmatch(text):
        text = choice.group(1)
    return text.casefold() if _WORDS.fullmatch(text) else text


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
