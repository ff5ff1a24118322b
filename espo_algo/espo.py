"""Early-stopping PPO (ESPO, arXiv 2605.29860) on RLlib.

- :class:`ESPO`: the algorithm. ``training_step`` is all of it::

      problems -> engine + detector -> graded episodes -> PPO on whole responses -> early-stopping state -> weights

  With ``batches_ahead=1`` the first half works on the next batch while the second half learns (``rollout/ahead.py``);
  with ``unfinished_fraction`` it ends when enough responses are over, and the next one goes on with the others
  (``rollout/carried.py``).

The step regret, the detector and what moves it are in ``espo_env.early_stopping``; the engines run the detector while
they decode; the losses are plain PPO's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.core import COMPONENT_LEARNER_GROUP, DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from espo_algo.batches import BATCH_AHEAD_TIMER, Batches, Sampled
from espo_algo.cluster import check_cluster
from espo_algo.config import ESPOConfig
from espo_algo.episodes import TokenEpisode
from espo_algo.errors import TrainingError
from espo_algo.evaluation.in_training import evaluate_in_training
from espo_algo.learning.lora import check_base, write_base
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.learning.training_data import WholeEpisodeTrainingData
from espo_algo.limits import WaitLimit
from espo_algo.manifest import MANIFEST, verify_checkpoint, write_manifest
from espo_algo.policy import Policy
from espo_algo.rollout.engines import get_engine
from espo_algo.rollout.plans import Planner, ResponsePlan
from espo_algo.rollout.runners import Answers, collect_from_runners
from espo_algo.weight_sync.calls import ask_learners, check_learners, update_learners
from espo_algo.weight_sync.packing import unpack_pieces
from espo_algo.weight_sync.sync import sync_weights
from espo_env.early_stopping import EarlyStoppingState, FalsePositiveController
from espo_env.tasks.order import ProblemOrder
from espo_env.token_mdp import TokenMDP

__all__ = ["ESPO"]

logger = logging.getLogger(__name__)

_DRIVER_STATE = "espo"
_FOR_EVER = 1e8
"""Seconds; what None means as a limit of RLlib's."""


