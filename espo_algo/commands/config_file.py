"""Configurations as YAML or JSON files.

- :func:`load_config`: reads a file into an :class:`~espo_algo.config.ESPOConfig` and :class:`RunOptions`.
- :func:`read_file`, :func:`build_config`: the two halves of that: file to sections, sections to configuration.
- :class:`RunOptions`: the section ``run``: how long to train, and what to keep.
- :data:`SECTIONS`, :func:`section_keys`: what may stand in a file.

A file has a section for each method of the configuration, with its keyword arguments::

    environment: {env: espo_env/Arithmetic-v0, env_config: {max_terms: 2}}
    language_model: {model: path/to/model}
    generation: {max_new_tokens: 64}
    run: {iterations: 100}
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from espo_algo.config import ESPOConfig

__all__ = ["SECTIONS", "RunOptions", "build_config", "load_config", "read_file", "section_keys"]

SECTIONS = (
    "environment",
    "env_runners",
    "language_model",
    "generation",
    "early_stopping",
    "training",
    "learners",
    "evaluation",
    "fault_tolerance",
    "resources",
    "reporting",
    "checkpointing",
    "debugging",
)
"""Methods of the configuration that a file can call."""


_DEPRECATED = -1
"""RLlib's mark for arguments that only raise an error any more."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How long to train, and what to keep.

    Attributes:
        iterations: Training iterations, counted from the very first one, >= 1.
        output: Folder of the log, the checkpoints and the exported model.
        checkpoint_every: Iterations between two checkpoints, >= 1; there is one at the end in any case.
        keep_checkpoints: How many are kept, the newest ones, >= 1.
        responses: Training responses of the newest checkpoint's batch that are kept for the report, >= 0.
        export: Whether to write the trained model as ordinary Hugging Face folders.

    Raises:
        ValueError: If a number is out of its range.
    """

    iterations: int = 100
    output: str = "runs/espo"
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    responses: int = 24
    export: bool = True

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if type(value := getattr(self, name)) is not kind:
                raise ValueError(f"expected run.{name} of type {kind.__name__}, got {value!r}")
        for name, low in (("iterations", 1), ("checkpoint_every", 1), ("keep_checkpoints", 1), ("responses", 0)):
            if (value := getattr(self, name)) < low:
                raise ValueError(f"expected run.{name} >= {low}, got {value}")


def load_config(path: str | Path) -> tuple[ESPOConfig, RunOptions]:
    """Reads a ``.yaml``, ``.yml`` or ``.json`` file; relative paths in it are those of the working directory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: See :func:`read_file` and :func:`build_config`; the message begins with the path.
    """
    content = read_file(path)
    try:
        return build_config(content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_file(path: str | Path) -> Any:
    """What is in a configuration file, unchecked.

    Numbers and truth values are YAML 1.2's: ``1e-6`` is a number, ``off`` is a text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not UTF-8, YAML or JSON; the message begins with the path.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a configuration file, got {str(path)!r}")
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            content: Any = json.loads(text, object_pairs_hook=_without_repeats)
        elif path.suffix in (".yaml", ".yml"):
            content = yaml.load(text, _Loader)  # a subclass of SafeLoader
        else:
            raise ValueError(f"expected a file that ends in .yaml, .yml or .json, got {path.suffix!r}")
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error
    return content


def build_config(content: Mapping[str, Any]) -> tuple[ESPOConfig, RunOptions]:
    """Calls the configuration's methods with the sections' keyword arguments.

    ``early_stopping.planned_iterations`` is ``run.iterations`` where it is not given.

    Raises:
        ValueError: If a section or key is unknown, with the nearest right name, or a value is out of its range. What
            the configuration as a whole gets wrong, ``ESPOConfig.validate`` says later.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected sections {[*SECTIONS, 'run']}, got {content!r:.80}")
    _check_names(content, [*SECTIONS, "run"], "section")
    sections = {name: _section(name, content[name]) for name in content}
    run = RunOptions(**sections.pop("run", {}))
    config = ESPOConfig()
    config.early_stopping(planned_iterations=run.iterations)
    for name, arguments in sections.items():
        try:
            getattr(config, name)(**arguments)
        except (ValueError, TypeError) as error:
            raise ValueError(f"section {name}: {error}") from error
    return config, run


def section_keys(section: str) -> list[str]:
    """Keys that a section may have: the method's keyword arguments, and those of the classes it passes the rest to."""
    if section == "run":
        return [field.name for field in fields(RunOptions)]
    keys: list[str] = []
    for owner in ESPOConfig.__mro__:
        if section not in vars(owner):
            continue
        parameters = inspect.signature(vars(owner)[section]).parameters
        keys += [
            name
            for name, parameter in parameters.items()
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD and parameter.default is not _DEPRECATED
        ]
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return list(dict.fromkeys(keys))


def _section(name: str, arguments: Any) -> dict[str, Any]:
    if not isinstance(arguments, Mapping):
        raise ValueError(f"expected keys and values in section {name}, got {arguments!r:.80}")
    _check_names(arguments, section_keys(name), f"key of section {name}")
    if name == "evaluation":
        overrides = arguments.get("evaluation_config") or {}
        _check_names(overrides, vars(ESPOConfig()), "key of evaluation.evaluation_config")
    return dict(arguments)


def _check_names(given: Iterable[Any], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in given:
        if name in known:
            continue
        nearest = difflib.get_close_matches(str(name), known, n=1)
        elsewhere = [section for section in (*SECTIONS, "run") if name in section_keys(section)]
        hint = ""
        if nearest:
            hint = f"; did you mean {nearest[0]!r}?"
        elif elsewhere:
            hint = f"; it belongs to section {' or '.join(elsewhere)}"
        raise ValueError(f"unknown {what}: {name!r}{hint}")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = sorted({str(key) for key, _ in pairs if sum(key == other for other, _ in pairs) > 1})
    if repeated:
        raise ValueError(f"expected each name once, got {repeated} several times")
    return dict(pairs)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and truth values, and no name twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's form)
        first: [
            (tag, regexp)
            for tag, regexp in resolvers
            if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        return _without_repeats(
            [(self.construct_object(k, True), self.construct_object(v, True)) for k, v in node.value]
        )


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)
