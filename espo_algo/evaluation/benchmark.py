"""Evaluation on data sets: responses as JSON Lines, scores with their intervals as one JSON.

- :class:`DataSet`: a name, and the environment that poses its problems.
- :func:`math_data_set`: one out of a file or from the hub, by a short name.
- :func:`run_benchmark`: answers the problems of several data sets, and goes on where an earlier run ended.
- :func:`summarise`: the scores of one data set, altogether and by level.
- :func:`format_scores`: results as a table.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from espo_algo.atomic import write_text
from espo_algo.config import ESPOConfig
from espo_algo.episodes import TokenEpisode
from espo_algo.evaluation.evaluate import Evaluation, evaluate_policy
from espo_algo.evaluation.report import format_table
from espo_algo.evaluation.response_log import ResponseLog
from espo_algo.evaluation.scores import majority_at_k, pass_at_k, score
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.metrics import rollout_metrics
from espo_algo.rollout.environment import make_vector_env
from espo_algo.schema import EvaluationStops
from espo_env.early_stopping import EarlyStoppingState
from espo_env.grading.normalise import key, tidy
from espo_env.grading.numeric import parse_number
from espo_env.tasks import MathTask
from espo_env.tasks.math_presets import PRESETS

__all__ = ["DataSet", "format_scores", "math_data_set", "run_benchmark", "summarise"]


@dataclass(frozen=True, slots=True)
class DataSet:
    """Problems to measure on.

    Attributes:
        name: Names its files and its entry in the results.
        env: What ``ESPOConfig.environment`` takes; its evaluation split is asked.
        env_config: The same.
    """

    name: str
    env: Any
    env_config: Mapping[str, Any] = field(default_factory=dict)


def math_data_set(spec: str, model: str | Path, template: str | None = None, max_prompt_tokens: int = 1024) -> DataSet:
    """A mathematical data set by a short name.

    Args:
        spec: ``FILE``, ``PRESET=FILE``, or ``PRESET`` (:data:`~espo_env.tasks.math_presets.PRESETS`) for the hub's.
        model: Folder with the tokenizer.
        template: Prompt template; the preset's own if None.
        max_prompt_tokens: Longer problems are left out.
    """
    preset, separator, file = spec.partition("=")
    if not separator:
        preset, file = (spec, "") if spec in PRESETS else ("default", spec)
    options = {"model": str(model), "preset": preset, "template": template, "max_prompt_tokens": max_prompt_tokens}
    if file:
        options["eval"] = file
    return DataSet(Path(file).stem if file else preset, "espo_env/Math-v0", options)


def run_benchmark(
    config: ESPOConfig,
    model: LanguageModelWithCritic,
    early_stopping: EarlyStoppingState | None,
    data_sets: Sequence[DataSet],
    output: str | Path,
    *,
    num_problems: int | None = None,
    num_samples: int = 1,
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Lets a policy answer data sets.

    Responses are appended to ``<data set>.jsonl`` as they finish. Called again with the same output folder, it writes
    only what is missing. The results are in ``results.json``.

    Early stopping is off without its state. With it stops are only marked, so that every response gives both figures:
    what it came to, and what it would have come to had it been stopped there.

    Args:
        config: Engine, slots, horizon, how tokens are drawn, stop rule.
        model: The policy and its critic.
        early_stopping: Its state, or None.
        data_sets: With different names.
        output: Folder.
        num_problems: How many of each data set, the first ones; None for all.
        num_samples: Responses to each problem, ``n``.
        seed: Seed of the responses.
        source: What the policy is, as JSON: responses of another one are not gone on with.
        progress: Show progress bars.

    Returns:
        What is in ``results.json``: ``data_sets``, for each its :func:`summarise` and ``seconds`` of this call; with
        several ``mean_accuracy``, over data sets; with early stopping the same ``with_stops``; ``source``.

    Raises:
        ValueError: If names repeat, or the output folder has responses that come from something else.
    """
    if len({d.name for d in data_sets}) < len(data_sets):
        raise ValueError(f"expected data sets with different names, got {[d.name for d in data_sets]}")
    output = Path(output)
    stops: EvaluationStops = "off" if early_stopping is None else "mark"
    results: dict[str, Any] = {"data_sets": {}}
    for data in data_sets:
        config = config.copy(copy_frozen=False).environment(data.env, env_config=dict(data.env_config))
        config.in_evaluation = True
        mdp = make_vector_env(config).unwrapped.mdp
        count = mdp.task.num_problems(mdp.split)
        come_from = {
            **(source or {}),
            "data_set": {"env": _plain(data.env), **_plain(data.env_config)},
            "samples": num_samples,
            "seed": seed,
            "max_new_tokens": mdp.max_new_tokens,
            "sampling": asdict(config.sampling),
            "stops": stops,
        }
        started = time.perf_counter()
        with ResponseLog(output / f"{data.name}.jsonl", come_from, mdp.task.tokenizer, columns=stops != "off") as log:
            evaluation = evaluate_policy(
                config,
                model,
                early_stopping,
                num_problems=count if num_problems is None else min(num_problems, count),
                stops=stops,
                rollouts_per_prompt=num_samples,
                seed=seed,
                log=log,
                progress=data.name if progress else None,
            )
        entry = summarise(evaluation)
        if early_stopping is not None:
            entry["with_stops"] = summarise(_as_stopped(evaluation))
        if isinstance(mdp.task, MathTask):
            entry["problems_read"] = str(mdp.task.reports["eval"])
        results["data_sets"][data.name] = {
            **entry,
            "seconds": round(time.perf_counter() - started, 1),
            "from": come_from,
        }
    entries = list(results["data_sets"].values())
    results["mean_accuracy"] = float(np.mean([entry["accuracy"] for entry in entries]))
    if early_stopping is not None:
        results["mean_accuracy_with_stops"] = float(np.mean([entry["with_stops"]["accuracy"] for entry in entries]))
    write_text(output / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """Scores of one data set.

    Returns:
        ``problems``, ``samples`` (for each of them), ``accuracy``; ``scores``: ``avg@n``, and for n > 1 ``pass@k`` and
        ``maj@k`` for k = 2, 4, ... n, each with ``value``, ``low`` and ``high`` (95 % bootstrap over problems);
        ``levels``: the same scores by the problems' level, where they have one; ``tokens``; ``response_length``;
        ``stop_reason``: shares; ``grades``: how often each reason was given; with marks also ``stop_rate`` and
        ``false_positive_rate``.
    """
    rows = [
        evaluation.episodes[i : i + evaluation.rollouts_per_prompt]
        for i in range(0, len(evaluation.episodes), evaluation.rollouts_per_prompt)
    ]
    levels: dict[str, list[list[TokenEpisode]]] = {}
    for row in rows:
        problem = row[0].problem
        level = None if problem is None else problem.metadata.get("level")
        if level is not None:
            levels.setdefault(str(level), []).append(row)
    metrics = rollout_metrics(evaluation.episodes)
    summary: dict[str, Any] = {
        "problems": len(rows),
        "samples": evaluation.rollouts_per_prompt,
        "accuracy": evaluation.accuracy,
        "scores": _scores(rows),
        "levels": {
            level: {"problems": len(levels[level]), "scores": _scores(levels[level])} for level in sorted(levels)
        },
        "tokens": evaluation.num_tokens,
        "response_length": {k: _number(v) for k, v in metrics["response_length"].items()},
        "stop_reason": metrics["stop_reason"],
        "grades": dict(Counter(e.grade.reason for e in evaluation.episodes if e.grade is not None)),
    }
    if any(episode.mark >= 0 for episode in evaluation.episodes):
        summary["stop_rate"] = evaluation.stop_rate
        summary["false_positive_rate"] = _number(evaluation.false_positive_rate)
    return summary


def format_scores(results: Mapping[str, Any]) -> str:
    """The results of :func:`run_benchmark` as a table."""
    rows = []
    for name, entry in results["data_sets"].items():
        parts = [(name, entry), *((f"  level {level}", part) for level, part in entry["levels"].items())]
        if "with_stops" in entry:
            parts.append((f"{name}, with stops", entry["with_stops"]))
        for label, part in parts:
            scores = [f"{k} {v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for k, v in part["scores"].items()]
            rows.append([label, str(part["problems"]), str(part.get("tokens", "")), ", ".join(scores)])
    return format_table(["data set", "problems", "tokens", "score [95 % interval]"], rows)


def _scores(rows: Sequence[Sequence[TokenEpisode]]) -> dict[str, dict[str, float]]:
    n = len(rows[0])
    correct = [[e.correct is True for e in row] for row in rows]
    scores = {f"avg@{n}": score([np.mean(row) for row in correct])}
    sizes = sorted({n, *(1 << i for i in range(1, n.bit_length()))} - {1})
    for k in sizes:
        scores[f"pass@{k}"] = score([pass_at_k(n, sum(row), k) for row in correct])
    for k in sizes:
        scores[f"maj@{k}"] = score(
            [majority_at_k([_vote(e) for e in row], right, k) for row, right in zip(rows, correct, strict=True)]
        )
    return {name: value._asdict() for name, value in scores.items()}


def _vote(episode: TokenEpisode) -> str | None:
    """The answer in a form that is the same for the same number, or the same text."""
    if episode.grade is None or episode.grade.answer is None:
        return None
    number = parse_number(episode.grade.answer)
    return key(tidy(episode.grade.answer)) if number is None else str(number.value)


def _as_stopped(evaluation: Evaluation) -> Evaluation:
    """The same responses as if every mark had been a stop."""
    return replace(evaluation, episodes=[e.stopped_at_mark() if e.mark >= 0 else e for e in evaluation.episodes])


def _plain(value: Any) -> Any:
    """The value as JSON that is the same in another process: of an object its class, of a function its name."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float | None):
        return value
    return str(value) if isinstance(value, Path) else getattr(value, "__qualname__", type(value).__qualname__)


def _number(value: float) -> float | None:
    """The number, or None for NaN, which JSON does not have."""
    return None if np.isnan(value) else float(value)
