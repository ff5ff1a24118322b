"""Responses to problems: an engine and an environment working together.

- :class:`ResponsePlan`: which problem to answer, with which seed.
- :func:`collect`: answers the plans and gives back graded episodes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.engine import Engine, GenerationRequest
from espo_env.types import StopReason
from espo_env.wrappers import VectorRegretTermination

__all__ = ["ResponsePlan", "collect"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ResponsePlan:
    """One response to collect.

    Attributes:
        problem_index: Index in the environment's split.
        seed: Sampling seed.
        mark_only: Only mark where the detector fires.
    """

    problem_index: int
    seed: int
    mark_only: bool = False


def collect(engine: Engine, env: VectorRegretTermination, plans: Sequence[ResponsePlan]) -> list[TokenEpisode]:
    """Answers all plans: a response that ends is graded, and its slot has the next problem before the next decode step.

    The environment plays whole responses (``complete``), which is the same as stepping it token by token. Where each
    one ends the engine has decided, with the same detector as the wrapper's.

    Args:
        engine: Idle, with as many slots as the environment.
        env: Never resets by itself (``AutoresetMode.DISABLED``).
        plans: What to answer, in this order.

    Returns:
        An episode for each plan, in their order. What the task raises, posing a problem or grading, loses its own
        response alone: that episode ends with ``StopReason.ERROR``, is logged, and the others go on.
    """
    base = env.unwrapped
    episodes: list[TokenEpisode | None] = [None] * len(plans)
    waiting = deque(range(len(plans)))
    free = list(range(env.num_envs))
    slot_of: dict[int, int] = {}
    while waiting or engine.num_unfinished:
        taken = [(free.pop(), waiting.popleft()) for _ in range(min(len(free), len(waiting)))]
        errors = _pose(env, [slot for slot, _ in taken], [plans[plan].problem_index for _, plan in taken])
        requests = []
        for (slot, plan), error in zip(taken, errors, strict=True):
            if error is not None:
                nothing = np.zeros(0, np.int32)
                episodes[plan] = _lost(TokenEpisode(nothing, nothing, StopReason.ERROR, request_id=plan), error)
                free.append(slot)
                continue
            slot_of[plan] = slot
            prompt = base.prompt_tokens(slot)
            requests.append(
                GenerationRequest(plan, prompt, plans[plan].seed, base.mdp.max_new_tokens, plans[plan].mark_only)
            )
        try:
            engine.submit(requests)
            done = engine.step()
        except BaseException:
            engine.abort()  # or the next call would find it busy
            raise
        slots = [slot_of.pop(episode.request_id) for episode in done]
        problems = base.problems
        outcome = env.complete(slots, [e.response_tokens for e in done], [e.stop_reason for e in done])
        for i, (slot, episode) in enumerate(zip(slots, done, strict=True)):
            episode.problem = problems[slot]
            episode.reward = float(outcome.rewards[i])
            episode.correct = outcome.correct[i]
            episode.truncated = bool(outcome.truncations[i])
            error = outcome.errors[i]
            episodes[episode.request_id] = episode if error is None else _lost(episode, error)
        free += slots
    return [episode for episode in episodes if episode is not None]


def _pose(env: VectorRegretTermination, slots: list[int], indices: list[int]) -> list[Exception | None]:
    """Poses problems in slots; all at once, and where that fails one by one to see which it was."""
    if not slots:
        return []
    mask = np.zeros(env.num_envs, np.bool_)
    mask[slots] = True
    problems = np.zeros(env.num_envs, np.int64)
    problems[slots] = indices
    try:
        env.reset(options={"reset_mask": mask, "indices": problems})
    except Exception as error:
        if len(slots) == 1:
            return [error]
        return [_pose(env, [slot], [index])[0] for slot, index in zip(slots, indices, strict=True)]
    return [None] * len(slots)


def _lost(episode: TokenEpisode, error: Exception) -> TokenEpisode:
    logger.warning("A response was lost: %r", error)
    episode.stop_reason, episode.error, episode.reward = StopReason.ERROR, type(error).__name__, 0.0
    return episode
