"""A run beside its baseline: the same start, problems and seed.

- :func:`measure_start`: the policy that both start from.
- :func:`table`, :func:`verdict`: runs as a text table, and sentences that lead with equal tokens.
- :func:`difference`: two accuracies on the same problems.

Intervals are over the choice of problems; how far seeds differ, only several seeds tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from transformers import AutoModelForCausalLM

from espo_algo.config import ESPOConfig
from espo_algo.evaluation import Evaluation
from espo_algo.evaluation.report import format_table
from espo_algo.experiments.run import Measurement, Run, Schedule, measure
from espo_algo.experiments.statistics import Interval, paired_interval, saving, tokens_needed_interval
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.policy import Policy

__all__ = ["difference", "measure_start", "table", "verdict"]

_KINDS = ("sampled", "greedy")


def measure_start(config: ESPOConfig, num_problems: int) -> Measurement:
    """Measures the policy that training starts from."""
    network = AutoModelForCausalLM.from_pretrained(config.model_name)
    model = LanguageModelWithCritic(network, vocab_size=config.check_task().vocab_size)
    policy = Policy(config, model.eval(), config.early_stopping_state)
    return measure(policy, 0, 0.0, Schedule(0, problems=num_problems))


def table(start: Measurement, runs: Sequence[Run]) -> str:
    """The start and the runs, whose first one is the baseline, as a text table."""
    baseline, *others = runs
    header = ["", "sampled acc.", "greedy acc.", "rollout tokens", "saving", "sampling", "update"]
    header += ["stop rate", "wrong stops"]
    rows = [_row("start", start), _row(baseline.name, baseline.at_updates, baseline)]
    for run in others:
        rows.append(_row(run.name, run.at_updates, run, baseline))
        if run.at_tokens is not None:
            rows.append(_row(f"  at {baseline.name}'s tokens", run.at_tokens))
    return format_table(header, rows)


def verdict(run: Run, baseline: Run) -> str:
    """Compares a run with the baseline: at equal tokens first, then at equal updates."""
    lines = []
    if run.at_tokens is not None:
        lines.append(f"At equal tokens {run.name} differs from {baseline.name} by {_differences(run, baseline, True)}.")
        needed = [f"{kind} accuracy {_needed(run, baseline, kind)}" for kind in _KINDS]
        lines.append(f"To {baseline.name}'s last {' and '.join(needed)}.")
    tokens = saving(run.at_updates.tokens, baseline.at_updates.tokens)
    seconds = saving(_seconds(run), _seconds(baseline))
    lines.append(
        f"In as many updates it wrote {abs(tokens):.1%} {'fewer' if tokens > 0 else 'more'} rollout tokens and took "
        f"{abs(seconds):.1%} {'less' if seconds > 0 else 'more'} time to sample and update; "
        f"{_differences(run, baseline, False)}."
    )
    return "\n".join(lines)


def difference(left: Evaluation, right: Evaluation) -> Interval:
    """Difference of two accuracies on the same problems."""
    return paired_interval(_correct(left), _correct(right))


def _row(name: str, measured: Measurement, run: Run | None = None, baseline: Run | None = None) -> list[str]:
    stopped = measured.sampled.stop_rate > 0
    return [
        name,
        *(f"{e.accuracy:.3f} ± {e.accuracy_error:.3f}" for e in (measured.sampled, measured.greedy)),
        f"{measured.tokens / 1e3:.1f}k" if measured.tokens else "-",
        f"{saving(measured.tokens, baseline.at_updates.tokens):.1%}" if baseline is not None else "-",
        *(f"{run.seconds(part):.1f} s" if run is not None else "-" for part in ("sampling_s", "update_s")),
        f"{measured.sampled.stop_rate:.3f}" if stopped else "-",
        f"{measured.sampled.false_positive_rate:.3f}" if stopped else "-",
    ]


def _differences(run: Run, baseline: Run, equal_tokens: bool) -> str:
    measured = run.at_tokens if equal_tokens else run.at_updates
    parts = []
    for kind in _KINDS:
        mean, low, high = difference(getattr(measured, kind), getattr(baseline.at_updates, kind))
        parts.append(f"{kind} accuracy {100 * mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]")
    return ", ".join(parts)


def _needed(run: Run, baseline: Run, kind: str) -> str:
    own, other = (
        ([m.tokens for m in r.course], [_correct(getattr(m, kind)) for m in r.course]) for r in (run, baseline)
    )
    got = tokens_needed_interval(*own, *other)
    mean, low, high = (f"{x:.0%}" if math.isfinite(x) else "more than all" for x in got)
    return f"it needed {mean} of {baseline.name}'s tokens [{low}, {high}]"


def _seconds(run: Run) -> float:
    return run.seconds("sampling_s") + run.seconds("update_s")


def _correct(evaluation: Evaluation) -> list[float]:
    return np.array([e.correct is True for e in evaluation.episodes], float).tolist()
