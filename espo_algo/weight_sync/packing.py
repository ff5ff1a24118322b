"""Module weights as they travel and as they are kept.

- :func:`pack_state`, :func:`unpack_state`: a module's state as numpy arrays and back.
- :func:`broadcast_weights`: from the learner to every runner, or an error.
- :func:`reach_all`: a call on every runner, or an error.
- :func:`first_result`: what the first learner answered.

RLlib's own conversion copies every tensor, cannot express bfloat16, sends tied tensors twice and drops a sync that
meets a busy actor without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.actor_manager import RemoteCallResults
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from torch import Tensor, nn

__all__ = ["broadcast_weights", "first_result", "pack_state", "reach_all", "unpack_state"]

T = TypeVar("T")

_BFLOAT16 = ":bfloat16"
"""Suffix of a name whose bfloat16 tensor travels as int16: numpy has no bfloat16."""


def pack_state(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, np.ndarray]:
    """Parameters and buffers as numpy arrays: views, not copies, of tensors on the CPU.

    Args:
        module: A tied parameter is packed once, under its first name.
        dtype: What the language model's parameters are cast to; None keeps each as it is. Buffers and parameters that
            are named ``value_head`` keep their precision: thresholds are compared with them.

    Returns:
        Arrays by name; a bfloat16 tensor as int16 under a marked name.
    """
    parameters, buffers = _tensors(module)
    packed = {}
    for name, tensor in (parameters | buffers).items():
        tensor = tensor.detach()
        if dtype is not None and name in parameters and "value_head" not in name:
            tensor = tensor.to(dtype)
        tensor = tensor.cpu()
        if tensor.dtype is torch.bfloat16:
            packed[name + _BFLOAT16] = tensor.view(torch.int16).numpy()
        else:
            packed[name] = tensor.numpy()
    return packed


def unpack_state(module: nn.Module, state: dict[str, np.ndarray]) -> None:
    """Copies packed arrays into the module's tensors, cast to the module's dtypes.

    Raises:
        ValueError: If a name is missing or unknown.
    """
    arrays = {}
    with warnings.catch_warnings():
        # Arrays out of Ray's object store are read-only, and are only read here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        for name, array in state.items():
            tensor = torch.from_numpy(np.asarray(array))
            if name.endswith(_BFLOAT16):
                name, tensor = name.removesuffix(_BFLOAT16), tensor.view(torch.bfloat16)
            arrays[name] = tensor
    parameters, buffers = _tensors(module)
    targets = parameters | buffers
    if targets.keys() != arrays.keys():
        raise ValueError(
            f"expected the module's own weights, missing {sorted(targets.keys() - arrays.keys())}, "
            f"unknown {sorted(arrays.keys() - targets.keys())}"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(arrays[name])


def broadcast_weights(learner_group: LearnerGroup, env_runner_group: EnvRunnerGroup, timeout_seconds: float) -> None:
    """Sends the learner's weights and regret state to every healthy runner of the group, and waits until they have it.

    Args:
        learner_group: With remote learners the first one puts its weights into the object store itself.
        env_runner_group: Its local runner is served too.
        timeout_seconds: How long a runner may take.

    Raises:
        RuntimeError: If a runner that is still healthy did not answer in time: it would sample with old weights.
    """

    def collect(learner: Any) -> Any:
        state = learner.get_state(components=COMPONENT_RL_MODULE, inference_only=True)
        state = {key: state[key] for key in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}
        return [state if learner_group_is_local else ray.put(state)]

    learner_group_is_local = learner_group.is_local
    first = None if learner_group_is_local else [0]
    (state,) = first_result(learner_group.foreach_learner(collect, remote_actor_ids=first))
    if env_runner_group.num_remote_workers():
        # Listed, because a bare reference would be fetched before the call instead of inside the runner.
        references = [ray.put(state) if learner_group_is_local else state]

        def receive(runner: Any) -> None:
            runner.set_state(ray.get(references[0]))

        reach_all(env_runner_group, receive, timeout_seconds)
    local = env_runner_group.local_env_runner
    if local is not None:
        local.set_state(state if learner_group_is_local else ray.get(state))


def reach_all(env_runner_group: EnvRunnerGroup, call: Callable[[Any], T], timeout_seconds: float) -> list[T]:
    """Makes a call on every healthy remote runner.

    Returns:
        What the runners answered.

    Raises:
        RuntimeError: If a runner that is still healthy afterwards did not answer in time.
    """

    def numbered(runner: Any) -> tuple[int, T]:
        return int(runner.worker_index), call(runner)

    answers = env_runner_group.foreach_env_runner(numbered, local_env_runner=False, timeout_seconds=timeout_seconds)
    healthy = env_runner_group.healthy_worker_ids()
    if missing := sorted(set(healthy) - {runner for runner, _ in answers}):
        raise RuntimeError(
            f"expected new weights to reach runners {healthy} within {timeout_seconds} s, got no answer from {missing}"
        )
    return [answer for _, answer in answers]


def first_result(results: RemoteCallResults) -> Any:
    """The first learner's answer; what it raised, if it did."""
    return next(iter(results)).get()


def _tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters (a tied one once) and persistent buffers, by name."""
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return dict(module.named_parameters()), buffers
