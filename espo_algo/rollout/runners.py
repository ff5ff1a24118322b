"""Responses from a group of runners, and what became of those that did not come.

- :func:`collect_from_runners`: shares plans out, and gathers the episodes.
- :func:`count_lost`: how many responses were lost to what.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence

from ray.rllib.env.env_runner_group import EnvRunnerGroup

from espo_algo.episodes import TokenEpisode
from espo_algo.limits import WaitLimit
from espo_algo.rollout.env_runner import ESPOEnvRunner
from espo_algo.rollout.plans import ResponsePlan, share_out
from espo_algo.weight_sync.calls import replace_runners

__all__ = ["collect_from_runners", "count_lost"]

logger = logging.getLogger(__name__)


def collect_from_runners(
    group: EnvRunnerGroup, plans: Sequence[ResponsePlan], version: int, limit: WaitLimit, traces: bool = True
) -> tuple[dict[int, TokenEpisode], bool]:
    """Shares plans out over a group's healthy runners; the local one answers all of them where there are no others.

    Args:
        group: A runner of it that hangs or raises is restarted.
        plans: What to answer.
        version: That of the weights that were sent to the group last. A runner that has others answers nothing.
        limit: How long to wait; takes in how long it took.
        traces: Whether episodes bring all their columns, see :meth:`ESPOEnvRunner.sample`.

    Returns:
        Place of a plan -> its episode, in the plans' order, whoever wrote them; and whether a runner had other weights.
    """
    if not group.num_remote_workers():
        return dict(enumerate(group.local_env_runner.sample(plans=plans, traces=traces))), False
    runners = group.healthy_worker_ids()
    if not runners:
        return {}, False
    shares = dict(zip(runners, share_out(plans, len(runners)), strict=True))

    def sample(runner: ESPOEnvRunner, plans: list[ResponsePlan]) -> tuple[int, list[TokenEpisode] | str | None]:
        index = int(runner.worker_index)
        if runner.weights_version != version:
            return index, None  # restarted, and nobody has noticed
        try:
            return index, runner.sample(plans=plans, traces=traces)
        except Exception as error:  # else RLlib would end the process, and only its own log would say why
            logger.exception("runner %d", index)
            return index, f"{type(error).__name__}: {error}"

    start = time.monotonic()
    answers = dict(
        group.foreach_env_runner(
            [sample] * len(runners),
            # To each its own: all plans to all runners would grow with the square of their number.
            kwargs=[{"plans": [plans[place] for place in shares[runner]]} for runner in runners],
            local_env_runner=False,
            remote_worker_ids=runners,
            timeout_seconds=limit.seconds,
        )
    )
    if hung := set(group.healthy_worker_ids()) & set(runners) - answers.keys():
        replace_runners(group, hung, f"expected its responses within {limit.seconds:g} s, got none")
    else:
        limit.took(time.monotonic() - start)
    episodes: dict[int, TokenEpisode] = {}
    for index, answer in answers.items():
        if isinstance(answer, str):
            replace_runners(group, [index], f"with weights {version} it raised {answer}")
        else:
            episodes |= zip(shares[index], answer or (), strict=False)
    return dict(sorted(episodes.items())), None in answers.values()


def count_lost(episodes: Sequence[TokenEpisode], planned: int) -> Counter[str]:
    """How many responses of a round were lost to what; numbers that are not finite are logged with where they are.

    Args:
        episodes: Those that came, lost ones included.
        planned: How many there should be.
    """
    lost = Counter(map(_lost_to, (episode for episode in episodes if not episode.is_trainable)))
    if missing := planned - len(episodes):
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
