"""Responses from a group of runners, and what became of those that did not come.

- :class:`Rollout`: plans that are being answered, and :class:`Answers`: what came of them.
- :func:`collect_from_runners`: shares plans out, and gathers the episodes.
- :func:`count_lost`: how many responses were lost to what.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ray.rllib.env.env_runner_group import EnvRunnerGroup

from espo_algo.episodes import TokenEpisode
from espo_algo.limits import WaitLimit
from espo_algo.rollout.env_runner import ESPOEnvRunner
from espo_algo.rollout.partial import Answer, PartialResponse
from espo_algo.rollout.plans import ResponsePlan, quotas, share_out, tokens_written
from espo_algo.weight_sync.calls import replace_runners

__all__ = ["Answers", "Rollout", "collect_from_runners", "count_lost"]

logger = logging.getLogger(__name__)

_TRANSIT = 5.0
"""Seconds in which answers arrive that were ready when somebody came to wait for them."""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of a rollout.

    Attributes:
        episodes: Place of a plan -> its episode, in the plans' order, whoever wrote them.
        unfinished: Place of a plan -> what there is of its response, in the same way: others were over first.
        tokens: What was written; without what a response had before.
        outdated: Whether a runner had other weights, and so answered nothing.
        seconds: What the slowest runner took; 0 where none answered.
    """

    episodes: dict[int, TokenEpisode] = field(default_factory=dict)
    unfinished: dict[int, PartialResponse] = field(default_factory=dict)
    tokens: int = 0
    outdated: bool = False
    seconds: float = 0.0

    @classmethod
    def of(
        cls, plans: Sequence[ResponsePlan], came: Mapping[int, Answer], outdated: bool = False, seconds: float = 0.0
    ) -> Answers:
        """What came by the place of its plan, in any order."""
        came = dict(sorted(came.items()))
        return cls(
            {place: answer for place, answer in came.items() if isinstance(answer, TokenEpisode)},
            {place: answer for place, answer in came.items() if isinstance(answer, PartialResponse)},
            tokens_written([plans[place] for place in came], came.values()),
            outdated,
            seconds,
        )


class Rollout:
    """Plans that the healthy remote runners of a group are answering, whatever the caller does meanwhile.

    Args:
        group: Has remote runners.
        plans: What to answer.
        version: That of the weights that were sent to the group last. A runner that has others answers nothing.
        traces: Whether episodes bring all their columns, see :meth:`ESPOEnvRunner.sample`.
        enough: How many have to be over, on all runners together; None for all of them.
    """

    def __init__(
        self,
        group: EnvRunnerGroup,
        plans: Sequence[ResponsePlan],
        version: int,
        traces: bool,
        enough: int | None = None,
    ) -> None:
        self._group = group
        self._plans = plans
        self._version = version
        runners = group.healthy_worker_ids()
        self._shares = shares = dict(zip(runners, share_out(plans, max(1, len(runners))), strict=False))

        def sample(
            runner: ESPOEnvRunner, plans: list[ResponsePlan], enough: int
        ) -> tuple[list[Answer] | str | None, float]:
            start = time.monotonic()
            if runner.weights_version != version:
                return None, 0.0  # restarted, and nobody has noticed
            try:
                answer: list[Answer] | str = runner.sample(plans=plans, traces=traces, enough=enough)
            except Exception as error:  # else RLlib would end the process, and only its own log would say why
                logger.exception("runner %d", int(runner.worker_index))
                answer = f"{type(error).__name__}: {error}"
            return answer, time.monotonic() - start

        each = [[plans[place] for place in shares[runner]] for runner in runners]
        wanted = quotas([len(own) for own in each], len(plans) if enough is None else enough)
        self._start = time.monotonic()
        # RLlib drops a call of a tag whose last call was not fetched, as where an update between the two has failed.
        self._tag = f"rollout {next(_numbers)}"
        if runners:
            group.foreach_env_runner_async(
                [sample] * len(runners),
                tag=self._tag,
                # To each its own: all plans to all runners would grow with the square of their number.
                kwargs=[{"plans": own, "enough": most} for own, most in zip(each, wanted, strict=True)],
                remote_worker_ids=runners,
            )

    def wait(self, limit: WaitLimit) -> Answers:
        """Waits for every runner. One that hangs or has raised is restarted.

        Args:
            limit: How long a rollout may take from its start; takes in what the slowest runner took.
        """
        seconds = limit.seconds
        left = max(self._start + seconds - time.monotonic(), _TRANSIT)
        answers = dict(self._group.fetch_ready_async_reqs(tags=self._tag, timeout_seconds=left))
        slowest = max((took for _, took in answers.values()), default=0.0)
        if hung := set(self._group.healthy_worker_ids()) & self._shares.keys() - answers.keys():
            replace_runners(self._group, hung, f"expected its responses within {seconds:g} s, got none")
        elif slowest:
            limit.took(slowest)
        came: dict[int, Answer] = {}
        for index, (answer, _) in answers.items():
            if isinstance(answer, str):
                replace_runners(self._group, [index], f"with weights {self._version} it raised {answer}")
            else:
                came |= zip(self._shares[index], answer or (), strict=False)
        outdated = any(answer is None for answer, _ in answers.values())
        return Answers.of(self._plans, came, outdated, slowest)


def collect_from_runners(
    group: EnvRunnerGroup,
    plans: Sequence[ResponsePlan],
    version: int,
    limit: WaitLimit,
    traces: bool = True,
    enough: int | None = None,
) -> Answers:
    """Shares plans out over a group's healthy runners, and waits; the local one answers where there are no others.

    Args:
        group: A runner of it that hangs or raises is restarted.
        plans: What to answer.
        version: As for :class:`Rollout`.
        limit: How long to wait; takes in how long it took.
        traces: As for :class:`Rollout`.
        enough: As there.
    """
    if not group.num_remote_workers():
        own = group.local_env_runner.sample(plans=plans, traces=traces, enough=enough)
        return Answers.of(plans, dict(enumerate(own)))
    return Rollout(group, plans, version, traces, enough).wait(limit)


def count_lost(episodes: Sequence[TokenEpisode], missing: int) -> Counter[str]:
    """How many responses of a round were lost to what; numbers that are not finite are logged with where they are.

    Args:
        episodes: Those that came, lost ones included.
        missing: How many did not come.
    """
    lost = Counter(map(_lost_to, (episode for episode in episodes if not episode.is_trainable)))
    if missing:
        lost["runners that died, hung, raised or were not back yet (see the log)"] = missing
    for what in lost:
        if what.startswith(FloatingPointError.__name__):
            logger.error("%d responses lost to %s", lost[what], what)
    return lost


def _lost_to(episode: TokenEpisode) -> str:
    """The name of the error; where a number is not finite the runner and the weights, too."""
    if episode.error != FloatingPointError.__name__:
        return episode.error or episode.stop_reason.value
    what = episode.message.partition(" at token")[0]
    return f"{episode.error} in runner {episode.runner} with weights {episode.weights_version} ({what})"
