"""The Gymnasium ids of this package; importing ``espo_env`` registers them.

- :func:`make_env`, :func:`make_vector_env`: the entry points behind every id. With ``signals`` or ``early_stopping``
  they put the failure detector around.
- :data:`TASKS`: id, task and horizon of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import gymnasium as gym

from espo_env.imports import import_object
from espo_env.tasks.base import Split, Task
from espo_env.token_env import TokenGenerationEnv
from espo_env.token_mdp import Horizon
from espo_env.token_vector_env import AutoresetMode, TokenGenerationVectorEnv
from espo_env.wrappers import RegretTermination, VectorRegretTermination
from espo_env.wrappers.signals import SignalsFunction

__all__ = ["TASKS", "make_env", "make_vector_env", "register_envs"]

TASKS: dict[str, dict[str, Any]] = {
    "espo_env/Arithmetic-v0": {"task": "espo_env.tasks.arithmetic:ArithmeticTask", "max_new_tokens": 48},
    "espo_env/Walk-v0": {"task": "espo_env.tasks.walk:WalkTask", "max_new_tokens": 40},
    "espo_env/Cycle-v0": {"task": "espo_env.tasks.walk:CycleTask", "max_new_tokens": 40},
    "espo_env/ReasoningGym-v0": {
        "task": "espo_env.tasks.reasoning_gym:ReasoningGymTask",
        "generator": "chain_sum",
        "max_new_tokens": 96,
    },
    "espo_env/Math-v0": {"task": "espo_env.tasks.math:MathTask", "max_new_tokens": 1024},
    "espo_env/TokenGeneration-v0": {},
}
"""Id -> default keyword arguments. Further keyword arguments go to the task's class."""

_tasks: WeakValueDictionary[str, Task] = WeakValueDictionary()
"""Tasks in use by class and arguments: training and evaluation environments of a process share one, with its data."""


def make_env(
    task: Task | str,
    max_new_tokens: int,
    split: Split = "train",
    horizon: Horizon = "terminal",
    render_mode: str | None = None,
    signals: SignalsFunction | None = None,
    early_stopping: Mapping[str, Any] | None = None,
    **task_kwargs: Any,
) -> TokenGenerationEnv | RegretTermination:
    """Builds an environment from a task, or from a task's class by name.

    Args:
        task: A task, or ``"module:Class"``.
        max_new_tokens: Horizon of a response, in tokens.
        split: ``"train"`` or ``"eval"``.
        horizon: ``"terminal"`` or ``"truncation"``.
        render_mode: ``"ansi"``, ``"html"`` or None.
        signals: Gives regret and value of plain actions, see :mod:`espo_env.signals`: the environment stops failing
            responses, and its actions stay token ids, for libraries that know no others.
        early_stopping: Keyword arguments of :class:`RegretTermination`. Without ``signals`` an action then says regret
            and value itself.
        **task_kwargs: Keyword arguments of the task's class.
    """
    env = TokenGenerationEnv(
        _make_task(task, task_kwargs),
        max_new_tokens=max_new_tokens,
        split=split,
        horizon=horizon,
        render_mode=render_mode,
    )
    if signals is None and early_stopping is None:
        return env
    return _BuiltWithTermination(env, signals=signals, **(early_stopping or {}))


def make_vector_env(
    task: Task | str,
    max_new_tokens: int,
    num_envs: int = 1,
    split: Split = "train",
    horizon: Horizon = "terminal",
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    copy: bool = True,
    signals: SignalsFunction | None = None,
    early_stopping: Mapping[str, Any] | None = None,
    **task_kwargs: Any,
) -> TokenGenerationVectorEnv | VectorRegretTermination:
    """Builds a vector environment; like :func:`make_env`, see :class:`TokenGenerationVectorEnv` for the rest."""
    env = TokenGenerationVectorEnv(
        _make_task(task, task_kwargs),
        num_envs,
        max_new_tokens=max_new_tokens,
        split=split,
        horizon=horizon,
        autoreset_mode=autoreset_mode,
        render_mode=render_mode,
        copy=copy,
    )
    if signals is None and early_stopping is None:
        return env
    return VectorRegretTermination(env, signals=signals, **(early_stopping or {}))


def register_envs() -> None:
    """Registers every id of :data:`TASKS` with Gymnasium."""
    for env_id, kwargs in TASKS.items():
        gym.register(
            env_id,
            entry_point=f"{__name__}:make_env",
            vector_entry_point=f"{__name__}:make_vector_env",
            kwargs=dict(kwargs),
        )


class _BuiltWithTermination(RegretTermination):
    """The wrapper as part of what an id builds: the keyword arguments of its spec say all of it."""

    @property
    def spec(self) -> gym.envs.registration.EnvSpec | None:  # type: ignore[override]
        return self.env.spec


def _make_task(task: Task | str, kwargs: dict[str, Any]) -> Task:
    if not isinstance(task, str):
        if kwargs:
            raise ValueError(f"expected no keyword arguments beside a task that is built already, got {sorted(kwargs)}")
        return task
    try:
        key = json.dumps([task, kwargs], sort_keys=True)
    except TypeError:  # an argument that cannot be compared by what it says
        return _task_class(task)(**kwargs)
    built = _tasks.get(key)
    if built is None:
        _tasks[key] = built = _task_class(task)(**kwargs)
    return built


def _task_class(task: str) -> type[Task]:
    """Looked at before it is called: a name in a configuration may lead anywhere."""
    found = import_object(task, "a task or 'module:Class'")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ValueError(f"expected a class of tasks at {task!r}, got {found!r}")
    return found
