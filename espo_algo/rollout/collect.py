"""Collection of responses: the environment poses problems and grades, the engine writes.

- :func:`collect`: answers the plans, or enough of them, and gives back graded episodes.
- :func:`stream`: the same, each episode as soon as it is graded.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

import numpy as np

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.engine import Engine, GenerationRequest
from espo_algo.rollout.partial import Answer, PartialResponse
from espo_algo.rollout.plans import ResponsePlan
from espo_algo.rollout.prompt_success import PilotQueue
from espo_env.grading import Grade
from espo_env.grading.judge import check_grade
from espo_env.types import StopReason
from espo_env.wrappers import VectorRegretTermination

__all__ = ["collect", "stream"]

logger = logging.getLogger(__name__)

_MEASURED = ("logprobs", "regrets", "values", "z")
"""Columns in which every number is finite; a threshold may be infinite."""
_PATIENCE = 5.0
"""Seconds more than a task's own limit, which comes first and says what it was."""


def collect(
    engine: Engine, env: VectorRegretTermination, plans: Sequence[ResponsePlan], enough: int | None = None
) -> list[Answer]:
    """Answers plans; see :func:`stream`.

    Returns:
        An episode for each plan, in their order; what there is of it where ``enough`` others were over first.
    """
    answers: dict[int, Answer] = {}
    writing = stream(engine, env, plans, enough)
    while True:
        try:
            number, episode = next(writing)
        except StopIteration as end:
            answers |= end.value
            return [answers[number] for number in range(len(plans))]
        answers[number] = episode


def stream(
    engine: Engine, env: VectorRegretTermination, plans: Sequence[ResponsePlan], enough: int | None = None
) -> Generator[tuple[int, TokenEpisode], None, dict[int, PartialResponse]]:
    """Answers all plans: where a response ends, its slot has the next problem before the next decode step.

    The environment plays whole responses (``complete``), which is the same as stepping it token by token. Where each
    one ends the engine has decided, with the same detector as the wrapper's. Grading goes on beside decoding
    (``Task.submit``).

    Args:
        engine: Idle, with as many slots as the environment; idle again if this ends early.
        env: Never resets by itself (``AutoresetMode.DISABLED``).
        plans: What to answer, in this order.
        enough: How many responses have to be over, lost ones included; no step follows once they are, and no plan is
            left that is ``awaited``. None for all of them; fewer only with an engine of a kind that ``carries``.

    Yields:
        Number of a plan, and its episode. What the task raises, posing a problem or grading, loses its own response
        alone: that episode ends with ``StopReason.ERROR``, is logged, and the others go on. So does a verdict that is
        no number in [0, 1] (``InvalidGrade``), one that does not come in time (``TimeoutError``), and a value or
        log-probability that is not finite (``FloatingPointError``).

    Returns:
        Number of a plan, and what there is of its response, for each that is not over.
    """
    base = env.unwrapped
    queue = PilotQueue(plans)
    free = list(range(env.num_envs))
    slot_of: dict[int, int] = {}
    grading: list[tuple[TokenEpisode, Future[Grade]]] = []
    num_over, wanted = 0, len(plans) if enough is None else enough
    awaited = {number for number, plan in enumerate(plans) if plan.awaited}
    patience = base.task.grade_timeout_s + _PATIENCE
    try:
        while (num_over < wanted or awaited) and (queue or queue.num_held or engine.num_unfinished):
            taken = [(free.pop(), number) for number in queue.take(len(free))]
            errors = _pose(env, [slot for slot, _ in taken], [plans[number].problem_index for _, number in taken])
            requests, over, ended = [], [], []
            for (slot, number), error in zip(taken, errors, strict=True):
                plan = queue.plans[number]
                if error is not None:
                    nothing = np.zeros(0, np.int32)
                    free.append(slot)
                    lost = TokenEpisode(nothing, nothing, StopReason.ERROR, request_id=number, group=plan.group)
                    over.append(_lost(lost, error))
                    ended.append(number)
                    continue
                slot_of[number] = slot
                prompt, most = base.prompt_tokens(slot), base.mdp.max_new_tokens
                requests.append(
                    GenerationRequest(
                        number, prompt, plan.seed, most, plan.mark_only, plan.prompt_success, plan.partial
                    )
                )
            engine.submit(requests)
            done = engine.step()
            ended += [episode.request_id for episode in done]
            slots = [slot_of.pop(episode.request_id) for episode in done]
            problems = base.problems
            responses, reasons = [e.response_tokens for e in done], [e.stop_reason for e in done]
            outcome = env.complete(slots, responses, reasons, grade=False)
            free += slots
            for i, (slot, episode) in enumerate(zip(slots, done, strict=True)):
                episode.problem = problems[slot]
                plan = queue.plans[episode.request_id]
                episode.group, episode.shadow = plan.group, plan.mark_only
                episode.prompt_success = plan.prompt_success
                episode.reward = float(outcome.rewards[i])
                episode.truncated = bool(outcome.truncations[i])
                if (error := outcome.errors[i] or _broken(episode)) is not None:
                    over.append(_lost(episode, error))
                elif episode.stop_reason is StopReason.EOS:
                    grading.append((episode, base.mdp.submit(episode.problem, episode.response_tokens)))
                else:
                    over.append(episode)
            pilots_alone = queue.num_held and not queue and not engine.num_unfinished
            over += _settled(grading, patience if pilots_alone else None)
            num_over += len(ended)
            awaited -= {*ended}
            for episode in over:
                queue.answered(episode)
                yield episode.request_id, episode
        unfinished = engine.suspend() if engine.num_unfinished else {}
        unfinished |= {number: plans[number].partial or PartialResponse() for number in queue.take(len(queue))}
    except BaseException:
        engine.abort()  # or the next call would find it busy
        raise
    while grading:
        for episode in _settled(grading, patience):
            yield episode.request_id, episode
    return unfinished


def _settled(grading: list[tuple[TokenEpisode, Future[Grade]]], seconds: float | None) -> list[TokenEpisode]:
    """Takes out what is graded.

    Args:
        grading: Loses what is taken out.
        seconds: How long to wait for the first verdict, after which all are given up: graders that work in parallel may
            have a queue, so the limit is for the next one, whichever it is. None does not wait.
    """
    if seconds is not None:
        wait([verdict for _, verdict in grading], seconds, FIRST_COMPLETED)
    ready = [pair for pair in grading if pair[1].done()]
    if seconds is not None and not ready:
        ready = grading.copy()
    for pair in ready:
        grading.remove(pair)
    return [_graded(*pair) for pair in ready]


def _graded(episode: TokenEpisode, verdict: Future[Grade]) -> TokenEpisode:
    if not verdict.done():
        return _lost(episode, TimeoutError("expected a grade within the task's grade_timeout_s, got none"))
    try:
        episode.grade = check_grade(verdict.result())
    except Exception as error:
        return _lost(episode, error)
    episode.correct = episode.grade.correct
    episode.reward = float(episode.correct)
    return episode


def _broken(episode: TokenEpisode) -> FloatingPointError | None:
    """What is not finite in an episode, and would spread over the whole batch."""
    if not np.isfinite(episode.reward):
        return FloatingPointError(f"expected a finite reward, got {episode.reward}")
    for name in _MEASURED:
        column = getattr(episode, name)
        if not np.isfinite(column).all():
            step = int(np.isfinite(column).argmin())
            return FloatingPointError(f"expected finite {name}, got {column[step]} at token {step} of a response")
    return None


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
    episode.stop_reason, episode.reward = StopReason.ERROR, 0.0
    episode.error, episode.message = type(error).__name__, str(error)
    return episode
