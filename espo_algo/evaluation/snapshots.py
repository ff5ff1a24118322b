"""Snapshots: some responses of one iteration, as the page of responses shows them.

- :func:`take_snapshot`: a snapshot as JSON.
- :func:`choose_responses`: whole groups of responses to a prompt, so that every kind is seen.
- :func:`kept_tokens`: which tokens of a long response are kept.

Whatever others wrote (prompts, responses, references, answers, names of rules and errors) is written out with
:func:`~espo_env.escapes.visible`, and cut to a length that a page can hold.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espo_algo.config import ESPOConfig
from espo_algo.episodes import TokenEpisode
from espo_algo.learning.advantages import generalized_advantages, get_advantage_estimator
from espo_algo.learning.credit import CreditSettings, Responses, assign_credit
from espo_env.early_stopping import explain
from espo_env.escapes import visible
from espo_env.tokenizer import Tokenizer
from espo_env.types import StopReason

__all__ = ["choose_responses", "kept_tokens", "take_snapshot"]

logger = logging.getLogger(__name__)

MOST_TOKENS = 600
"""Tokens of a response that are kept."""
MOST_CHARACTERS = 4000
"""Characters of a prompt, a reference or an answer that are kept."""
_TOKEN_CHARACTERS = 80
_COLUMNS = ("regrets", "values", "z", "thresholds", "logprobs")


def take_snapshot(
    episodes: Sequence[TokenEpisode],
    config: ESPOConfig,
    tokenizer: Tokenizer,
    count: int,
    iteration: int,
    label: str | None = None,
) -> dict[str, Any]:
    """Some responses of an iteration as JSON.

    TD errors and advantages are worked out from the values that were measured while the responses were written; the
    learner's own differ from them by rounding. Advantages are those before whitening, and without weights of audited
    responses. Where a value stands behind a response's end (a truncation, ``stop_credit`` other than ``"reward"``)
    there are none: that value is the learner's alone.

    Args:
        episodes: The iteration's batch, or as much of it as there is.
        config: What they were written with.
        tokenizer: Turns their tokens into text.
        count: Responses, at most.
        iteration: Number of the iteration.
        label: What the page calls a snapshot that is none of a training iteration.

    Returns:
        ``iteration``, ``label``, ``total`` (responses of the batch), ``lost`` (chosen responses that could not be
        written, which are logged), ``responses``.
    """
    chosen = choose_responses(episodes, count)
    groups = {episode.group for episode in chosen}
    # Estimators see whole groups.
    within = [episode for episode in episodes if episode.group in groups and _measured(episode)]
    credit = dict(zip(map(id, within), _credit(within, config), strict=True)) if within else {}
    responses, lost = [], 0
    for episode in chosen:
        try:
            responses.append(_response(episode, config, tokenizer, credit.get(id(episode))))
        except Exception as error:  # a task's own problem or grade may be anything
            lost += 1
            logger.warning("a response of iteration %d is not recorded: %r", iteration, error)
    return {
        "iteration": iteration,
        "label": label,
        "total": len(episodes),
        "lost": lost,
        "responses": responses,
    }


def choose_responses(episodes: Iterable[TokenEpisode], count: int) -> list[TokenEpisode]:
    """Chooses whole groups of responses to the same prompt.

    Half of them are the batch's first prompts, which runs with the same seed share, so that they can be laid side by
    side. The others are taken in turn from the groups of each kind of response: stopped; marked and wrong; marked and
    right (a wrong stop); right; wrong without a mark (missed); cut at the horizon.

    Args:
        episodes: To choose from; those that were lost are left out.
        count: How many responses, at most. A group that does not fit is left out, but for one that alone is larger.

    Returns:
        The responses, group by group.
    """
    groups: dict[int, list[TokenEpisode]] = {}
    kinds: list[list[int]] = [[] for _ in range(6)]
    for episode in sorted((e for e in episodes if e.is_trainable), key=lambda e: e.group):
        groups.setdefault(episode.group, []).append(episode)
        kinds[_kind(episode)].append(episode.group)
    chosen: list[TokenEpisode] = []

    def take(numbers: Iterable[int | None], most: int) -> None:
        for number in numbers:
            if number in groups and len(chosen) + len(groups[number]) <= most:
                chosen.extend(groups.pop(number))

    first = [*groups]
    take(first, count // 2)
    take(itertools.chain.from_iterable(itertools.zip_longest(*kinds)), count)
    if not chosen and count:
        chosen = groups[first[0]][:count] if first else []
    return sorted(chosen, key=lambda e: e.group)


def kept_tokens(length: int, mark: int, most: int = MOST_TOKENS) -> list[tuple[int, int]]:
    """Which tokens of a response are kept: its beginning, its end, and what is around its mark, a third each.

    Args:
        length: Tokens of the response.
        mark: Where the detector fired, -1 for nowhere.
        most: Tokens to keep, >= 3.

    Returns:
        Ranges ``[start, end)`` in order, without overlaps.
    """
    if length <= most:
        return [(0, length)]
    third = most // 3
    middle = min(max(mark - third // 2, 0), length - third) if mark >= 0 else 0
    ranges = sorted([(0, third), (middle, middle + third), (length - third, length)])
    merged = ranges[:1]
    for start, end in ranges[1:]:
        if start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _response(
    episode: TokenEpisode, config: ESPOConfig, tokenizer: Tokenizer, credit: tuple[Any, Any] | None
) -> dict[str, Any]:
    kept = kept_tokens(len(episode), episode.mark)
    steps = np.concatenate([np.arange(start, end) for start, end in kept])
    columns = {name: getattr(episode, name) for name in _COLUMNS}
    if credit is not None:
        columns |= {"td_errors": credit[0], "advantages": credit[1]}
    problem, grade = episode.problem, episode.grade
    return {
        "group": episode.group,
        "problem": None if problem is None else int(problem.index),
        "prompt": _text(tokenizer.decode(episode.prompt_tokens)),
        "reference": None if problem is None else _text(problem.answer),
        "answer": None if grade is None or grade.answer is None else _text(grade.answer),
        "grade": None if grade is None else _text(grade.reason),
        "stop": episode.stop_reason.value,
        "mark": int(episode.mark),
        "correct": episode.correct if episode.correct is None else float(episode.correct),
        "reward": float(episode.reward),
        "length": len(episode),
        "why": visible(explain(episode, config.detector_settings)),
        "kept": kept,
        "tokens": [_text(tokenizer.token(token), _TOKEN_CHARACTERS) for token in episode.response_tokens[steps]],
        "columns": {
            name: [_rounded(x) for x in column[steps].tolist()] for name, column in columns.items() if len(column)
        },
    }


def _credit(
    episodes: list[TokenEpisode], config: ESPOConfig
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]] | None]:
    """TD errors and advantages of each response; None where they depend on a value that is not known."""
    settings: CreditSettings = config.credit_settings
    unknown = np.zeros(len(episodes), np.float32)
    responses = Responses.from_episodes(episodes, [e.values for e in episodes], unknown)
    errors = assign_credit(responses, generalized_advantages, replace(settings, lambda_=0.0)).advantages
    advantages = assign_credit(responses, get_advantage_estimator(config.advantage_estimator), settings).advantages
    bootstrapped = responses.truncated | (responses.stopped & (settings.stop_credit != "reward"))
    return [
        None if guess else (error, advantage)
        for guess, error, advantage in zip(bootstrapped, errors, advantages, strict=True)
    ]


def _measured(episode: TokenEpisode) -> bool:
    return episode.is_trainable and len(episode.values) == len(episode)


def _kind(episode: TokenEpisode) -> int:
    if episode.stop_reason is StopReason.REGRET:
        return 0
    if episode.mark >= 0:
        return 2 if episode.correct is True else 1
    if episode.correct is True:
        return 3
    return 4 if episode.stop_reason is StopReason.EOS else 5


def _text(text: str, most: int = MOST_CHARACTERS) -> str:
    if len(text) > most:
        text = f"{text[:most]} … [{len(text) - most} more characters]"
    return visible(text)


def _rounded(number: float) -> float | None:
    """Four digits; None for what JSON does not know."""
    return float(f"{number:.4g}") if math.isfinite(number) else None
