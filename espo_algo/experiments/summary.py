"""What runs say together, over seeds: means, paired differences with their intervals, targets.

- :func:`summarise`: from the runs' files to numbers for tables.
- :class:`Summary`: one method on one family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from espo_algo.experiments.arms import ARMS, FAMILIES
from espo_algo.experiments.statistics import Interval, interval, paired_interval, saving, tokens_needed

__all__ = ["KINDS", "Summary", "summarise"]

KINDS = ("sampled", "cool", "greedy")
"""Accuracies: at temperature 1, at 0.6, and greedy."""


@dataclass(frozen=True)
class Summary:
    """One method on one family; intervals are over seeds, differences paired with the baseline of the same seed.

    Attributes:
        family: Name of the family.
        arm: Name of the arm.
        label: What was set on the command line.
        seeds: Seeds that it was run with.
        measured: Accuracies (:data:`KINDS`), ``tokens`` (rollout tokens in thousands), ``length`` (tokens of a training
            response), ``sampling_s``, ``update_s``, all after the planned iterations.
        stops: ``stop_rate`` in training; ``wrong_stops``, the share of marked responses that were right, after the
            planned iterations, and ``wrong_stops_course``, the same over the measurements of the whole training;
            ``saved``, ``sampling_saved``, ``update_saved``, shares of the baseline's tokens and seconds;
            ``time_ratio``, time saved over tokens saved. Empty where nothing is stopped.
        at_updates: Accuracies less the baseline's after as many updates.
        at_tokens: The same after as many rollout tokens.
        tokens_needed: Rollout tokens to the baseline's final accuracy, over those that the baseline needed, for
            ``sampled`` and ``greedy``; missing where a seed never reached it.
    """

    family: str
    arm: str
    label: str
    seeds: list[int]
    measured: dict[str, Interval]
    stops: dict[str, Interval] = field(default_factory=dict)
    at_updates: dict[str, Interval] = field(default_factory=dict)
    at_tokens: dict[str, Interval] = field(default_factory=dict)
    tokens_needed: dict[str, Interval] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """As tables say."""
        known = ARMS[self.arm].label if self.arm in ARMS else self.arm
        return f"{known} ({self.label.replace(',', ', ')})" if self.label else known


def summarise(runs: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """Families and arms in the order of their mappings; a difference is taken over the seeds that have a baseline."""
    by_key = {_key(run["plan"]): run for run in runs}
    groups = dict.fromkeys((family, arm, label) for family, arm, label, _ in by_key)
    order = {name: place for place, name in enumerate([*FAMILIES, "start", *ARMS])}
    found = []
    for family, arm, label in sorted(groups, key=lambda key: (order[key[0]], key[2], order[key[1]])):
        own = {seed: run for (*key, seed), run in by_key.items() if key == [family, arm, label]}
        measured = {kind: interval([run["at_updates"][kind] for run in own.values()]) for kind in KINDS}
        if arm == "start":
            found.append(Summary(family, arm, label, sorted(own), measured))
            continue
        for name in ("tokens", "length", "sampling_s", "update_s"):
            measured[name] = interval([_total(run, name) for run in own.values()])
        baseline = ARMS[arm].baseline
        pairs = [
            (run, by_key[family, baseline, label, seed])
            for seed, run in own.items()
            if baseline != arm and (family, baseline, label, seed) in by_key
        ]
        if not pairs:
            found.append(Summary(family, arm, label, sorted(own), measured))
            continue
        found.append(
            Summary(
                family,
                arm,
                label,
                sorted(own),
                measured,
                _stops(pairs),
                at_updates=_differences(pairs, "at_updates"),
                at_tokens=_differences(pairs, "at_tokens"),
                tokens_needed={
                    kind: interval(ratios)  # type: ignore[arg-type]
                    for kind in ("sampled", "greedy")
                    if None not in (ratios := [_tokens_needed(run, base, kind) for run, base in pairs])
                },
            )
        )
    return found


def _key(plan: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return plan["family"], plan["arm"], plan["label"], plan["seed"]


def _planned(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return run["history"][: run["plan"]["schedule"]["iterations"]]


def _total(run: Mapping[str, Any], name: str) -> float:
    if name == "tokens":
        return run["at_updates"]["tokens"]
    if name == "length":
        return _mean([record["response_length"] for record in _planned(run)])
    return sum(record[name] for record in _planned(run))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _differences(pairs: Sequence[tuple[Any, Any]], when: str) -> dict[str, Interval]:
    """The baseline's tokens are the budget, so that it stands where it was after its last update both times."""
    return {
        kind: paired_interval([run[when][kind] for run, _ in pairs], [base["at_updates"][kind] for _, base in pairs])
        for kind in KINDS
    }


def _stops(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Interval]:
    if not any(point["marked"] for run, _ in pairs for point in run["course"]):
        return {}
    saved = [saving(_total(run, "tokens"), _total(base, "tokens")) for run, base in pairs]
    seconds = [[sum(_total(run, name) for name in ("sampling_s", "update_s")) for run in pair] for pair in pairs]
    found = {
        "stop_rate": [_mean([record["stop_rate"] for record in _planned(run)]) for run, _ in pairs],
        "wrong_stops": [run["at_updates"]["wrong_stops"] for run, _ in pairs],
        "wrong_stops_course": [_wrong_stops(run["course"]) for run, _ in pairs],
        "saved": saved,
        "sampling_saved": [saving(_total(run, "sampling_s"), _total(base, "sampling_s")) for run, base in pairs],
        "update_saved": [saving(_total(run, "update_s"), _total(base, "update_s")) for run, base in pairs],
    }
    intervals = {name: interval(v) for name, values in found.items() if (v := [x for x in values if x is not None])}
    time_saved = _mean([saving(spent, baseline) for spent, baseline in seconds])
    # A ratio of means: a seed that saves next to nothing would make a mean of ratios meaningless.
    intervals["time_ratio"] = interval([time_saved / _mean(saved)])
    return intervals


def _wrong_stops(course: Sequence[Mapping[str, Any]]) -> float | None:
    marked = [point for point in course if point["marked"]]
    wrong = sum(point["marked"] * point["wrong_stops"] for point in marked)
    return wrong / sum(point["marked"] for point in marked) if marked else None


def _tokens_needed(run: Mapping[str, Any], base: Mapping[str, Any], kind: str) -> float | None:
    own, baseline = ([(point["tokens"], point[kind]) for point in r["course"]] for r in (run, base))
    return tokens_needed(*zip(*own, strict=True), *zip(*baseline, strict=True))
