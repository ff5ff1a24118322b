"""The working of reasoning-gym problems, written out from their metadata.

- :data:`WORKINGS`: generator -> how its working is written.
- :class:`Working`: a compact prompt and a reference response.

Each function takes an entry of the generator, ``{"question", "answer", "metadata"}``, and gives ``(compact prompt,
working)``; the final answer is put behind the working by the task.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any

from espo_env.tasks.arithmetic import chain_working

__all__ = ["WORKINGS", "Working"]

_DIGITS = string.digits
_LABELS = string.digits + string.ascii_letters


@dataclass(frozen=True, slots=True)
class Working:
    """How one generator's working is written.

    Attributes:
        write: Entry -> ``(compact prompt, working)``.
        symbols: Characters of its compact prompts and workings, None where it has no compact prompt.
        shorten: How prompts, workings and answers are written where prompts are compact.
        expand: Turns a compact final answer into what the generator's scorer takes.
        alternatives: Entry -> workings that are as right as the written one; None where there are no others.
    """

    write: Callable[[dict[str, Any]], tuple[str, str]]
    symbols: str | None
    shorten: Callable[[str], str] = str
    expand: Callable[[str], str] = str
    alternatives: Callable[[dict[str, Any]], Iterator[str]] | None = None


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


def _search(entry: dict[str, Any]) -> tuple[str, str]:
    """Goes from the center along one arm after the other, in the order of the edges, until one ends at the goal.

    Behind each arm stands the goal: whether the two are the same is then to be seen from what was written last.
    """
    graph, arms, found = _read_star(entry)
    center, goal = entry["metadata"]["center"], entry["metadata"]["goal"]
    return f"{graph}/{center} {goal}=", _join(arms[: arms.index(found) + 1])


def _search_orders(entry: dict[str, Any]) -> Iterator[str]:
    """The same search with the arms in every order."""
    _, arms, found = _read_star(entry)
    arms.remove(found)
    for number in range(len(arms) + 1):
        for searched in itertools.permutations(arms, number):
            yield _join([*searched, found])


def _read_star(entry: dict[str, Any]) -> tuple[str, list[str], str]:
    """The edges as they are given, the arms from the center to their ends with the goal, and the one that is right."""
    # The generator's line of edges: |1 2|1 3|2 4|3 5/1 5 =
    graph = entry["question"].strip().rpartition("\n")[2].partition("/")[0]
    edges = [edge.split() for edge in graph.split("|")[1:]]
    center, goal = (str(entry["metadata"][name]) for name in ("center", "goal"))
    after = dict(edges)
    arms = [edge for edge in edges if edge[0] == center]
    for arm in arms:
        while arm[-1] in after:
            arm.append(after[arm[-1]])
    (found,) = (arm for arm in arms if arm[-1] == goal)
    return graph, [f"{' '.join(arm)}:{goal}" for arm in arms], f"{' '.join(found)}:{goal}"


def _shorten_labels(text: str) -> str:
    """One character for each node: ``"|1 10/1 36="`` -> ``"|1a/1A="``."""
    return re.sub(r"(\d+) ?", lambda match: _label(int(match[1])), text)


def _label(node: int) -> str:
    if node >= len(_LABELS):
        raise ValueError(f"expected nodes below {len(_LABELS)} where prompts are compact (node_range), got {node}")
    return _LABELS[node]


def _expand_labels(path: str) -> str:
    return " ".join(str(_LABELS.index(label)) if label in _LABELS else label for label in path)


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
    "path_star": Working(_search, _LABELS + "|/=:;# ", _shorten_labels, _expand_labels, _search_orders),
    "products": Working(_products, _DIGITS + "*+-=;# "),
}
"""Generators whose working is written out; the others' solution is the answer alone."""
