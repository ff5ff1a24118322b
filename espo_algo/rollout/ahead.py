"""The batch that the runners write while the learners learn from the one before.

- :class:`Batch`: responses with what they were asked and written with.
- :class:`BatchAhead`: the next one: none, being written, or whole.

The order of an iteration, with batch ``k`` written by the weights before the last ones::

    take k -> launch k + 1 with the newest weights -> update on k -> wait for all of k + 1 -> send new weights

So every batch but a run's first is learnt from by weights exactly one update newer than those that finished it, in the
order of the plans: whole batches, never whatever is finished first, which would favour short responses. Between two
iterations nothing is being written, the next batch is here: an evaluation meets idle runners, and a checkpoint holds
the episodes themselves. To write them again after a restore would take the weights before the last ones; with them a
run that was saved, one that was restored and one that was left alone go on with the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ray.rllib.env.env_runner_group import EnvRunnerGroup

from espo_algo.errors import TrainingError
from espo_algo.limits import WaitLimit
from espo_algo.rollout.carried import Asked
from espo_algo.rollout.runners import Answers, Rollout
from espo_env.early_stopping import DetectorState

__all__ = ["Batch", "BatchAhead"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Responses to plans of a run.

    Attributes:
        asked: What was asked.
        version: Of the weights that write the answers.
        detector: The state that the detector runs with.
        answers: What came.
    """

    asked: Asked
    version: int
    detector: DetectorState
    answers: Answers = field(default_factory=Answers)


class BatchAhead:
    """The next batch of a run: none, being written by the runners, or whole.

    Args:
        limit: How long a rollout may take.
    """

    def __init__(self, limit: WaitLimit) -> None:
        self._limit = limit
        self._rollout: Rollout | None = None
        self._batch: Batch | None = None

    def launch(self, group: EnvRunnerGroup, batch: Batch, traces: bool) -> None:
        """Has the runners write a batch; returns at once.

        Args:
            group: Its remote runners have the batch's weights.
            batch: Without answers.
            traces: As for :class:`~espo_algo.rollout.runners.Rollout`.
        """
        asked = batch.asked
        self._rollout, self._batch = Rollout(group, asked.plans, batch.version, traces, asked.enough), batch

    def wait(self) -> None:
        """Waits until nothing is being written; answers of runners that died, hung or raised are missing.

        Raises:
            TrainingError: If a response was finished by other weights than the batch's.
        """
        if self._rollout is None or self._batch is None:
            return
        batch = replace(self._batch, answers=self._rollout.wait(self._limit))
        self._rollout, self._batch = None, batch
        versions = {episode.weights_version for episode in batch.answers.episodes.values() if episode.is_trainable}
        if versions - {batch.version}:
            raise TrainingError(f"expected responses finished by weights {batch.version}, got {sorted(versions)}")

    def take(self) -> Batch | None:
        """The batch, whole, which is then the caller's; None where there is none."""
        batch = self.get_state()
        self._batch = None
        return batch

    def get_state(self) -> Batch | None:
        """The batch, whole; for a checkpoint."""
        self.wait()
        return self._batch

    def set_state(self, batch: Batch | None) -> None:
        """Takes over what :meth:`get_state` gave; what is being written is forgotten."""
        self._rollout, self._batch = None, batch
