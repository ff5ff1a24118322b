"""Numbers in English words.

:func:`read_number_words`: reads cardinals and ordinals below a thousand.
"""

from __future__ import annotations

__all__ = ["read_number_words"]

_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_IRREGULAR = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine"}
_SMALL = {word: value for value, word in enumerate(_UNITS + _TEENS)}
_LARGE = {word: 10 * value for value, word in enumerate(_TENS, start=2)}


def _cardinal(word: str) -> str:
    """``third`` as ``three``, ``twentieth`` as ``twenty``."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word == "twelfth":
        return "twelve"
    if word.endswith("ieth"):
        return word[:-4] + "y"
    return word[:-2] if word.endswith("th") else word


def read_number_words(text: str) -> int | None:
    """Reads ``twenty-one``, ``two hundred and five``, ``third``; None for everything else."""
    words = text.casefold().replace("-", " ").split()
    if not words or len(words) > 5:
        return None
    words[-1] = _cardinal(words[-1])
    hundreds = 0
    if len(words) > 1 and words[1] == "hundred" and 1 <= _SMALL.get(words[0], 0) <= 9:
        hundreds = 100 * _SMALL[words[0]]
        words = words[2:]
        words = words[1:] if words[:1] == ["and"] and len(words) > 1 else words
        if not words:
            return hundreds
    if len(words) == 1:
        value = _SMALL.get(words[0], _LARGE.get(words[0]))
        return None if value is None else hundreds + value
    if len(words) == 2 and words[0] in _LARGE and 1 <= _SMALL.get(words[1], 0) <= 9:
        return hundreds + _LARGE[words[0]] + _SMALL[words[1]]
    return None
