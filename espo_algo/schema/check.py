"""Checks names and values of a configuration's sections.

- :func:`check_sections`: raises an error with a line for each mistake.
- :func:`section_keys`: the keys that a section may have; :func:`expected_value`: what one takes, in words.
- :data:`FIELDS`: fields of ``ESPOConfig`` that are called otherwise than their keyword.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from espo_algo.schema.sections import COMMAND_LINE, SECTIONS
from espo_algo.schema.unread import UNREAD

__all__ = ["FIELDS", "WITHOUT_FIELD", "check_sections", "expected_value", "section_keys"]

FIELDS = {
    ("language_model", "model"): "model_name",
    ("training", "learner_class"): "_learner_class",
    ("training", "learner_connector"): "_learner_connector",
    ("learners", "learner_class"): "_learner_class",
    ("learners", "learner_connector"): "_learner_connector",
    ("env_runners", "env_to_module_connector"): "_env_to_module_connector",
    ("env_runners", "module_to_env_connector"): "_module_to_env_connector",
    ("environment", "is_atari"): "_is_atari",
    ("evaluation", "dataset_num_iters_per_offline_eval_runner"): "dataset_num_iters_per_eval_runner",
    ("reporting", "custom_stats_cls_lookup"): "stats_cls_lookup",
}
"""(section, keyword) -> field of ``ESPOConfig``, where keyword and field have different names."""

WITHOUT_FIELD = {("early_stopping", "preset"), ("evaluation", "evaluation_config")}
"""(section, keyword) that only sets other fields, or those of another configuration."""

_KINDS = {name: get_type_hints(section, include_extras=True) for name, section in SECTIONS.items()}
_VALIDATORS = {name: TypeAdapter(section) for name, section in SECTIONS.items()}
_PLACES = {FIELDS.get((n, key), key): (n, key) for n, kinds in _KINDS.items() if n not in COMMAND_LINE for key in kinds}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "none"}


def section_keys(section: str) -> list[str]:
    """Keys that a section may have."""
    return list(_KINDS[section])


def expected_value(section: str, key: str) -> str:
    """What a key takes, in words."""
    return _expected(_KINDS[section][key])


def check_sections(content: Any, place: str = "{}.{}") -> None:
    """Checks names and values of sections.

    Args:
        content: Section -> keyword -> value.
        place: How messages name a keyword, from its section and itself.

    Raises:
        ValueError: With a line for each mistake: the key, what was expected, what came; for an unknown key the nearest
            right one.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected sections {list(SECTIONS)}, got {_shown(content)}")
    wrong: list[str] = []
    for name, arguments in content.items():
        if name not in SECTIONS:
            wrong.append(f"unknown section: {name!r}{_nearest(name, SECTIONS)}")
        elif not isinstance(arguments, Mapping):
            wrong.append(f"section {name}: expected keys and values, got {_shown(arguments)}")
        else:
            wrong += _mistakes(name, arguments, place)
            if isinstance(overrides := arguments.get("evaluation_config"), Mapping):
                wrong += _wrong_overrides(overrides)
    if wrong:
        raise ValueError("\n".join(wrong))


def _mistakes(section: str, arguments: Mapping[str, Any], place: str) -> list[str]:
    wrong = [_unknown(section, key, place) for key in arguments if key not in _KINDS[section]]
    try:
        _VALIDATORS[section].validate_python(dict(arguments))
    except ValidationError as error:
        for key in dict.fromkeys(str(detail["loc"][0]) for detail in error.errors()):
            expected, got = _expected(_KINDS[section][key]), arguments[key]
            wrong.append(f"{place.format(section, key)}: expected {expected}, got {_shown(got)}{_mend(expected, got)}")
    return wrong


def _wrong_overrides(overrides: Mapping[str, Any]) -> list[str]:
    """Mistakes in ``evaluation_config``, which may have fields of every section."""
    wrong = []
    for name, value in overrides.items():
        if name in _PLACES:
            section, key = _PLACES[name]
            wrong += _mistakes(section, {key: value}, "evaluation.evaluation_config: {}.{}")
        else:
            wrong.append(f"unknown key of evaluation.evaluation_config: {name!r}{_nearest(name, _PLACES)}")
    return wrong


def _unknown(section: str, key: Any, place: str) -> str:
    if (instead := UNREAD.get(section, {}).get(key)) is not None:
        hint = f"; {instead}" if instead else ""
        return f"{place.format(section, key)}: expected to be left out, because nothing here reads it{hint}"
    elsewhere = [name for name in SECTIONS if key in _KINDS[name]]
    hint = f"; it belongs to section {' or '.join(elsewhere)}" if elsewhere else _nearest(key, _KINDS[section])
    return f"unknown key of section {section}: {key!r}{hint}"


def _nearest(name: Any, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _expected(kind: Any) -> str:
    """What a type takes, in words."""
    limits = []
    if get_origin(kind) is Annotated:
        kind, *beside = get_args(kind)
        if words := [part for part in beside if isinstance(part, str)]:
            return words[-1]
        limits = [part for part in beside if isinstance(part, Ge | Gt | Le | Lt)]
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_expected, get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return " ".join([_WORDS[kind], *([_range(limits)] if limits else [])])


def _range(limits: list[Any]) -> str:
    """``>= 1`` or ``in (0, 1]``."""
    signs = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}
    if len(limits) == 1:
        (limit,) = limits
        return f"{signs[type(limit)]} {astuple(limit)[0]}"
    low, high = sorted(limits, key=lambda limit: isinstance(limit, Le | Lt))
    left, right = "[" if isinstance(low, Ge) else "(", "]" if isinstance(high, Le) else ")"
    return f"in {left}{astuple(low)[0]}, {astuple(high)[0]}{right}"


def _shown(value: Any) -> str:
    """A value in a message: on one line, and not too long."""
    return f"{' '.join(repr(value).split()):.80}"


def _mend(expected: str, got: Any) -> str:
    """What to do about a number in quotes."""
    if not isinstance(got, str) or "number" not in expected:
        return ""
    try:
        float(got)
    except ValueError:
        return ""
    return "; without quotes it is a number"
