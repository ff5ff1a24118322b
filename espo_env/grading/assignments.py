r"""Names in front of an answer.

- :func:`split_assignment`: ``x = 5`` as a value and a name.
- :func:`split_label`: also ``a+b = 5``, ``\angle ABC = 30`` and ``P(A) = \frac{1}{2}``.
- :func:`read_system`: ``x=2, y=3`` and ``(x,y)=(2,3)`` as values by name.
- :func:`in_order`: these values as the tuple that is usually given.
- :func:`systems_as_tuples`: ``x=1, y=2; x=2, y=1`` as ``(1,2), (2,1)``.
"""

from __future__ import annotations

import re

from espo_env.grading.normalise import split_list

__all__ = ["RELATION", "in_order", "read_system", "split_assignment", "split_label", "systems_as_tuples"]

RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|equiv|approx|sim|cong|in|to|mapsto|implies|iff|lt|gt)(?![a-zA-Z])")
"""Signs between two expressions."""

_VARIABLE = r"(?:[A-Za-z]{1,2}|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega))(?:_\w|_\{\w{1,4}\})?'?"
_ASSIGNMENT = re.compile(
    rf"({_VARIABLE}\s*(?:\(\s*[a-z]\s*\))?|\\mathbf\s*\{{[a-zA-Z]\}})\s*(?:=|\\in(?![a-zA-Z]))\s*(.+)", re.DOTALL
)
_TUPLE = re.compile(rf"\(?\s*({_VARIABLE}(?:\s*,\s*{_VARIABLE})+)\s*\)?\s*(?:=|\\in(?![a-zA-Z]))\s*(.+)", re.DOTALL)
_IN_LABEL = re.compile(
    r"_\w|_\{[^{}]*\}|[A-Za-z]\s*\(\s*-?\d+\s*\)|[a-z]\s*\^\s*\{-1\}\s*\(\s*[a-z]\s*\)|\\frac\{d[a-z]?\}\{d[a-z]\}"
)
_PROBABILITY = re.compile(r"P\s*\([^()]{1,40}\)\s*(?==)")
_NO_LABEL = re.compile(r"\d|\^|\\sqrt|\\pm|\\to|[\[\]&!?:]|^\s*[-+]")
_OPERATION = re.compile(r"[-+*/]|\\(?:frac|cdot|times)")
_LETTER = re.compile(r"[A-Za-z]")
_ALTERNATIVE = re.compile(
    r";|\\(?:text|textrm|mathrm|mbox)\s*\{[\s,]*or\s*\}|(?<=\s)or(?=\s)|\\(?:lor|vee)(?![a-zA-Z])"
)
_RUNS = ("abcde", "mn", "pqrst", "uvw", "xyz")
"""Names whose alphabetical order is the usual one."""


def split_assignment(text: str) -> tuple[str, str]:
    """``x = 5`` as ``("5", "x")``; no name if it is no assignment, or a chain of equations."""
    match = _ASSIGNMENT.fullmatch(text) or _TUPLE.fullmatch(text)
    if match is None or RELATION.search(match.group(2)):
        return text, ""
    return match.group(2).strip(), re.sub(r"\s", "", match.group(1))


def _is_label(text: str, operations: bool) -> bool:
    """Whether the text names a quantity: it has a letter, and no number, power or root that would have to be solved."""
    text = _IN_LABEL.sub("X", text)
    if len(text) > 60 or _LETTER.search(text) is None or _NO_LABEL.search(text):
        return False
    return operations or _OPERATION.search(text) is None


def split_label(text: str, operations: bool) -> tuple[str, str]:
    r"""The same for whatever names a quantity.

    Args:
        text: The answer, tidied.
        operations: Whether ``a+b`` is a name, as in ``a+b = 5``. In a reference that is an equation.
    """
    value, name = split_assignment(text)
    if name:
        return value, name
    left, sign, right = _PROBABILITY.sub("P", text, count=1).partition("=")
    left, right = left.strip(), right.strip()
    if not sign or not left or not right or RELATION.search(left) or RELATION.search(right):
        return text, ""
    if _is_label(left, operations):
        return right, re.sub(r"\s", "", left)
    if re.fullmatch(_VARIABLE, right) and not _LETTER.search(left):
        return left, right
    return text, ""


def read_system(text: str) -> dict[str, str] | None:
    """Values by name; None if there is only one, or a name comes twice (also as ``x_1`` and ``x_2``)."""
    if match := _TUPLE.fullmatch(text):
        names = [re.sub(r"\s", "", name) for name in match.group(1).split(",")]
        right = match.group(2).strip()
        if not (right.startswith("(") and right.endswith(")")):
            return None
        values = split_list(right[1:-1])
        if len(values) != len(names) or RELATION.search(right):
            return None
    else:
        pairs = [split_assignment(element) for element in split_list(text)]
        if len(pairs) < 2 or not all(name for _, name in pairs):
            return None
        values, names = [value for value, _ in pairs], [name for _, name in pairs]
    if len({name.partition("_")[0] for name in names}) < len(names):
        return None
    return dict(zip(names, values, strict=True))


def in_order(system: dict[str, str]) -> list[str]:
    """The values, by the alphabet where the names are neighbours in it (x, y, z), else as they are written."""
    if any(set(system) <= set(run) for run in _RUNS):
        return [system[name] for name in sorted(system)]
    return list(system.values())


def systems_as_tuples(text: str) -> str | None:
    """Alternatives that give the same names values, as tuples; None if the text is none of these."""
    parts = _ALTERNATIVE.split(text)
    if len(parts) < 2:
        return None
    systems = [system for part in parts if (system := read_system(part.strip())) is not None]
    if len(systems) < len(parts) or any(set(system) != set(systems[0]) for system in systems):
        return None
    return ", ".join(f"({','.join(in_order(system))})" for system in systems)
