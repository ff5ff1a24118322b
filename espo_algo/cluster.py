"""What a run asks of the cluster.

- :class:`ActorGroup`, :func:`actor_groups`: the actors that a configuration starts, and what each asks for.
- :func:`check_cluster`: that the cluster has it; Ray by itself waits without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
import torch

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["ActorGroup", "actor_groups", "check_cluster"]


@dataclass(frozen=True)
class ActorGroup:
    """Actors of one kind.

    Attributes:
        kind: ``"env runner"``, ``"evaluation runner"`` or ``"learner"``.
        count: How many.
        resources: What each asks for, by Ray's names.
        setting: The keyword that says how many.
    """

    kind: str
    count: int
    resources: Mapping[str, float]
    setting: str

    def __str__(self) -> str:
        each = ", ".join(f"{amount:g} {name}" for name, amount in self.resources.items()) or "nothing"
        return f"{self.count} {self.kind}{'s' * (self.count > 1)} with {each}{' each' * (self.count > 1)}"


def actor_groups(config: ESPOConfig) -> list[ActorGroup]:
    """The actors that a configuration starts; whatever has none works in the driver's own process."""
    evaluation = config.get_evaluation_config_object() if config.evaluation_interval else None
    cpus = config.num_cpus_per_learner
    learner_cpus = float(not config.num_gpus_per_learner) if cpus == "auto" else cpus  # as RLlib does
    groups = [
        ("env runner", config.num_env_runners, _runner_resources(config), ".env_runners(num_env_runners)"),
        (
            "evaluation runner",
            0 if evaluation is None else config.evaluation_num_env_runners,
            _runner_resources(config if evaluation is None else evaluation),
            ".evaluation(evaluation_num_env_runners)",
        ),
        (
            "learner",
            config.num_learners,
            {"CPU": learner_cpus, "GPU": config.num_gpus_per_learner, **(config.custom_resources_per_learner or {})},
            ".learners(num_learners)",
        ),
    ]
    return [
        ActorGroup(kind, count, {name: amount for name, amount in resources.items() if amount}, setting)
        for kind, count, resources, setting in groups
        if count
    ]


def check_cluster(config: ESPOConfig) -> None:
    """Checks that the cluster has what the actors ask for; starts Ray where there are any and it does not run yet.

    Nodes that an autoscaler would add do not count: have them started first (``ray.autoscaler.sdk.request_resources``).

    Raises:
        ValueError: Naming what is needed, what the cluster has, and the setting that mends it.
    """
    if not config.num_learners and config.num_gpus_per_learner > (here := torch.cuda.device_count()):
        raise ValueError(
            f"expected .learners(num_gpus_per_learner) of at most the GPUs that PyTorch finds here ({here}), as "
            f"num_learners=0 learns in this process, got {config.num_gpus_per_learner}"
        )
    groups = actor_groups(config)
    if not groups:
        return
    if not ray.is_initialized():
        ray.init()
    needed: dict[str, float] = {}
    for group in groups:
        for name, amount in group.resources.items():
            needed[name] = needed.get(name, 0) + group.count * amount
    has = ray.cluster_resources()
    for name, amount in needed.items():
        if amount > has.get(name, 0):
            asking = [group for group in groups if name in group.resources]
            raise ValueError(
                f"expected a cluster with {amount:g} {name} for {' and '.join(map(str, asking))}, got one with "
                f"{has.get(name, 0):g}: lower {' or '.join(group.setting for group in asking)}, or start more nodes"
            )


def _runner_resources(config: ESPOConfig) -> dict[str, float]:
    own = config.custom_resources_per_env_runner or {}
    return {"CPU": config.num_cpus_per_env_runner, "GPU": config.num_gpus_per_env_runner, **own}
