"""Configurations as YAML or JSON files.

- :func:`load_config`: reads a file into an :class:`~espo_algo.config.ESPOConfig` and :class:`RunOptions`.
- :func:`read_file`, :func:`build_config`: the two halves of that; the first checks names and values, without torch.
- :func:`parse_file`: what stands in a file, unchecked.
- :class:`RunOptions`: the section ``run``: how long to train, and what to keep.

A file has a section for each method of the configuration, with its keyword arguments::

    environment: {env: espo_env/Arithmetic-v0, env_config: {max_terms: 2}}
    language_model: {model: path/to/model}
    generation: {max_new_tokens: 64}
    run: {iterations: 100}
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from espo_algo.model_folder import check_model_folder
from espo_algo.schema import check_sections

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["RunOptions", "build_config", "load_config", "parse_file", "read_file"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How long to train, and what to keep.

    Attributes:
        iterations: Training iterations, counted from the very first one, >= 1.
        output: Folder of the log, the checkpoints and the exported model.
        checkpoint_every: Iterations between two checkpoints, >= 1; there is one at the end in any case.
        keep_checkpoints: How many are kept, the newest ones, >= 1.
        responses: Training responses of an iteration that are kept for the report, >= 0; of 16 iterations at most.
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
        check_sections({"run": asdict(self)})


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


def read_file(path: str | Path) -> dict[str, dict[str, Any]]:
    """Reads a file, and checks names, values and the model's folder; what they get wrong together is said later.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or if a section, key or value is wrong; the message begins with the path.
    """
    content = parse_file(path)
    try:
        check_sections(content)
        check_model_folder(content.get("language_model", {}).get("model"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dict(content)


def parse_file(path: str | Path) -> Any:
    """Reads a file, whatever stands in it.

    Numbers and truth values are YAML 1.2's: ``1e-6`` is a number, ``off`` is a text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read; the message begins with the path.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a configuration file, got {str(path)!r}")
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_without_repeats)
        if path.suffix in (".yaml", ".yml"):
            return yaml.load(text, _Loader)  # a subclass of SafeLoader
        raise ValueError(f"expected a file that ends in .yaml, .yml or .json, got {path.suffix!r}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text file in UTF-8, got byte {error.start} of another kind") from error
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def build_config(content: Mapping[str, Mapping[str, Any]]) -> tuple[ESPOConfig, RunOptions]:
    """Calls the configuration's methods with the sections' keyword arguments.

    ``early_stopping.planned_iterations`` is ``run.iterations`` where it is not given.

    Raises:
        ValueError: If a section, key or value is wrong.
    """
    from espo_algo.config import ESPOConfig  # brings torch and ray, which a typo in a file need not wait for

    # RLlib's import sets its logger to WARNING, and every check of a configuration warns of its new API stack.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)

    check_sections(content)
    sections = dict(content)
    if "tune" in sections:
        raise ValueError("expected the configuration of one run, got section 'tune', which is for espo tune")
    run = RunOptions(**sections.pop("run", {}))
    config = ESPOConfig()
    config.early_stopping(planned_iterations=run.iterations)
    for name, arguments in sections.items():
        getattr(config, name)(**arguments)
    return config, run


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