class ESPO(PPO):
    """Early-stopping PPO: plain PPO whose rollouts end where they are failing.

    Attributes:
        mdp: The training task with its horizon, built once.
        latest_episodes: The responses that the last iteration learnt from.
        batches: What the iterations learn from.
        traces: Whether responses bring all their columns (``TRACE_COLUMNS``), as whoever records them wants; else those
            alone that training reads: what nobody asked for does not travel.
    """

    config: ESPOConfig
    mdp: TokenMDP
    latest_episodes: list[TokenEpisode]
    traces: bool = False
    eval_env_runner_group: EnvRunnerGroup | None
    batches: Batches

    @classmethod
    def get_default_config(cls) -> ESPOConfig:
        """The defaults; RLlib calls this."""
        return ESPOConfig()

    def training_step(self) -> None:
        """One iteration: sample, update, adapt, synchronise."""
        check_learners(self.learner_group)  # before responses are written that nobody learns from
        with self._timer(ENV_RUNNER_SAMPLING_TIMER):
            # The engines stop a response where its regret outgrows what the critic's value allows.
            sampled = self.batches.next(self)
        self.latest_episodes = sampled.batch
        if self.config.batches_ahead:
            self.batches.launch(self)  # the runners write the next batch while the learners learn from this one
        with self._weights_lock:  # a runner that is restarted beside it is sent whole weights, or waits
            with self._timer(LEARNER_UPDATE_TIMER):
                # PPO sees shorter responses; what stands behind their end is `stop_credit`.
                self._update(sampled.batch)
            # Statistics, tolerance and warm-up for the next batch; frozen while it is collected.
            self._adapt(sampled)
        if self.config.batches_ahead:
            with self._timer(BATCH_AHEAD_TIMER):
                self.batches.wait()
        with self._timer(SYNCH_WORKER_WEIGHTS_TIMER):
            self.send_weights(self.env_runner_group)

    def _update(self, episodes: list[TokenEpisode]) -> None:
        """PPO on whole responses."""
        start = time.monotonic()
        results = update_learners(
            self.learner_group,
            WholeEpisodeTrainingData(episodes=[episode.to_learn() for episode in episodes]),
            self._limits["update"].seconds,
            timesteps={
                NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
            },
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
            shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
        )
        self._limits["update"].took(time.monotonic() - start)
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        if skipped := self.metrics.peek((LEARNER_RESULTS, DEFAULT_MODULE_ID, "skipped_steps")):
            self._complain_of_skipped_steps(int(skipped))

    def _complain_of_skipped_steps(self, skipped: int) -> None:
        (in_row, why), *_ = self._ask_learners(lambda learner: (learner.skipped_in_row, learner.skipped_why))
        logger.warning("%d optimiser steps of this iteration were left out, %d in a row: %s", skipped, in_row, why)
        if in_row >= self.config.max_skipped_steps:
            raise TrainingError(
                f"expected less than .fault_tolerance(max_skipped_steps={self.config.max_skipped_steps}) optimiser "
                f"steps in a row without effect, got {in_row}: {why}"
            )

    def _adapt(self, sampled: Sampled) -> None:
        """Updates the state of early stopping with the batch; it is kept in the module's buffers on every learner."""
        measured = {
            name: float(self.metrics.peek((LEARNER_RESULTS, DEFAULT_MODULE_ID, name)))
            for name in ("vf_loss", "vf_explained_var", "mismatch_kl", "mismatch_ratio_max")
        }
        state = self.early_stopping_state().updated(
            sampled.responses,
            self.config.detector_settings,
            measured["vf_loss"],
            measured["vf_explained_var"],
            collected_with=sampled.detector,
            stop_rates=sampled.stop_rates,
        )

        def store(learner: Any) -> None:
            learner.language_module.early_stopping = state

        self._ask_learners(store)
        for name, number in (
            ("beta", state.tolerance.beta),
            ("warmup_done", float(state.warmup.done)),
            (("mismatch", "kl"), measured["mismatch_kl"]),
            (("mismatch", "ratio_max"), measured["mismatch_ratio_max"]),
        ):
            self.metrics.log_value(name, number, reduce="mean", window=1)
        if isinstance(state.tolerance, FalsePositiveController):
            self.metrics.log_dict(
                {"false_positive_bound": state.tolerance.bound, "audited": len(state.tolerance.audited)},
                reduce="mean",
                window=1,
            )

    def early_stopping_state(self) -> EarlyStoppingState:
        """Statistics, tolerance and warm-up, as the learners have them."""
        return self._ask_learners(lambda learner: learner.language_module.early_stopping)[0]

    # --- runners ------------------------------------------------------------------------------------------------

    def collect(self, group: EnvRunnerGroup, plans: Sequence[ResponsePlan], enough: int | None = None) -> Answers:
        """Shares plans out over a group's runners.

        Args:
            group: Training's or evaluation's, whose runners have the weights that were sent to it last.
            plans: What to answer.
            enough: How many have to be over; None for all of them.

        Returns:
            What came. Answers of a runner that died, that was restarted since the weights were sent, that raised or did
            not answer in time (it is restarted) are missing.
        """
        limit = self._limits["sample" if group is self.env_runner_group else "evaluate"]
        answers = collect_from_runners(group, plans, self.version_sent(group), limit, self.traces, enough)
        if answers.outdated:
            self.send_weights(group)
        return answers

    def send_weights(self, group: EnvRunnerGroup) -> int:
        """Sends the learners' weights and state of early stopping to a group's runners, and waits until they have them.

        Returns:
            The version of the weights.
        """
        own = self.config if group is self.env_runner_group else self.evaluation_config
        limit, runners = self._limits["sync"], group.healthy_worker_ids()
        with self._weights_lock:
            start = time.monotonic()
            self._versions[id(group)] = version = sync_weights(self.learner_group, group, own, limit.seconds)
            if group.healthy_worker_ids() == runners:
                limit.took(time.monotonic() - start)
        return version

    def version_sent(self, group: EnvRunnerGroup) -> int:
        """The version of the weights that were sent to a group last."""
        return self._versions[id(group)]

    def evaluation_runners(self) -> EnvRunnerGroup:
        """The evaluation runners; a local one is made where none were configured.

        Raises:
            ValueError: If the engine takes over its process: it needs runners that are actors.
        """
        if self.eval_env_runner_group is None:
            config = self.evaluation_config
            if get_engine(config.engine).needs_process:
                raise ValueError(
                    f"expected .evaluation(evaluation_num_env_runners) >= 1 with engine={config.engine!r}, which takes "
                    "over its process, got 0"
                )
            self.eval_env_runner_group = EnvRunnerGroup(config=config, local_env_runner=True, logdir=self.logdir)
        return self.eval_env_runner_group

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Takes restarted runners back, and sends them the learners' weights (RLlib would send the local runner's).

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
            self.send_weights(env_runner_group)
        return restored

    def _ask_learners(self, call: Any) -> list[Any]:
        return ask_learners(self.learner_group, call, self._limits["sync"].seconds)

    def _timer(self, name: str) -> Any:
        # The window makes it this iteration's time; RLlib's default is an average over all of them.
        return self.metrics.log_time((TIMERS, name), reduce="mean", window=1)

    # --- results ------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        """One iteration, with the evaluation that is due beside or after it; RLlib calls this.

        Evaluation beside training has the weights from before both begin, to its end: new ones that come in the middle
        would be measured together with them.
        """
        config = self.config
        due = config.evaluation_interval and (self.iteration + 1) % config.evaluation_interval == 0
        if due and config.evaluation_parallel_to_training:
            self.send_weights(self.evaluation_runners())
        return super().step()

    def evaluate(self, parallel_train_future: Future[Any] | None = None) -> dict[str, Any]:
        """Answers evaluation problems with the newest weights; see :func:`evaluate_in_training`."""
        return evaluate_in_training(self, parallel_train_future)

    def policy(self) -> Policy:
        """The trained model with the state of early stopping: copies on the CPU, wherever the learners are.

        It is fetched piece by piece, so that where learners are sharded nothing but this copy is ever whole.
        """
        config = self.config
        assert config.model_name is not None
        model = LanguageModelWithCritic.from_pretrained(
            config.model_name, config.critic, vocab_size=self.mdp.vocab_size, weights=False
        )
        with self._weights_lock:  # no update between two pieces
            pieces, state = self._ask_learners(
                lambda learner: (learner.pieces(), learner.language_module.early_stopping)
            )[0]
            unpack_pieces(model, self._pieces_of_model(pieces))
            adapter = self._ask_learners(lambda learner: learner.adapter())[0] if config.lora else None
        return Policy(config.copy(copy_frozen=False), model.eval(), state, adapter=adapter)

    def _pieces_of_model(self, pieces: list[list[str]]) -> Iterator[dict[str, np.ndarray]]:
        own = "model."
        for names in pieces:
            arrays, *_ = self._ask_learners(lambda learner, names=names: learner.piece(names))
            yield {name.removeprefix(own): array for name, array in arrays.items() if name.startswith(own)}

    # --- RLlib's life cycle -------------------------------------------------------------------------------------

    def setup(self, config: ESPOConfig) -> None:
        """Checks the task against the model before any actor starts, then builds everything.

        A runner's constructor gets its configuration by a reference that its group holds as long as it lives, and this
        process owns: Ray keeps the object, so a restart finds it (Ray's warning, ray#53727, is of objects let go).
        """
        self.mdp = config.check_task()
        check_cluster(config)
        order = ProblemOrder(self.mdp.task.num_problems(self.mdp.split), config.seed)
        planner = Planner(
            order.__getitem__, config.seed or 0, config.rollouts_per_prompt, config.shadow_fraction, config.pilots
        )
        self._weights_lock = threading.RLock()
        self._versions: dict[int, int] = {}
        self._limits = {
            name: WaitLimit(most or _FOR_EVER, config.wait_factor, config.wait_floor_s)
            for name, most in (
                ("sample", config.sample_timeout_s),
                ("evaluate", config.evaluation_sample_timeout_s),
                ("update", config.update_timeout_s),
                ("sync", config.weight_sync_timeout_s),
            )
        }
        self.batches = Batches(planner, self._limits["sample"])
        super().setup(config)
        self._send_to_all()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, how many responses were planned, what is known of the problems, and what was written ahead.

        So a restored run goes on with the next problem and seed.
        """
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(_DRIVER_STATE, components, not_components):
            state[_DRIVER_STATE] = self.batches.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes a state over, and sends the weights to every runner."""
        super().set_state(state)
        if _DRIVER_STATE in state:
            self.batches.set_state(state[_DRIVER_STATE])
        if COMPONENT_LEARNER_GROUP in state:
            self._send_to_all()

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Saves a checkpoint; in a local folder with its files' checksums (:mod:`espo_algo.manifest`).

        Raises:
            TrainingError: If a learner is dead.
        """
        check_learners(self.learner_group)
        saved = str(super().save_to_path(path, **kwargs))
        check_learners(self.learner_group)  # RLlib does not look whether they have saved anything
        if Path(saved).is_dir():
            if base := self._lora_base():
                write_base(saved, *base)
            write_manifest(saved)
        return saved

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restores a checkpoint, or a component of it, and sends the weights to every runner.

        Raises:
            BrokenCheckpointError: If the checkpoint has checksums, and a file is not what was written.
            ValueError: If its adapters (LoRA) belong to another model.
        """
        if (Path(path) / MANIFEST).is_file():
            verify_checkpoint(path)
        if base := self._lora_base():
            check_base(path, *base)
        super().restore_from_path(path, *args, **kwargs)
        self._send_to_all()

    def _lora_base(self) -> tuple[str, str, bytes] | None:
        """The frozen model of LoRA: name, dtype, fingerprint; None where all weights are trained."""
        if self.config.lora is None:
            return None
        assert self.config.model_name is not None
        fingerprint = self._ask_learners(lambda learner: learner.language_module.model.fingerprint)[0]
        return self.config.model_name, self.config.dtype, fingerprint

    def _send_to_all(self) -> None:
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                self.send_weights(group)


tune.register_trainable("ESPO", ESPO)
