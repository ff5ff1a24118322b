"""What the signals of a response are worth: how early they tell failing ones, and what stopping by them would save.

- :class:`Recorded`: full responses of one policy, as columns.
- :func:`record`: trains without stops, and writes responses down at several stages.
- :data:`SIGNALS`: scores by name, each a number for every step; the stop rules are among them.
- :func:`measure`, :class:`Measured`: what one score is worth on recorded responses.

``python -m espo_algo.experiments.signals arithmetic --output FOLDER`` prints the table of a task.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espo_algo.critic_quality import auroc
from espo_algo.evaluation import evaluate_policy
from espo_algo.evaluation.report import format_table
from espo_algo.evaluation.tails import failure_tails
from espo_algo.experiments.config import OUTPUT, build_config
from espo_algo.experiments.run import for_evaluation
from espo_env.early_stopping import DetectorSettings, RegretStatistics, replay

__all__ = ["SIGNALS", "Measured", "Recorded", "measure", "record"]

PREFIXES = (5, 10, 20, 40, 80)
"""Tokens after which the area under the curve is measured, among the responses that go on."""
BUDGET = 0.03
STAGES = (15, 35, 60)
"""Training iterations after which responses are recorded; by the first one the critic has been warmed up."""


@dataclass(frozen=True)
class Recorded:
    """Full responses of one policy; ``n`` of at most ``T`` tokens, filled up behind their ends.

    Attributes:
        lengths: Tokens of each, shape (n,).
        correct: Whether the answer was right, shape (n,).
        prompts: Index of the problem, shape (n,); responses to the same one stand behind each other.
        logprobs: Shape (n, T), nats, as the following two.
        regrets: Step regrets.
        values: ``V(s_t)``, before each token.
        statistics: Mean and variance that the training normalised regrets with, shape (2,).
        oracle_saving: See :class:`~espo_algo.evaluation.tails.FailureTails`.
    """

    lengths: NDArray[np.int64]
    correct: NDArray[np.bool_]
    prompts: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    regrets: NDArray[np.float32]
    values: NDArray[np.float32]
    statistics: NDArray[np.float64]
    oracle_saving: float

    @property
    def can_stop(self) -> NDArray[np.bool_]:
        """Where a stop may fall, shape (n, T): on every step but a response's last."""
        return np.arange(self.regrets.shape[1]) < self.lengths[:, None] - 1

    def siblings(self, first: int = 0) -> NDArray[np.float64]:
        """For each response the success rate of the others to its prompt, shape (n,).

        Args:
            first: Only of the first so many responses; NaN for these themselves. 0 for all of the others.
        """
        grouped = self.correct.reshape(-1, int((self.prompts == self.prompts[0]).sum()))
        if first:
            rates = np.repeat(grouped[:, :first].mean(1, keepdims=True), grouped.shape[1], 1)
            rates[:, :first] = np.nan
        else:
            rates = (grouped.sum(1, keepdims=True) - grouped) / (grouped.shape[1] - 1)
        return rates.ravel()

    def replayed(self, prompt_success: Any = 1.0, **constants: Any) -> NDArray[np.float64]:
        """The critical ``beta`` of every step under a stop rule, shape (n, T).

        Args:
            prompt_success: Shape (n,), for the rules that look at it.
            constants: Those of :class:`DetectorSettings`.
        """
        rows = [slice(length) for length in self.lengths]
        scores = replay(
            DetectorSettings(**constants),
            RegretStatistics(*self.statistics),
            [column[row] for column, row in zip(self.regrets, rows, strict=True)],
            [column[row] for column, row in zip(self.values, rows, strict=True)],
            [False] * len(rows),
            prompt_success,
        )
        out = np.full(self.regrets.shape, -np.inf)
        out[:, : scores.shape[1]] = scores
        return out


Score = Callable[[Recorded], NDArray[np.float64]]
"""Gives every step a number, shape (n, T): the response is stopped at the first step where it exceeds a threshold."""


