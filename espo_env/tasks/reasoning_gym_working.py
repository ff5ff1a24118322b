"""The working of reasoning-gym problems, written out from their metadata.

- :data:`WORKINGS`: generator -> how its working is written.
- :class:`Working`: a compact prompt and a reference response.

Each function takes an entry of the generator, ``{"question", "answer", "metadata"}``, and gives ``(compact prompt,
working)``; the final answer is put behind the working by the task.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any

from espo_env.tasks.arithmetic import chain_working

__all__ = ["WORKINGS", "Working"]

_DIGITS = string.digits


@dataclass(frozen=True, slots=True)
class Working:
    """How one generator's working is written.

    Attributes:
        write: Entry -> ``(compact prompt, working)``.
        symbols: Characters of its compact prompts and workings, None where it has no compact prompt.
    """

    write: Callable[[dict[str, Any]], tuple[str, str]]
    symbols: str | None


def _chain(entry: dict[str, Any]) -> tuple[str, str]:
    parts = entry["metadata"]["expression"].split()
    number = Decimal if "." in entry["metadata"]["expression"] else int
    _, solution = chain_working([number(part) for part in parts[::2]], parts[1::2])
    return "".join(parts) + "=", solution.partition("####")[0]


def _products(entry: dict[str, Any]) -> tuple[str, str]:
    numbers = [int(part) for part in entry["metadata"]["expression"].split("*")]
    lines: list[str] = []
    total = numbers[0]
    for number in numbers[1:]:
        # One partial product for each digit that is not 0.
        sign = -1 if number < 0 else 1
        digits = [sign * int(d) * 10**place for place, d in enumerate(reversed(str(abs(number)))) if d != "0"] or [0]
        partial = [total * digit for digit in reversed(digits)]
        lines += [f"{total}*{digit}={value}" for digit, value in zip(reversed(digits), partial, strict=True)]
        total, additions = _sum(partial)
        lines += additions
    return "*".join(map(str, numbers)) + "=", _join(lines)


def _gcd(entry: dict[str, Any]) -> tuple[str, str]:
    numbers = entry["metadata"]["numbers"]
    lines: list[str] = []
    reduce(lambda a, b: _euclid(a, b, lines), numbers)
    return f"gcd({','.join(map(str, numbers))})=", _join(lines)


def _lcm(entry: dict[str, Any]) -> tuple[str, str]:
    numbers = entry["metadata"]["numbers"]
    lines: list[str] = []
    total = numbers[0]
    for number in numbers[1:]:
        divisor = _euclid(total, number, lines)
        quotient = total // divisor
        lines += [f"{total}/{divisor}={quotient}", f"{quotient}*{number}={quotient * number}"]
        total = quotient * number
    return f"lcm({','.join(map(str, numbers))})=", _join(lines)


def _legs(entry: dict[str, Any]) -> tuple[str, str]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    animals: dict[str, int] = entry["metadata"]["animals"]
    products = [count * ANIMALS[animal] for animal, count in animals.items()]
    lines = [f"{count}*{ANIMALS[animal]}={count * ANIMALS[animal]}" for animal, count in animals.items()]
    prompt = ",".join(f"{count} {animal}" for animal, count in animals.items())
    return f"{prompt}=", _join(lines + _sum(products)[1])


def _letters(entry: dict[str, Any]) -> tuple[str, str]:
    letter, words = entry["metadata"]["target_letter"], entry["metadata"]["span"]
    lines = [f"{word}:{word.lower().count(letter)}" for word in words]
    return f"{letter} in {' '.join(words)}=", _join(lines)


def _gsm_symbolic(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["question"], entry["metadata"]["answer_cot"].rpartition("####")[0]


def _euclid(a: int, b: int, lines: list[str]) -> int:
    """Greatest common divisor; appends its divisions with remainder to ``lines``."""
    a, b = max(a, b), min(a, b)
    while b:
        lines.append(f"{a}%{b}={a % b}")
        a, b = b, a % b
    return a


def _sum(numbers: list[int]) -> tuple[int, list[str]]:
    total, lines = numbers[0], []
    for number in numbers[1:]:
        lines.append(f"{total}+{number}={total + number}")
        total += number
    return total, lines


def _join(lines: Iterable[str]) -> str:
    return "".join(f"{line};" for line in lines)


WORKINGS: dict[str, Working] = {
    "chain_sum": Working(_chain, _DIGITS + "+-=;# "),
    "decimal_chain_sum": Working(_chain, _DIGITS + ".+-=;# "),
    "gcd": Working(_gcd, _DIGITS + "gcd(,)%=;# "),
    "gsm_symbolic": Working(_gsm_symbolic, None),
    "lcm": Working(_lcm, _DIGITS + "lcm(,)%/*=;# "),
    "leg_counting": Working(_legs, _DIGITS + string.ascii_lowercase + ",*+=;# "),
    "letter_counting": Working(_letters, _DIGITS + string.ascii_letters + "_:=;# "),
    "products": Working(_products, _DIGITS + "*+-=;# "),
}
"""Generators whose working is written out; the others' solution is the answer alone."""
