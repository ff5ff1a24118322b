"""What the iterations of a training run learn from.

- :class:`Batches`: collects one batch after the other; with ``batches_ahead`` the next one is written meanwhile.
- :class:`Sampled`: what an iteration has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from espo_algo.episodes import TokenEpisode
from espo_algo.errors import TrainingError
from espo_algo.limits import WaitLimit
from espo_algo.metrics import carried_metrics, log_rollouts
from espo_algo.rollout.ahead import Batch, BatchAhead
from espo_algo.rollout.carried import Asked, Carried
from espo_algo.rollout.dynamic_sampling import choose_batch, log_dropped, with_spread
from espo_algo.rollout.next_plans import NextPlans
from espo_algo.rollout.plans import Planner
from espo_algo.rollout.runners import Answers, count_lost
from espo_algo.rollout.stop_rates import StopRates
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
        stop_rates: What the controller answers to, see :class:`~espo_algo.rollout.stop_rates.StopRates`; None for the
            share of the responses.
    """

    responses: list[TokenEpisode]
    batch: list[TokenEpisode]
    detector: DetectorState | None
    stop_rates: Sequence[float] | None = None


@dataclass(slots=True)
class _Tally:
    """What the rounds of an iteration have brought beside responses: what was lost to what, tokens, stop rates."""

    lost: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    stop_rates: list[float] = field(default_factory=list)


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
        self._carried = Carried()
        self._stop_rates = StopRates()

    def next(self, algo: ESPO) -> Sampled:
        """The next batch: what was written ahead, or else what the algorithm's runners write now; logs its metrics.

        Raises:
            TrainingError: If several rounds in a row brought nothing, naming what was lost to what, and where; if a
                response is older than it may be.
        """
        config = algo.config
        size, further_rounds = config.total_train_batch_size, config.dynamic_sampling_rounds
        # The critic learns from all responses while it is trained alone, and every one runs on.
        if pretraining := _pretrains_critic(algo):
            further_rounds = 0
        ahead, episodes, tally = self._take_ahead(algo), list[TokenEpisode](), _Tally()
        for number in range(config.max_empty_rounds):
            if ahead is not None and number == 0:
                episodes += self._taken(algo, ahead.asked, ahead.answers, size, ahead.version, tally)
            else:
                episodes += self._collect(algo, size, tally, pretraining)
            if len({episode.group for episode in episodes if episode.is_trainable}) >= max(1, config.num_learners):
                break
            algo.restore_env_runners(algo.env_runner_group)
        else:
            raise TrainingError(
                f"expected responses to train on, got none in {config.max_empty_rounds} rounds of {size}; lost: "
                + "; ".join(f"{count} to {what}" for what, count in tally.lost.most_common(_SHOWN))
                + "".join(f"; the last one: {episode.message}" for episode in episodes[-1:] if episode.message)
            )
        for _ in range(further_rounds):
            teaching = with_spread([episode for episode in episodes if episode.is_trainable])
            if not (prompts := (size - len(teaching)) // config.rollouts_per_prompt):
                break
            episodes += self._collect(algo, prompts * config.rollouts_per_prompt, tally)
        log_rollouts(algo.metrics, episodes, key=(ENV_RUNNER_RESULTS,), tokens=tally.tokens)
        responses = batch = [episode for episode in episodes if episode.is_trainable]
        if config.dynamic_sampling_rounds:
            batch = choose_batch(responses, size)
            log_dropped(algo.metrics, responses, batch)
        detector = None if ahead is None else ahead.detector
        if not config.unfinished_fraction:
            return Sampled(responses, batch, detector)
        self._log_carried(algo, batch)
        return Sampled(responses, batch, detector, tally.stop_rates)

    def launch(self, algo: ESPO) -> None:
        """Has the runners write what the next iteration learns from, with the newest weights; returns at once."""
        asked = self._ask(algo, algo.config.total_train_batch_size, _pretrains_critic(algo, updates=1))
        version, detector = algo.version_sent(algo.env_runner_group), algo.early_stopping_state().detector_state
        self._ahead.launch(algo.env_runner_group, Batch(asked, version, detector), algo.traces)

    def wait(self) -> None:
        """Waits for all that :meth:`launch` has begun, and for nothing where nothing was."""
        self._ahead.wait()

    @property
    def num_planned(self) -> int:
        """Responses planned so far, those included that are not learnt from yet."""
        return self._plans.number

    def get_state(self) -> dict[str, Any]:
        """How far the run is, what is known of its problems, and what was written and is not learnt from."""
        return {
            **self._plans.get_state(),
            "ahead": self._ahead.get_state(),
            "carried": self._carried.get_state(),
            "stop_rates": self._stop_rates.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` gave."""
        self._plans.set_state(state)
        if "carried" not in state:  # in older checkpoints: the run goes on with the next plans
            nothing = {"ahead": None, "carried": Carried().get_state()}
            state = state | nothing | {"stop_rates": StopRates(first=self._plans.number).get_state()}
        self._ahead.set_state(state["ahead"])
        self._carried.set_state(state["carried"])
        self._stop_rates.set_state(state["stop_rates"])

    def _take_ahead(self, algo: ESPO) -> Batch | None:
        """What was written beside the last update; None where nothing was.

        Nor where it is not exactly one update behind, as after a restore of the learners alone, or is not wanted any
        more: its plans are answered again.
        """
        if (batch := self._ahead.take()) is None:
            return None
        lag = algo.version_sent(algo.env_runner_group) - batch.version
        if lag != algo.config.batches_ahead:
            self._carried.ask_again(batch.asked)
            return None
        numbers = {"lag": lag, "sampling_s": batch.answers.seconds}
        algo.metrics.log_dict(numbers, key="ahead", reduce="mean", window=1)
        return batch

    def _ask(self, algo: ESPO, count: int, all_marked: bool) -> Asked:
        """What a batch of this size takes: what is carried on, then the next responses of the run."""
        config, version = algo.config, algo.version_sent(algo.env_runner_group)
        return self._carried.ask(
            self._plans,
            count,
            version,
            fraction=config.unfinished_fraction,
            max_updates=config.max_carried_updates,
            all_marked=all_marked,
        )

    def _collect(self, algo: ESPO, count: int, tally: _Tally, all_marked: bool = False) -> list[TokenEpisode]:
        """Has the runners write responses now, see :meth:`_taken`."""
        group = algo.env_runner_group
        asked, version = self._ask(algo, count, all_marked), algo.version_sent(group)
        return self._taken(algo, asked, algo.collect(group, asked.plans, asked.enough), count, version, tally)

    def _taken(
        self, algo: ESPO, asked: Asked, answers: Answers, count: int, version: int, tally: _Tally
    ) -> list[TokenEpisode]:
        """The responses to be learnt from, after these answers; those of runners that died are missing."""
        came = answers.episodes.keys() | answers.unfinished.keys()
        missing = [number for place, number in enumerate(asked.numbers) if place not in came]
        picked = self._carried.pick(asked, answers, count, version, algo.config.max_carried_updates)
        episodes = [*picked.values()]
        algo.metrics.log_value("num_missing_episodes_lifetime", len(missing), reduce="lifetime_sum")
        tally.lost += count_lost(episodes, len(missing))
        tally.tokens += answers.tokens
        tally.stop_rates += self._stop_rates.known(algo.config.total_train_batch_size, picked, missing)
        self._plans.answered(episodes)
        return episodes

    def _log_carried(self, algo: ESPO, batch: Sequence[TokenEpisode]) -> None:
        config = algo.config
        numbers = carried_metrics(batch, algo.version_sent(algo.env_runner_group))
        if (lag := numbers["lag_max"]) > (most := config.max_carried_updates + config.batches_ahead):
            raise TrainingError(f"expected no token older than {most} updates, got one that is {lag:g} updates old")
        counts = {"unfinished": self._carried.num_unfinished, "finished": self._carried.num_finished}
        algo.metrics.log_dict({**numbers, **counts}, key="carried", reduce="mean", window=1)


def _pretrains_critic(algo: ESPO, updates: int = 0) -> bool:
    """Whether the update after so many more trains the critic alone."""
    config = algo.config
    # Who does not pretrain need not ask the learners.
    return config.pretrains_critic(0) and config.pretrains_critic(algo.early_stopping_state().num_updates + updates)
