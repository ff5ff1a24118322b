r"""Units of measurement and other words behind an answer.

- :func:`split_unit`: the answer and its unit, in one spelling.
- :func:`is_measure`: whether a unit measures something other than an angle, a share or money.
- :func:`compatible`: whether two units can stand for the same.
"""

from __future__ import annotations

import re

__all__ = ["compatible", "is_measure", "split_unit"]

_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mbox)"
_POWER = r"(\^\s*\{?\d\}?)?"
_UNIT = re.compile(
    rf"(.*?){_TEXT}\s*\{{\s*"
    rf"([mghsLJNWVK]|[A-Za-z.]{{1,2}}/[A-Za-z][A-Za-z /]*|[A-Za-z.]{{2}}[A-Za-z .,/-]*)\s*\}}\s*{_POWER}\s*",
    re.DOTALL,
)
_QUOTIENT = re.compile(
    rf"(.*?)\\frac\s*\{{\s*{_TEXT}\s*\{{([A-Za-z ]+)\}}\s*\}}\s*\{{\s*{_TEXT}\s*\{{([A-Za-z ]+)\}}\s*{_POWER}\s*\}}\s*",
    re.DOTALL,
)
# Without \text: a word, or an abbreviation that is no product of variables.
_SHORT = r"(?:cm|mm|km|kg|ft|in|mi|lb|oz|mL|ml|hr|km/h|m/s|ft/s|cm/s|km/hr|mi/h)"
_BARE_UNIT = re.compile(rf"(.*[\d}}])\s+((?:sq\.? )?[A-Za-z]{{3,}}[A-Za-z /.]*|{_SHORT}){_POWER}", re.DOTALL)
_TOUCHING_UNIT = re.compile(rf"(.*\d)({_SHORT}){_POWER}")

_SPELLINGS = {
    **dict.fromkeys(("centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("kilometer", "kilometre"), "km"),
    **dict.fromkeys(("meter", "metre"), "m"),
    **dict.fromkeys(("foot", "feet"), "ft"),
    **dict.fromkeys(("inch", "inche"), "in"),
    **dict.fromkeys(("hour", "hr"), "h"),
    **dict.fromkeys(("minute", "min"), "min"),
    **dict.fromkeys(("second", "sec"), "s"),
    **dict.fromkeys(("gram", "gm"), "g"),
    **dict.fromkeys(("kilogram", "kilo"), "kg"),
    **dict.fromkeys(("liter", "litre"), "l"),
    **dict.fromkeys(("pound", "lb"), "lb"),
    **dict.fromkeys(("ounce", "oz"), "oz"),
    **dict.fromkeys(("mile", "mi"), "mi"),
    **dict.fromkeys(("yard", "yd"), "yd"),
    **dict.fromkeys(("degree", "deg"), "degree"),
    **dict.fromkeys(("dollar", "usd", "buck"), "dollar"),
    **dict.fromkeys(("milliliter", "millilitre"), "ml"),
    "mph": "mi/h",
    "kph": "km/h",
}
_MEASURES = {*_SPELLINGS.values()} - {"degree", "dollar"}
_TOKEN = re.compile(r"[a-z]+|/|\^\s*\{?\d")


def _spelling(word: str) -> str:
    if word not in _SPELLINGS and len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return _SPELLINGS.get(word, word)


def _unify(unit: str) -> str:
    """``square centimeters`` and ``cm^2`` as ``cm^2``, ``miles per hour`` as ``mi/h``."""
    words: list[str] = []
    power = ""
    for token in _TOKEN.findall(unit.casefold().replace(".", "")):
        if token[0] == "^":
            words.append("^" + token[-1])
        elif token in ("square", "sq", "cubic", "cu"):
            power = "^2" if token.startswith("sq") else "^3"
        elif token in ("squared", "cubed"):
            words.append("^2" if token == "squared" else "^3")
        elif token in ("per", "/"):
            words.append("/")
        else:
            words.append(_spelling(token) + power)
            power = ""
    return " ".join(words + ([power] if power else [])).replace(" / ", "/").replace(" ^", "^")


def split_unit(text: str) -> tuple[str, str]:
    """The answer and the unit behind it, which is empty if there is none (or if there is nothing but words)."""
    if match := _QUOTIENT.fullmatch(text):
        value, above, below, power = match.groups("")
        unit = f"{above}/{below}{power}"
    elif match := _UNIT.fullmatch(text) or _BARE_UNIT.fullmatch(text) or _TOUCHING_UNIT.fullmatch(text):
        value, unit, power = match.groups("")
        unit += power
    else:
        return text, ""
    return (value.strip(), _unify(unit)) if value.strip() else (text, "")


def is_measure(unit: str) -> bool:
    """Whether a unit, as :func:`split_unit` spells it, is one of length, time, speed, mass or volume."""
    return unit.partition("^")[0] in _MEASURES or unit.partition("/")[0] in _MEASURES


def compatible(unit: str, other: str) -> bool:
    """Whether two units, as :func:`split_unit` spells them, may stand for the same; so may one and none."""
    if not unit or not other or unit == other:
        return True
    if "unit" in (unit.partition("^")[0], other.partition("^")[0]):
        return unit.partition("^")[2] == other.partition("^")[2]
    words, others = unit.split(), other.split()  # right triangles are triangles
    return words[-1] == others[-1] and (set(words) < set(others) or set(others) < set(words))
