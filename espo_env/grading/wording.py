r"""Words around an answer that say nothing of their own.

- :func:`strip_phrase`: takes off ``The answer is``.
- :func:`strip_remark`: takes off ``for all x``, ``where c is a constant``, ``, k \in \mathbb{Z}``.
- :func:`split_choice`: ``\textbf{(C)}\ 12`` as a letter and an answer.
- :func:`unify_words`: one spelling for "no solution", bases, ordinals and ratios.
- :func:`alternatives`: whether an answer says "or".
"""

from __future__ import annotations

import re

__all__ = ["alternatives", "split_choice", "strip_phrase", "strip_remark", "unify_words"]

_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*"
_FILLERS = (
    "so|thus|hence|therefore|then|and|we|get|have|obtain|the|final|correct|required|possible|only|its|is|are|be|"
    "answers?|values?|results?|solutions?|roots?|numbers?|integers?|primes?|area|perimeter|volume|sum|product|total|"
    "probability|length|distance|equation|set|function|either|both|equals|equal to"
)
_PHRASE = re.compile(rf"(?:(?:{_FILLERS})(?![A-Za-z(_^])[\s:,]*)+=?\s*(?=\S)", re.IGNORECASE)
_LEADING_TEXT = re.compile(rf"{_TEXT}\{{([^{{}}]*)\}}\s*")
_REMARK = re.compile(
    rf"[\s,]*(?:{_TEXT}\{{[\s,]*)?(?:(?<![A-Za-z])(?:where|for\s+(?:all|any|every|each|some))(?![A-Za-z])|\\forall(?![a-zA-Z])"
    r"|(?:(?<=,)\s*|(?<=\s)\()(?=[A-Za-z]\s*\\in\s*\\mathbb))",
)
_IN_REMARK = re.compile(
    r"\\(?:text|textrm|mathrm|mbox|mathbb|in|quad)(?![a-zA-Z])|[{}\s,.()]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])"
    r"|(?<![A-Za-z])(?:constants?|arbitrary|fixed|real|numbers?|integers?|is|are|an|any|all|some|values?|of|every|and)"
    r"(?![A-Za-z])",
    re.IGNORECASE,
)
_DOMAIN = re.compile(r"\\mathbb\{([A-Z])\}|(?<![a-z])(real|integer)", re.IGNORECASE)
_DOMAINS = {"real": "R", "integer": "Z"}
_CHOICE = re.compile(rf"(?:{_TEXT}\{{\s*)?(?:\(([A-H])\)|([A-H])[.)])[\s:}}]+(?![\s}}])(.+)", re.DOTALL)
_OR = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee)(?![a-zA-Z])")
_OPTION = re.compile(rf"(?:{_TEXT}\{{\s*)?(?:option|choice)\s*\}}?\s*\(?([A-H])\)?\s*\}}?|([A-H])\)", re.IGNORECASE)
_NO_LIMIT = re.compile(rf"(?:{_TEXT}\{{\s*)?(?:does\s+not\s+exist|DNE)\s*\}}?", re.IGNORECASE)
_EMPTY = re.compile(
    r"(?:there\s+(?:is|are)\s+)?(?:no(?:\s+such)?(?:\s+real|\s+integer)?\s+solutions?(?:\s+exists?)?|none|(?:the\s+)?empty\s+set)",
    re.IGNORECASE,
)
_INFINITY = re.compile(rf"(?:{_TEXT}\{{\s*)?infinity\s*\}}?", re.IGNORECASE)
_WHOLE_TEXT = re.compile(rf"{_TEXT}\{{([^{{}}]*)\}}")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_BASE_NAME = "|".join(_BASES)
_SUBSCRIPT = re.compile(
    rf"\(?([0-9A-Z]+)\)?\s*"
    rf"(?:_\s*\{{?\s*\(?\s*(?:{_TEXT}\{{)?|(?:{_TEXT}\{{)?\s*(?:in )?base\s*\}}?\s*(?:{_TEXT}\{{)?)\s*"
    rf"([0-9]{{1,2}}|{_BASE_NAME})\s*\}}?\s*\)?\s*\}}?"
)
_LARGE = re.compile(
    rf"(-?[0-9][0-9.,]*)\s*(?:{_TEXT}\{{)?\s*(hundred|thousand|million|billion|trillion)(?![A-Za-z])\s*([^{{}}]*)\}}?",
    re.IGNORECASE,
)
_ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_ORDINAL = re.compile(
    rf"(?:{_TEXT}\{{)?(?:([0-9]+)\s*\^?|([a-z])\s*[\^-])\s*\{{?\s*(?:{_TEXT}\{{)?\s*-?(?:st|nd|rd|th)\s*\}}{{0,2}}"
)
_RATIO = re.compile(rf"([0-9]+)\s*(?::|to|{_TEXT}\{{\s*to\s*\}})\s*([0-9]+)")


def alternatives(text: str) -> bool:
    """Whether the answer says "or"."""
    return _OR.search(text) is not None


def strip_phrase(text: str) -> tuple[str, str]:
    """The answer, and the words before it that only announce it, if there are any."""
    words = text
    if match := _LEADING_TEXT.match(text):
        words = f"{match.group(1).strip()} {text[match.end() :]}".strip()
    match = _PHRASE.match(words)
    if match is None:
        return text, ""
    return words[match.end() :].strip(), " ".join(re.findall("[a-z]+", match.group().casefold()))


def strip_remark(text: str) -> tuple[str, str | None]:
    """The answer, and the domain (``"R"``, ``"Z"``, ..., ``""`` if it names none) of a remark that adds no condition.

    None if there is no such remark.
    """
    match = _REMARK.search(text)
    if match is None or not text[: match.start()].strip() or _IN_REMARK.sub("", text[match.end() :]):
        return text, None
    domain = _DOMAIN.search(text[match.end() :])
    name = "" if domain is None else domain.group(1) or _DOMAINS[domain.group(2).casefold()]
    return text[: match.start()].strip(), name


def split_choice(text: str) -> tuple[str, str]:
    """The answer, and the letter of the choice before it; empty if there is none."""
    match = _CHOICE.fullmatch(text)
    return (match.group(3), match.group(1) or match.group(2)) if match else (text, "")


def unify_words(text: str) -> str:
    r"""``\emptyset`` for "no solution", ``1011_2`` for ``1011_{\text{two}}``, ``3`` for "3rd", ``3:4`` for "3 to 4".

    Also ``5 \cdot 10^{6}`` for "5 million".
    """
    if _EMPTY.fullmatch(_WHOLE_TEXT.sub(r"\1", text).strip()):
        return r"\emptyset"
    if _NO_LIMIT.fullmatch(text):
        return r"\text{DNE}"
    if match := _OPTION.fullmatch(text):
        return match.group(1) or match.group(2)
    if _INFINITY.fullmatch(text):
        return r"\infty"
    if match := _SUBSCRIPT.fullmatch(text):
        digits, base = match.groups()
        base = str(_BASES.get(base, base))
        return f"{digits}_{base}" if len(base) == 1 else f"{digits}_{{{base}}}"
    if match := _ORDINAL.fullmatch(text):
        return match.group(1) or match.group(2)
    if match := _LARGE.fullmatch(text):
        number, word, unit = match.groups()
        return rf"{number} \cdot 10^{{{_ZEROS[word.casefold()]}}} {unit}".strip()
    if match := _RATIO.fullmatch(text):
        return ":".join(match.groups())
    return text
