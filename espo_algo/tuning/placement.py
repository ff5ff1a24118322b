"""What a trial asks of the machine, and how many trials fit at once.

- :func:`trial_resources`: the placement group of a trial: itself, its runners, its learners.
- :func:`trials_at_once`: how many of them the cluster has room for.
- :func:`describe_resources`: the placement group in words.

A trial holds its whole placement group from its start to its end, so that trials cannot take each other's last runner
and wait for ever. One that cannot fit at all would wait for ever, too: that is an error here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray
from ray.tune import PlacementGroupFactory

from espo_algo.cluster import actor_groups
from espo_algo.espo import ESPO

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig

__all__ = ["describe_resources", "trial_resources", "trials_at_once"]

_ITSELF = ".learners(num_cpus_per_learner)"
_DRIVER = ".resources(num_cpus_for_main_process)"


def trial_resources(config: ESPOConfig) -> PlacementGroupFactory:
    """What Ray Tune reserves for a trial: a bundle for itself (with the learner, if that is local), one an actor."""
    return ESPO.default_resource_request(config.to_dict())


def trials_at_once(config: ESPOConfig) -> int:
    """How many trials the running cluster has room for, none of them running yet.

    Raises:
        ValueError: If it is none, naming what a trial needs, what the cluster has, and the settings that mend it.
    """
    needed: dict[str, float] = {}
    for bundle in trial_resources(config).bundles:
        for name, amount in bundle.items():
            needed[name] = needed.get(name, 0) + amount
    has = ray.cluster_resources()
    short = [name for name, amount in needed.items() if amount > has.get(name, 0)]
    if short:
        groups = actor_groups(config)
        settings = [_DRIVER if config.num_learners else _ITSELF, *(group.setting for group in groups)]
        raise ValueError(
            f"expected a cluster with {' and '.join(f'{needed[name]:g} {name}' for name in short)} for a trial ("
            f"{describe_resources(config)}), got one with "
            f"{' and '.join(f'{has.get(name, 0):g} {name}' for name in short)}: lower {' or '.join(settings)} "
            "or what each asks for, such as .env_runners(num_cpus_per_env_runner=0.5), or start more nodes"
        )
    return min(int(has[name] / amount) for name, amount in needed.items() if amount)


def describe_resources(config: ESPOConfig) -> str:
    """What a trial reserves, such as ``itself with 1 CPU; 2 env runners with 1 CPU each``."""
    own = trial_resources(config).bundles[0]
    itself = ", ".join(f"{amount:g} {name}" for name, amount in own.items() if amount) or "nothing"
    return "; ".join([f"itself with {itself}", *map(str, actor_groups(config))])
