"""A configuration with ranges: what ``espo tune`` reads.

- :func:`load_search`: reads a file into a :class:`Search`.
- :class:`Search`: the configuration, its ranges, and how they are searched.
- :class:`SearchOptions`: the section ``tune``.

Ranges stand in the place of values, see :mod:`espo_algo.tuning.ranges`::

    training: {lr: {loguniform: [1e-5, 1e-3]}}
    early_stopping: {target_stop_rate: {uniform: [0.05, 0.3]}}
    evaluation: {evaluation_interval: 10, evaluation_duration: 500}
    run: {iterations: 60, output: runs/search}
    tune: {samples: 16, grace: 10}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espo_algo.commands.config_file import RunOptions, build_config, parse_file
from espo_algo.schema import check_sections
from espo_algo.tuning.metrics import EVALUATION, NAMES
from espo_algo.tuning.ranges import Range, find_ranges, with_values

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["Search", "SearchOptions", "load_search"]

_FIXED = ("run", "tune")


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How ranges are searched.

    Attributes:
        metric: What is searched for, one of :data:`~espo_algo.tuning.metrics.NAMES`. ``"accuracy"`` is training's, in
            which a stopped response counts as wrong: stopping less looks better than it is.
        mode: ``"max"`` or ``"min"``.
        samples: Trials; with ``grid_search`` ranges, times all their combinations.
        searcher: ``"random"``, or ``"optuna"`` (TPE, needs the extra ``tune``), which learns from the trials before.
        scheduler: ``"asha"``, which ends trials that fall behind (arXiv 1810.05934), or ``"none"``.
        grace: Iterations before ASHA may end a trial.
        reduction_factor: ASHA lets one of so many trials go on, at ``grace`` iterations and each time their number has
            grown by this factor.
        seed: Of the searcher; training's is ``debugging.seed``.
    """

    metric: str = "eval_accuracy"
    mode: str = "max"
    samples: int = 10
    searcher: str = "random"
    scheduler: str = "asha"
    grace: int = 10
    reduction_factor: float = 3
    seed: int = 0


@dataclass(frozen=True)
class Search:
    """A search.

    Attributes:
        file: The file that it was read from.
        content: Its sections with ranges in the place of values, without ``tune``.
        ranges: The ranges.
        options: How they are searched.
    """

    file: Path
    content: Mapping[str, Any]
    ranges: tuple[Range, ...]
    options: SearchOptions

    def run(self) -> RunOptions:
        """The section ``run``; its ``output`` is the search's folder."""
        return RunOptions(**self.content.get("run", {}))

    def settings(self) -> dict[str, Any]:
        """All of it as the sections of a file, options in ``tune``."""
        return {**self.content, "tune": asdict(self.options)}

    def config(self, values: Mapping[str, Any]) -> ESPOConfig:
        """The configuration with values in the place of the ranges.

        Args:
            values: Name of a range -> its value.
        """
        return build_config(with_values(self.content, values))[0]

    def filled(self, values: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """The sections of one trial.

        Args:
            values: Name of a range -> its value.
            output: The trial's folder.
        """
        filled = with_values(self.content, values)
        return filled | {"run": filled.get("run", {}) | {"output": str(output)}}

    def corners(self) -> list[dict[str, Any]]:
        """Values of all ranges: each range's extremes in turn, beside the first ones of the others."""
        first = {found.name: found.extremes[0] for found in self.ranges}
        others = [first | {found.name: value} for found in self.ranges for value in found.extremes[1:]]
        return [first, *others]

    def __str__(self) -> str:
        options, iterations = self.options, self.run().iterations
        asha = f"ASHA ends those that fall behind, from iteration {options.grace} on"
        ends = asha if options.scheduler == "asha" else "none is ended"
        combinations = math.prod(len(found.values) for found in self.ranges if found.kind == "grid_search")
        return "\n".join(
            [
                f"{options.samples * combinations} trials of {iterations} iterations, for the {options.mode}imum of "
                f"{options.metric}; searcher: {options.searcher}; {ends}",
                *map(str, self.ranges),
            ]
        )

    def check(self) -> ESPOConfig:
        """Builds and validates the configurations at the corners of the ranges.

        Returns:
            The first one.

        Raises:
            ValueError: Naming the values of the ranges with which a configuration is wrong, and how.
        """
        configs = []
        for values in self.corners():
            try:
                config = self.config(values)
                config.validate()
            except (ValueError, TypeError) as error:
                chosen = ", ".join(f"{name}={value!r}" for name, value in values.items())
                raise ValueError(f"{self.file}: with {chosen}: {error}") from error
            configs.append(config)
        return configs[0]


def load_search(path: str | Path, samples: int | None = None, output: str | Path | None = None) -> Search:
    """Reads a file, and checks names, values and the ends of ranges in it.

    Args:
        path: A YAML or JSON file.
        samples: Instead of ``tune.samples``.
        output: Instead of ``run.output``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a section, key, value or range is wrong, or no range is in it; the message begins with the path.
    """
    content = parse_file(path)
    try:
        search = _read(Path(path), content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if samples is not None:
        search = replace(search, options=replace(search.options, samples=samples))
    if output is not None:
        search = replace(
            search, content={**search.content, "run": {**search.content.get("run", {}), "output": str(output)}}
        )
    return search


def _read(path: Path, content: Any) -> Search:
    if not isinstance(content, Mapping):
        check_sections(content)  # raises
    for section in _FIXED:
        if found := find_ranges({section: content.get(section, {})}):
            raise ValueError(f"expected a value in section {section}, which all trials share, got {found[0]}")
    ranges = tuple(find_ranges(content))
    search = Search(
        path, {name: section for name, section in content.items() if name != "tune"}, ranges, SearchOptions()
    )
    for values in search.corners():
        check_sections(with_values(content, values))
    if not ranges:
        raise ValueError("expected a range in the place of a value, such as lr: {loguniform: [1e-5, 1e-3]}, got none")
    search = replace(search, options=SearchOptions(**content.get("tune", {})))
    _check_options(search)
    return search


def _check_options(search: Search) -> None:
    options, iterations = search.options, search.run().iterations
    grids = [found.name for found in search.ranges if found.kind == "grid_search"]
    if options.searcher != "random" and grids:
        raise ValueError(
            f"expected choice instead of grid_search for {', '.join(grids)}, or tune.searcher: random, got "
            f"{options.searcher!r}"
        )
    if options.scheduler == "asha" and options.grace > iterations:
        raise ValueError(f"expected tune.grace of at most run.iterations ({iterations}), got {options.grace}")
    if options.metric not in NAMES:
        raise ValueError(f"expected tune.metric out of {list(NAMES)}, got {options.metric!r}")
    interval = search.content.get("evaluation", {}).get("evaluation_interval")
    first = options.grace if options.scheduler == "asha" else iterations
    if options.metric in EVALUATION and not (isinstance(interval, int) and 1 <= interval <= first):
        raise ValueError(
            f"expected evaluation.evaluation_interval in [1, {first}], so that tune.metric {options.metric!r} is "
            f"measured before trials are compared, got {interval!r}; or tune.metric: accuracy, which is training's, "
            "and counts stopped responses as wrong"
        )
