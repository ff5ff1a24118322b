"""Evaluation between, or beside, two training iterations.

- :func:`evaluate_in_training`: what ``ESPO.evaluate`` does.

The responses of all evaluation runners come together before anything is counted: shares and means of single runners
could not be put together again.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, WEIGHTS_SEQ_NO

from espo_algo.episodes import TokenEpisode
from espo_algo.errors import TrainingError
from espo_algo.metrics import rollout_counts, rollout_metrics
from espo_algo.rollout.plans import Planner
from espo_algo.weight_sync.calls import ask_runners

if TYPE_CHECKING:
    from espo_algo.espo import ESPO

__all__ = ["evaluate_in_training"]


def evaluate_in_training(algo: ESPO, training: Future[Any] | None = None) -> dict[str, Any]:
    """Answers problems of the evaluation split with the newest weights.

    They are the first ones of the split, the same ones with the same seeds every time. ``evaluation_duration`` is a
    number of responses, or of tokens (``evaluation_duration_unit="timesteps"``); with ``"auto"`` it goes on, problem
    after problem, until the training iteration beside it is done.

    Args:
        algo: Without evaluation runners it is given a local one.
        training: The training iteration that runs at the same time, if one does. The weights are those from before it.

    Returns:
        ``{"env_runners": ...}``: :func:`~espo_algo.metrics.rollout_metrics` and
        :func:`~espo_algo.metrics.rollout_counts` over all responses, ``num_missing_episodes`` (lost with their
        runners), and the version of the weights.

    Raises:
        TrainingError: If several rounds in a row brought nothing.
    """
    group = algo.evaluation_runners()
    algo.restore_env_runners(group)
    # A training iteration beside this one changes the weights: what the runners have was sent before both began.
    version = algo.send_weights(group) if training is None else algo.version_sent(group)
    logger = {"algorithm": algo, "metrics_logger": algo.metrics}
    make_callback(
        "on_evaluate_start",
        callbacks_objects=algo.callbacks,
        callbacks_functions=algo.config.callbacks_on_evaluate_start,
        kwargs=logger,
    )
    episodes: list[TokenEpisode] = []
    missing = 0
    for numbers in _rounds(algo, episodes, training):
        answered = _answer(algo, group, numbers)
        episodes += answered
        missing += len(numbers) - len(answered)
    counts = {"num_missing_episodes": missing, WEIGHTS_SEQ_NO: version}
    results = {ENV_RUNNER_RESULTS: {**rollout_metrics(episodes), **rollout_counts(episodes), **counts}}
    make_callback(
        "on_evaluate_end",
        callbacks_objects=algo.callbacks,
        callbacks_functions=algo.config.callbacks_on_evaluate_end,
        kwargs={**logger, "evaluation_metrics": results},
    )
    return results


def _rounds(algo: ESPO, episodes: list[TokenEpisode], training: Future[Any] | None) -> Iterator[range]:
    """Yields the numbers of each round's responses, until the caller has put enough into ``episodes``."""
    config = algo.evaluation_config
    if config.evaluation_duration_unit == "episodes" and config.evaluation_duration != "auto":
        yield range(config.evaluation_duration)
        return
    size = max(1, config.num_env_runners) * config.num_envs_per_env_runner
    start = 0
    while True:
        yield range(start, start + size)
        start += size
        if config.evaluation_duration == "auto":
            if training is None or training.done():
                return
        elif sum(map(len, episodes)) >= config.evaluation_duration:
            return


def _answer(algo: ESPO, group: EnvRunnerGroup, numbers: range) -> list[TokenEpisode]:
    """Collects the responses of these numbers; those lost with a dying runner are asked for again."""
    config = algo.evaluation_config
    count = _num_problems(algo, group)
    shadow_fraction = float(config.stops_in_evaluation == "mark")
    planner = Planner(lambda i: i % count, config.seed or 0, config.rollouts_per_prompt, shadow_fraction)
    plans = planner.plans(numbers)
    answered: dict[int, TokenEpisode] = {}
    for _ in range(config.max_empty_rounds):
        todo = [place for place in range(len(plans)) if place not in answered]
        collected = algo.collect(group, [plans[place] for place in todo]).episodes
        answered |= {todo[place]: episode for place, episode in collected.items()}
        if len(answered) == len(plans):
            break
        algo.restore_env_runners(group)
    if not answered:
        raise TrainingError(
            f"expected responses to evaluate, got none in {config.max_empty_rounds} rounds of {len(plans)}; see the "
            "runners' logs"
        )
    return [answered[place] for place in sorted(answered)]


def _num_problems(algo: ESPO, group: EnvRunnerGroup) -> int:
    def count(runner: Any) -> int:
        mdp = runner.env.unwrapped.mdp
        return int(mdp.task.num_problems(mdp.split))

    if not group.num_remote_workers():
        return count(group.local_env_runner)
    counts = ask_runners(group, count, algo.config.weight_sync_timeout_s)
    if not counts:
        raise TrainingError("expected an evaluation runner, got none that is alive")
    return counts[0]