def _where_pilots_are_right(r: Recorded) -> NDArray[np.float64]:
    """The paper's rule, only where half of the prompt's two first responses, or more, were right."""
    return np.where((r.siblings(first=2) >= 0.5)[:, None], r.replayed(), -np.inf)


SIGNALS: dict[str, Score] = {
    "regret_value (paper)": lambda r: r.replayed(),
    "regret_value, gate after": lambda r: r.replayed(gate="after"),
    "regret_value, smoothing 0": lambda r: r.replayed(smoothing=0.0),
    "regret_value, two pilots right": _where_pilots_are_right,
    "regret_only": lambda r: r.replayed(rule="regret_only"),
    "regret_only, smoothing 0": lambda r: r.replayed(rule="regret_only", smoothing=0.0),
    "value_only": lambda r: r.replayed(rule="value_only"),
    "random": lambda r: r.replayed(rule="random"),
    "regret_prompt": lambda r: r.replayed(rule="regret_prompt", prompt_success=r.siblings()),
    "largest surprisal": lambda r: -r.logprobs.astype(np.float64),
    "sum of surprisals": lambda r: -r.logprobs.cumsum(1, dtype=np.float64),
}
"""Scores by name."""


@dataclass(frozen=True)
class Measured:
    """What a score is worth.

    Attributes:
        auroc: By prefix: among the responses that go on, the probability that a failing one has the higher score.
        saving: Tokens saved at the target stop rate, as a share of all.
        false_positives: Share of wrong stops there.
        bound: What the least likely token up to each of these stops was sampled with, on average. Where a policy is
            calibrated, that is how often it was right; so no rule that looks at tokens can be wrong much less often.
        saving_wrong_stops: Tokens saved where 3 % of the stops are wrong.
        saving_good_ones: Tokens saved where 3 % of the good responses are stopped.
    """

    auroc: dict[int, float]
    saving: float
    false_positives: float
    bound: float
    saving_wrong_stops: float
    saving_good_ones: float


def measure(r: Recorded, score: Score, target: float) -> Measured:
    """Measures a score; thresholds are chosen on the same responses, alike for every score.

    Args:
        r: The responses.
        score: Of :data:`SIGNALS`.
        target: Stop rate, in (0, 1).
    """
    # No threshold is negative, so nothing tells negative scores apart.
    scores = np.where(r.can_stop, np.maximum(score(r), 0.0), -np.inf)
    highest = np.maximum.accumulate(scores, axis=1)
    at = {t: r.lengths > t for t in PREFIXES if t <= highest.shape[1]}
    areas = {t: auroc(highest[alive, t - 1], ~r.correct[alive]) for t, alive in at.items()}

    critical = highest[:, -1]
    order = np.argsort(-critical, kind="stable")
    order = order[critical[order] > 0]
    stops = np.arange(1, len(order) + 1)
    wrong = np.cumsum(r.correct[order])
    chosen = min(round(target * len(critical)), len(order))
    saving, false_positives, bound = _stopped(r, scores, order, chosen)

    def most(good: NDArray[np.bool_]) -> float:
        return _stopped(r, scores, order, int(stops[good].max(initial=0)))[0]

    return Measured(
        areas,
        saving,
        false_positives,
        bound,
        most(wrong <= BUDGET * stops),
        most(wrong <= BUDGET * r.correct.sum()),
    )


def _stopped(
    r: Recorded, scores: NDArray[np.float64], order: NDArray[np.int64], count: int
) -> tuple[float, float, float]:
    """Stops the first ``count`` responses of an order: saving, share of wrong stops, mean least probability."""
    if not count:
        return 0.0, float("nan"), float("nan")
    threshold = np.nextafter(scores[order[count - 1]].max(), -np.inf)
    least = np.minimum.accumulate(r.logprobs, axis=1)
    rows = np.flatnonzero((scores > threshold).any(1))
    places = (scores[rows] > threshold).argmax(1)
    saved = (r.lengths[rows] - places - 1).sum() / r.lengths.sum()
    return float(saved), float(r.correct[rows].mean()), float(np.exp(least[rows, places]).mean())


