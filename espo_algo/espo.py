"""Early-stopping PPO (ESPO, arXiv 2605.29860) on RLlib.

- :class:`ESPO`: the algorithm. ``training_step`` is all of it::

      problems -> engine + detector -> graded episodes -> PPO on whole responses -> regret state -> weights

The step regret, the detector and its control are in ``espo_env.early_stopping``; the engines run the detector while
they decode; the losses are plain PPO's.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
    WEIGHTS_SEQ_NO,
)

from espo_algo.config import ESPOConfig
from espo_algo.episodes import TokenEpisode
from espo_algo.learning.batching import WholeEpisodeTrainingData
from espo_algo.metrics import log_rollouts
from espo_algo.rollout.collect import ResponsePlan
from espo_algo.rollout.env_runner import ESPOEnvRunner, response_seed
from espo_algo.weight_sync.packing import broadcast_weights, first_result
from espo_env.early_stopping import FailureDetector
from espo_env.tasks.order import ProblemOrder

__all__ = ["ESPO"]

_DRIVER_STATE = "espo"


class ESPO(PPO):
    """Early-stopping PPO: plain PPO whose rollouts end where they are failing.

    Attributes:
        latest_episodes: The responses that the last iteration learnt from.
    """

    config: ESPOConfig
    latest_episodes: list[TokenEpisode]
    _responses_planned: int

    @classmethod
    def get_default_config(cls) -> ESPOConfig:
        """RLlib asks for it."""
        return ESPOConfig()

    def training_step(self) -> None:
        """One iteration: sample, update, adapt, synchronise."""
        with self._timer(ENV_RUNNER_SAMPLING_TIMER):
            # The engines stop a response where its regret outgrows what the critic's value allows.
            self.latest_episodes = episodes = self._sample()
        with self._timer(LEARNER_UPDATE_TIMER):
            # PPO sees shorter responses that end in `fail_reward`; objective and GAE are untouched.
            self._update(episodes)
        # Statistics, tolerance and warm-up for the next batch; frozen while it is collected.
        self._adapt(episodes)
        with self._timer(SYNCH_WORKER_WEIGHTS_TIMER):
            self._sync(self.env_runner_group)

    def _sample(self) -> list[TokenEpisode]:
        """Collects a batch of responses from all runners, and logs what they are like.

        Raises:
            RuntimeError: If several rounds in a row brought nothing.
        """
        for _ in range(self.config.max_empty_rounds):
            plans = self._next_plans()
            episodes = self._run(plans)
            self.metrics.log_value("num_missing_episodes_lifetime", len(plans) - len(episodes), reduce="lifetime_sum")
            trainable = [episode for episode in episodes if episode.is_trainable]
            log_rollouts(self.metrics, episodes, key=(ENV_RUNNER_RESULTS,))
            if len(trainable) >= max(1, self.config.num_learners):
                return trainable
            self.restore_env_runners(self.env_runner_group)
        raise RuntimeError(
            f"expected responses to train on, got none in {self.config.max_empty_rounds} rounds of "
            f"{len(plans)}; lost to {sorted({e.error for e in episodes if e.error})}; see the runners' logs"
        )

    def _run(self, plans: list[ResponsePlan]) -> list[TokenEpisode]:
        """Shares the plans out over the runners; the episodes come back in the plans' order, whoever wrote them."""
        if not self.env_runner_group.num_remote_workers():
            return self.env_runner.sample(plans=plans)
        runners, newest = self.env_runner_group.healthy_worker_ids(), self._newest_weights()
        shares = {runner: range(i, len(plans), len(runners)) for i, runner in enumerate(runners)}

        def sample(runner: ESPOEnvRunner) -> list[tuple[int, TokenEpisode]] | None:
            if runner.weights_version != newest:
                return None  # restarted since the last sync, and nobody has noticed
            share = shares[runner.worker_index]
            return list(zip(share, runner.sample(plans=[plans[i] for i in share]), strict=True))

        batches = list(self.env_runner_group.foreach_env_runner(sample, local_env_runner=False))
        if None in batches:
            self._sync(self.env_runner_group)
        numbered = [pair for batch in batches for pair in batch or ()]
        return [episode for _, episode in sorted(numbered, key=lambda pair: pair[0])]

    def _next_plans(self) -> list[ResponsePlan]:
        """What the next batch answers. It depends on the seed and on how much was asked before, on nothing else."""
        config = self.config
        numbers = range(self._responses_planned, self._responses_planned + config.total_train_batch_size)
        self._responses_planned = numbers.stop
        plans = []
        for number in numbers:
            seed = response_seed(config.seed, number)
            # The seed's lower bits decide who is only marked, so that nothing is drawn for it.
            shadow = np.random.default_rng(seed).random() < config.shadow_fraction
            plans.append(ResponsePlan(self._problem_order[number // config.rollouts_per_prompt], seed, bool(shadow)))
        return plans

    def _update(self, episodes: list[TokenEpisode]) -> None:
        """PPO on whole responses."""
        results = self.learner_group.update(
            training_data=WholeEpisodeTrainingData(episodes=episodes),
            timesteps={
                NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
            },
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
            shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _adapt(self, episodes: list[TokenEpisode]) -> None:
        """Takes the batch into the regret state, which lives in the module's buffers on every learner."""
        measured = {
            name: float(self.metrics.peek((LEARNER_RESULTS, DEFAULT_MODULE_ID, name)))
            for name in ("vf_loss", "vf_explained_var", "mismatch_kl", "mismatch_ratio_max")
        }
        control = first_result(
            self.learner_group.foreach_learner(lambda learner: learner.language_module.regret_control)
        )
        control = control.updated(
            episodes,
            FailureDetector(1, **self.config.detector_options),
            measured["vf_loss"],
            measured["vf_explained_var"],
        )

        def store(learner: Any) -> None:
            learner.language_module.regret_control = control

        self.learner_group.foreach_learner(store)
        for name, number in (
            ("beta", control.controller.beta),
            ("warmup_done", float(control.warmup.done)),
            (("mismatch", "kl"), measured["mismatch_kl"]),
            (("mismatch", "ratio_max"), measured["mismatch_ratio_max"]),
        ):
            self.metrics.log_value(name, number, reduce="mean", window=1)

    def _sync(self, group: EnvRunnerGroup) -> None:
        config = self.config
        if config.weight_transfer is None:
            broadcast_weights(self.learner_group, group, config.weight_sync_timeout_s)
            return
        from espo_algo.weight_sync.vllm_transfer import transfer_weights

        transfer_weights(
            self.learner_group,
            group,
            config.weight_transfer,
            config.workers_per_env_runner,
            config.weight_sync_timeout_s,
        )

    def _newest_weights(self) -> int:
        return first_result(self.learner_group.foreach_learner(lambda learner: learner._weights_seq_no))

    def _timer(self, name: str) -> Any:
        # The window makes it this iteration's time; RLlib's default is an average over all of them.
        return self.metrics.log_time((TIMERS, name), reduce="mean", window=1)

    # --- RLlib's life cycle -------------------------------------------------------------------------------------

    def setup(self, config: ESPOConfig) -> None:
        """Checks the task against the model before any actor starts, then builds everything."""
        mdp = config.check_task()
        self._problem_order = ProblemOrder(mdp.task.num_problems(mdp.split), config.seed)
        self._responses_planned = 0
        super().setup(config)
        self._sync(self.env_runner_group)

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Brings restarted runners back, with the learner's weights: the local runner may have none.

        Where none is left it waits for the first one, which may have to start an engine, for up to
        ``env_runner_restore_timeout_s``.
        """
        restored = env_runner_group.probe_unhealthy_env_runners()
        deadline = time.monotonic() + self.config.env_runner_restore_timeout_s
        while env_runner_group.num_remote_workers() and not env_runner_group.num_healthy_remote_workers():
            if time.monotonic() > deadline:
                break
            time.sleep(1)
            restored += env_runner_group.probe_unhealthy_env_runners()
        if restored:
            self._sync(env_runner_group)
        return restored

    def _before_evaluate(self) -> None:
        # RLlib's own sync follows, but it does not wait and may be dropped.
        if self.eval_env_runner_group is not None:
            self._sync(self.eval_env_runner_group)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's evaluation, with a check that it measured the newest weights.

        Raises:
            RuntimeError: If an evaluation runner had others.
        """
        results = super().evaluate(*args, **kwargs)
        newest = self._newest_weights()
        measured = results.get(ENV_RUNNER_RESULTS, {}).get(WEIGHTS_SEQ_NO, newest)
        if measured != newest:
            raise RuntimeError(f"expected evaluation runners with weights {newest}, got {measured}")
        return results

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and how many responses were planned: where the order of problems and seeds goes on."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(_DRIVER_STATE, components, not_components):
            state[_DRIVER_STATE] = {"responses_planned": self._responses_planned}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes a state over, and sends the weights to every runner."""
        super().set_state(state)
        if _DRIVER_STATE in state:
            self._responses_planned = state[_DRIVER_STATE]["responses_planned"]

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restores a checkpoint, or a component of it, and sends the weights to every runner."""
        super().restore_from_path(path, *args, **kwargs)
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                self._sync(group)
