"""What the iterations of a training run learn from.

- :class:`Batches`: collects one batch after the other; with ``batches_ahead`` the next one is written meanwhile.
- :class:`Sampled`: what an iteration has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from espo_algo.episodes import TokenEpisode
from espo_algo.errors import TrainingError
from espo_algo.limits import WaitLimit
from espo_algo.metrics import log_rollouts
from espo_algo.rollout.ahead import Batch, BatchAhead
from espo_algo.rollout.dynamic_sampling import choose_batch, log_dropped, with_spread
from espo_algo.rollout.next_plans import NextPlans
from espo_algo.rollout.plans import Planner, ResponsePlan
from espo_algo.rollout.runners import count_lost
from espo_env.early_stopping import DetectorState

if TYPE_CHECKING:
    from espo_algo.espo import ESPO

__all__ = ["BATCH_AHEAD_TIMER", "Batches", "Sampled"]

BATCH_AHEAD_TIMER = "batch_ahead_timer"
"""Name of the seconds for which an iteration waits for the next batch, its own update being done."""

_SHOWN = 5
"""Kinds of loss that a message names."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What an iteration has.

    Attributes:
        responses: All that can be learnt from; early stopping adapts to them.
        batch: Those that are learnt from: fewer, where dynamic sampling has brought more.
        detector: The state that the detector ran with; None for the newest one.
    """

    responses: list[TokenEpisode]
    batch: list[TokenEpisode]
    detector: DetectorState | None


class Batches:
    """The batches of a run, in the order of its plans.

    The algorithm is given to each call, not kept: the two would hold each other in memory.

    Args:
        planner: Says what the ``n``-th response of the run is.
        limit: How long a rollout beside an update may take.
    """

    def __init__(self, planner: Planner, limit: WaitLimit) -> None:
        self._plans = NextPlans(planner)
        self._ahead = BatchAhead(limit)

    def next(self, algo: ESPO) -> Sampled:
        """The next batch: what was written ahead, or else what the algorithm's runners write now; logs its metrics.

        Raises:
            TrainingError: If several rounds in a row brought nothing, naming what was lost to what, and where.
        """
        config = algo.config
        size, further_rounds = config.total_train_batch_size, config.dynamic_sampling_rounds
        # The critic learns from all responses while it is trained alone, and every one runs on.
        if pretraining := _pretrains_critic(algo):
            further_rounds = 0
        ahead, episodes, lost = self._take_ahead(algo), list[TokenEpisode](), Counter[str]()
        for number in range(config.max_empty_rounds):
            if ahead is not None and number == 0:
                episodes += self._counted(algo, ahead.plans, ahead.answers.episodes.values(), lost)
            else:
                episodes += self._collect(algo, size, lost, pretraining)
            if len({episode.group for episode in episodes if episode.is_trainable}) >= max(1, config.num_learners):
                break
            algo.restore_env_runners(algo.env_runner_group)
        else:
            raise TrainingError(
                f"expected responses to train on, got none in {config.max_empty_rounds} rounds of {size}; lost: "
                + "; ".join(f"{count} to {what}" for what, count in lost.most_common(_SHOWN))
                + "".join(f"; the last one: {episode.message}" for episode in episodes[-1:] if episode.message)
            )
        for _ in range(further_rounds):
            teaching = with_spread([episode for episode in episodes if episode.is_trainable])
            if not (prompts := (size - len(teaching)) // config.rollouts_per_prompt):
                break
            episodes += self._collect(algo, prompts * config.rollouts_per_prompt, lost)
        log_rollouts(algo.metrics, episodes, key=(ENV_RUNNER_RESULTS,))
        responses = batch = [episode for episode in episodes if episode.is_trainable]
        if config.dynamic_sampling_rounds:
            batch = choose_batch(responses, size)
            log_dropped(algo.metrics, responses, batch)
        return Sampled(responses, batch, None if ahead is None else ahead.detector)

    def launch(self, algo: ESPO) -> None:
        """Has the runners write what the next iteration learns from, with the newest weights; returns at once."""
        first = self._plans.number
        plans = self._plans.take(algo.config.total_train_batch_size, all_marked=_pretrains_critic(algo, updates=1))
        version, detector = algo.version_sent(algo.env_runner_group), algo.early_stopping_state().detector_state
        self._ahead.launch(algo.env_runner_group, Batch(first, plans, version, detector), algo.traces)

    def wait(self) -> None:
        """Waits for all that :meth:`launch` has begun, and for nothing where nothing was."""
        self._ahead.wait()

    @property
    def num_planned(self) -> int:
        """Responses planned so far, those of a batch ahead included."""
        return self._plans.number

    def get_state(self) -> dict[str, Any]:
        """How far the run is, what is known of its problems, and what was written ahead."""
        return {**self._plans.get_state(), "ahead": self._ahead.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` gave."""
        self._plans.set_state(state)
        self._ahead.set_state(state.get("ahead"))  # which older checkpoints do not have

    def _take_ahead(self, algo: ESPO) -> Batch | None:
        """What was written beside the last update; None where nothing was.

        Nor where it is not exactly one update behind, as after a restore of the learners alone, or is not wanted any
        more: its plans are answered again.
        """
        if (batch := self._ahead.take()) is None:
            return None
        lag = algo.version_sent(algo.env_runner_group) - batch.version
        if lag != algo.config.batches_ahead:
            self._plans.number = batch.first
            return None
        numbers = {"lag": lag, "sampling_s": batch.answers.seconds}
        algo.metrics.log_dict(numbers, key="ahead", reduce="mean", window=1)
        return batch

    def _collect(self, algo: ESPO, count: int, lost: Counter[str], all_marked: bool = False) -> list[TokenEpisode]:
        """The next responses of the run, see :meth:`_counted`."""
        plans = self._plans.take(count, all_marked=all_marked)
        return self._counted(algo, plans, algo.collect(algo.env_runner_group, plans).values(), lost)

    def _counted(
        self, algo: ESPO, plans: Sequence[ResponsePlan], answers: Iterable[TokenEpisode], lost: Counter[str]
    ) -> list[TokenEpisode]:
        """The responses to these plans; those of runners that died are missing; what was lost is added to ``lost``."""
        episodes = [*answers]
        algo.metrics.log_value("num_missing_episodes_lifetime", len(plans) - len(episodes), reduce="lifetime_sum")
        lost += count_lost(episodes, len(plans))
        self._plans.answered(episodes)
        return episodes


def _pretrains_critic(algo: ESPO, updates: int = 0) -> bool:
    """Whether the update after so many more trains the critic alone."""
    config = algo.config
    # Who does not pretrain need not ask the learners.
    return config.pretrains_critic(0) and config.pretrains_critic(algo.early_stopping_state().num_updates + updates)
