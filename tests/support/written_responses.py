"""Responses by hand, for snapshots and the page: some of every kind, with scores of the real detector."""

from __future__ import annotations

from typing import Any

import numpy as np

from espo_algo.episodes import TokenEpisode
from espo_env.early_stopping import DetectorSettings, DetectorState, FailureDetector, RegretStatistics
from espo_env.grading import Grade
from espo_env.tasks import ArithmeticTask
from espo_env.types import StopReason

TASK = ArithmeticTask()
BETA = 0.2


def response(
    group: int = 0,
    regrets: Any = (0.0, 0.0, 0.0),
    values: Any = 0.5,
    reason: StopReason = StopReason.EOS,
    correct: bool | None = None,
    mark: int = -1,
    settings: DetectorSettings | None = None,
    beta: float = BETA,
    **fields: Any,
) -> TokenEpisode:
    """A response to the task's problem ``group``, whose scores and thresholds the real detector works out."""
    regrets = np.asarray(regrets, np.float32)
    values = np.broadcast_to(np.asarray(values, np.float32), regrets.shape).copy()
    detector = FailureDetector(1, settings, DetectorState(RegretStatistics(mean=0.0, var=1.0), beta=beta))
    verdicts = [detector.update(g[None], v[None]) for g, v in zip(regrets, values, strict=True)]
    problem = TASK.problem(group)
    rng = np.random.default_rng(group)
    episode = TokenEpisode(
        prompt_tokens=np.array(TASK.encode_prompt(problem), np.int32),
        response_tokens=rng.integers(1, 12, len(regrets)).astype(np.int32),
        stop_reason=reason,
        reward=float(correct is True),
        regrets=regrets,
        values=values,
        logprobs=-regrets - 0.1,
        z=np.array([v.score[0] for v in verdicts], np.float32),
        thresholds=np.array([v.threshold[0] for v in verdicts], np.float32),
        mark=mark,
        correct=correct,
        group=group,
        problem=problem,
        grade=None if correct is None else Grade(correct, problem.answer if correct else "0", "equal"),
    )
    for name, value in fields.items():
        setattr(episode, name, value)
    return episode


def one_of_each() -> list[TokenEpisode]:
    """Four problems with two responses each: 2 stopped, 1 marked and wrong, 1 wrong stop, 2 right, 1 missed, 1 cut."""
    slip = [0.0] * 8 + [4.0]
    return [
        response(0, slip, 0.1, StopReason.REGRET, mark=8),
        response(0, [0.0] * 12, 0.6, correct=True),
        response(1, [*slip, 0.0, 0.0, 0.0], 0.1, correct=False, mark=8),
        response(1, [*slip, 0.0], 0.1, correct=True, mark=8),
        response(2, [0.0] * 20, 0.5, StopReason.LENGTH),
        response(2, [0.0] * 5, 0.9, correct=True),
        response(3, [0.3] * 7, 0.8, correct=False),
        response(3, slip, 0.15, StopReason.REGRET, mark=8),
    ]
