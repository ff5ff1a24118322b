"""The learners as a group.

- :class:`ESPOLearnerGroup`: RLlib's, for learners that share the weights out among themselves, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_OPTIMIZER
from ray.rllib.core.learner.learner_group import LearnerGroup

from espo_algo.weight_sync.calls import ask_learners

__all__ = ["ESPOLearnerGroup"]

Components = str | Collection[str] | None


class ESPOLearnerGroup(LearnerGroup):
    """RLlib's group of learners.

    It asks its first learner alone for the state. Sharded learners gather that together before, in the first one's
    memory on the CPU, and let it go afterwards: a gathering that only one of them enters would wait for ever.
    """

    def get_state(
        self, components: Components = None, *, not_components: Components = None, **kwargs: Any
    ) -> dict[str, Any]:
        """RLlib's: the state of the learners, or of components of it.

        Raises:
            TrainingError: If a sharded learner does not answer in time, naming it.
        """
        if not self._check_component(COMPONENT_LEARNER, components, not_components):
            return super().get_state(components, not_components=not_components, **kwargs)
        wanted = self._get_subcomponents(COMPONENT_LEARNER, components)
        unwanted = self._get_subcomponents(COMPONENT_LEARNER, not_components)
        optimizer = self._check_component(COMPONENT_OPTIMIZER, wanted, unwanted)
        with self._gathered(optimizer, bool(kwargs.get("inference_only"))):
            return super().get_state(components, not_components=not_components, **kwargs)

    def save_to_path(self, *args: Any, **kwargs: Any) -> str:
        """RLlib's: writes the state of the learners into a folder.

        Raises:
            TrainingError: As :meth:`get_state`.
        """
        with self._gathered(optimizer=True, inference_only=False):
            return str(super().save_to_path(*args, **kwargs))

    @contextmanager
    def _gathered(self, optimizer: bool, inference_only: bool) -> Iterator[None]:
        if self.config.sharding is None:
            yield
            return
        timeout, options = self.config.weight_sync_timeout_s, {"optimizer": optimizer, "inference_only": inference_only}
        ask_learners(self, lambda learner: learner.gather(**options), timeout)
        try:
            yield
        finally:
            ask_learners(self, lambda learner: learner.let_go(), timeout)
