"""The fields and quirks of the usual mathematical data sets.

- :class:`Preset`: where a data set keeps its problems and answers, and how they are graded.
- :data:`PRESETS`, :func:`get_preset`: GSM8K, MATH, MATH-500, AIME 2024, AMC 2023, DAPO-Math-17k.
- :class:`Record`: one row, read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from espo_env.grading import Kind, extract_answer
from espo_env.grading.numeric import parse_number

__all__ = ["PRESETS", "Preset", "Record", "get_preset"]


class Record(NamedTuple):
    """One row of a data set.

    Attributes:
        problem: The problem's text alone, without instructions.
        answer: The reference answer; None if the row has none.
        solution: The reference solution, empty if the row has none.
        level: Difficulty or subject level as the data set names it; None if it names none.
    """

    problem: str
    answer: str | None
    solution: str
    level: str | None


@dataclass(frozen=True, slots=True)
class Preset:
    r"""How to read the rows of a data set. A field is a key, or keys into nested objects joined by dots.

    Attributes:
        problem: Fields that may hold the problem, the first that is there counts: a text, or a chat's messages, of
            which the only user message is taken.
        answer: Fields that may hold the answer: a text or a number. Of a text with ``####``, what follows it; a
            solution with a ``\boxed{}`` gives what is in the box.
        solution: Fields that may hold the solution; may be missing.
        level: Fields that may hold the level; may be missing.
        kind: How answers are compared.
        template: Name of the prompt template that is used if none is asked for.
        train: Hub name of the training split, if there is one.
        eval: Hub name of the split to measure on, if there is one.
    """

    problem: tuple[str, ...] = ("problem", "question", "prompt")
    answer: tuple[str, ...] = ("answer", "label", "ground_truth")
    solution: tuple[str, ...] = ("solution",)
    level: tuple[str, ...] = ("level", "difficulty")
    kind: Kind = "symbolic"
    template: str = "boxed"
    train: str | None = None
    eval: str | None = None

    def read(self, row: Mapping[str, Any]) -> Record:
        """Reads a row.

        Raises:
            ValueError: If a field is missing or holds something else than it should.
        """
        problem = _without_frame(_message(_first(row, self.problem)))
        answer = _answer(_first(row, self.answer), self.kind)
        solution = _first(row, self.solution, "")
        level = _first(row, self.level, None)
        if not isinstance(solution, str):
            raise ValueError(f"expected a text as the solution, got {solution!r}")
        if solution and "####" in solution:
            solution = _CALCULATOR.sub("", solution)
        if isinstance(level, float) and level.is_integer():
            level = int(level)
        return Record(problem, answer, solution, None if level is None else str(level))


PRESETS: dict[str, Preset] = {
    "default": Preset(),
    "gsm8k": Preset(
        problem=("question",),
        answer=("answer",),
        solution=("answer",),
        kind="numeric",
        train="openai/gsm8k:main@train",
        eval="openai/gsm8k:main@test",
    ),
    "math": Preset(
        problem=("problem",),
        answer=("answer", "solution"),
        train="DigitalLearningGmbH/MATH-lighteval@train",
        eval="DigitalLearningGmbH/MATH-lighteval@test",
    ),
    "math-500": Preset(problem=("problem",), answer=("answer",), eval="HuggingFaceH4/MATH-500@test"),
    "aime-2024": Preset(problem=("problem",), answer=("answer",), kind="numeric", eval="HuggingFaceH4/aime_2024@train"),
    "amc-2023": Preset(problem=("problem", "question"), answer=("answer",), kind="numeric", eval="math-ai/amc23@test"),
    "dapo-math-17k": Preset(
        problem=("prompt",),
        answer=("reward_model.ground_truth", "label"),
        kind="numeric",
        template="dapo",
        train="BytedTsinghua-SIA/DAPO-Math-17k@train",
    ),
}
"""Name -> preset; ``"default"`` tries the usual fields."""

_MISSING = object()
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's notes for a calculator
_FRAME = re.compile(
    r"Solve the following math problem step by step\.[^\n]*\n\n(.*)\n\nRemember to put your answer on its own line.*",
    re.DOTALL,
)


def get_preset(preset: str | Preset | Mapping[str, Any]) -> Preset:
    """The preset of a name, or one made of its attributes (a single field may stand without a list).

    Raises:
        ValueError: If the name or an attribute is unknown.
    """
    if isinstance(preset, Preset):
        return preset
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"expected a preset out of {sorted(PRESETS)}, got {preset!r}")
        return PRESETS[preset]
    names = {field.name for field in fields(Preset)}
    if unknown := sorted(set(preset) - names):
        raise ValueError(f"expected attributes of a preset out of {sorted(names)}, got {unknown}")
    attributes: dict[str, Any] = dict(preset)
    for name in {"problem", "answer", "solution", "level"} & attributes.keys():
        value = attributes[name]
        attributes[name] = (value,) if isinstance(value, str) else tuple(value)
    return Preset(**attributes)


def _first(row: Mapping[str, Any], names: tuple[str, ...], default: Any = _MISSING) -> Any:
    """The first of the fields that is there, even if it is null."""
    for name in names:
        value: Any = row
        for key in name.split("."):
            value = value[key] if isinstance(value, Mapping) and key in value else _MISSING
        if value is not _MISSING:
            return value
    if default is _MISSING:
        raise ValueError(f"expected a field {' or '.join(map(repr, names))}, got {sorted(row)}")
    return default


def _message(problem: Any) -> str:
    """The text of the problem, or of the only user message of a chat."""
    if isinstance(problem, str) and problem.strip():
        return problem
    if isinstance(problem, list):
        texts = [m["content"] for m in problem if isinstance(m, Mapping) and m.get("role") == "user" and "content" in m]
        if len(texts) == 1 and isinstance(texts[0], str):
            return texts[0]
        raise ValueError(f"expected messages with one user message, got {len(texts)} of them in {problem!r:.200}")
    raise ValueError(f"expected a text or messages as the problem, got {problem!r:.200}")


def _without_frame(text: str) -> str:
    """DAPO's rows hold the instructions around the problem; the template "dapo" puts them back."""
    match = _FRAME.fullmatch(text.strip())
    return match.group(1) if match else text


def _answer(value: Any, kind: Kind) -> str | None:
    if isinstance(value, float) and value.is_integer():  # AMC 2023 has 27.0
        value = int(value)
    if value is None or not str(value).strip():
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected a text or a number as the answer, got {value!r:.200}")
    text = str(value).strip()
    if "####" in text or "\\boxed" in text or "\\fbox" in text:
        text = extract_answer(text) or ""
    if kind == "numeric":
        if parse_number(text) is None:
            raise ValueError(f"expected a number as the answer, got {text!r:.200}")
        if text.isdigit():
            text = str(int(text))  # AIME 2024 has "025"
    return text or None