def record(
    task: str,
    output: str | Path,
    stages: Sequence[int] = STAGES,
    num_problems: int = 256,
    rollouts_per_prompt: int = 8,
    seed: int = 0,
) -> list[Recorded]:
    """Trains by plain PPO, and writes down full responses to evaluation problems; takes what is there already.

    Args:
        task: One of the small experiments'.
        output: Folder of starts and recordings.
        stages: Training iterations after which responses are recorded, ascending.
        num_problems: Problems that are answered.
        rollouts_per_prompt: Responses to each.
        seed: Of problems, samples and minibatches.

    Returns:
        The responses of each stage.
    """
    files = [Path(output) / f"signals-{task.replace(':', '-')}-{seed}-{stage}.npz" for stage in stages]
    if not all(file.is_file() for file in files):
        config = build_config(task=task, iterations=stages[-1], seed=seed, output=output)
        algo = config.early_stopping(shadow_fraction=1.0).build_algo()
        for stage, file in zip(stages, files, strict=True):
            while algo.iteration < stage:
                algo.train()
            policy = algo.policy()
            evaluation = evaluate_policy(
                for_evaluation(config),
                policy.model,
                stops="off",
                num_problems=num_problems,
                rollouts_per_prompt=rollouts_per_prompt,
            )
            statistics = policy.early_stopping.statistics
            _write(file, algo.mdp.task, evaluation.episodes, statistics.mean, statistics.var)
        algo.stop()
    return [_read(file) for file in files]


def _write(file: Path, task: Any, episodes: Sequence[Any], mean: float, var: float) -> None:
    longest = max(map(len, episodes))
    columns: dict[str, Any] = {
        name: np.stack([np.pad(getattr(e, name), (0, longest - len(e))) for e in episodes])
        for name in ("logprobs", "regrets", "values")
    }
    np.savez_compressed(
        file,
        lengths=np.array([len(e) for e in episodes]),
        correct=np.array([e.correct is True for e in episodes]),
        prompts=np.array([e.problem.index for e in episodes]),
        statistics=np.array([mean, var]),
        oracle_saving=failure_tails(task, episodes).oracle_saving,
        **columns,
    )


def _read(file: Path) -> Recorded:
    with np.load(file) as arrays:
        return Recorded(**{field.name: arrays[field.name] for field in fields(Recorded)})


def table(r: Recorded, target: float) -> str:
    """The table of one stage."""
    header = ["", *(f"AUROC {t}" for t in PREFIXES), "saved", "wrong", "E[p]", "at 3 % of stops", "at 3 % of the good"]
    rows = []
    for name, score in SIGNALS.items():
        m = measure(r, score, target)
        rows.append(
            [
                name,
                *(f"{m.auroc[t]:.2f}" if np.isfinite(m.auroc.get(t, np.nan)) else "-" for t in PREFIXES),
                f"{m.saving:.1%}",
                f"{m.false_positives:.3f}",
                f"{m.bound:.3f}",
                f"{m.saving_wrong_stops:.1%}",
                f"{m.saving_good_ones:.1%}",
            ]
        )
    return format_table(header, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What each signal is worth, at several stages of a training by PPO.")
    parser.add_argument("task", help="arithmetic, walk, cycle, ...")
    parser.add_argument("--output", type=Path, default=Path(OUTPUT), help=f"folder of starts (default: {OUTPUT})")
    parser.add_argument("--target", type=float, default=0.25, help="stop rate (default: 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    options = parser.parse_args()
    for stage, recorded in zip(STAGES, record(options.task, options.output, seed=options.seed), strict=True):
        print(
            f"\n{options.task} after {stage} iterations: {len(recorded.lengths)} responses, "
            f"{recorded.correct.mean():.3f} right, {recorded.lengths.mean():.1f} tokens; "
            f"an oracle would save {recorded.oracle_saving:.1%}\n"
        )
        print(table(recorded, options.target))
