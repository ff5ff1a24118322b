"""Learners that each keep a part of the model: PyTorch's FSDP2.

- :func:`shard_module`: spreads a module's weights, and so its gradients and moments, over the learners.
- :func:`keep_only_shards`: lets go of what was gathered for a pass.
- :func:`block_names`: the classes of an architecture's transformer blocks, each of which is gathered by itself.
- :func:`gathered_optimizer_state`, :func:`dealt_optimizer_state`: an optimiser's state, whole and as shards.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.utils.numpy import convert_to_numpy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn import Module
from torch.optim import Optimizer
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from espo_algo.weight_sync.packing import deal, whole

if TYPE_CHECKING:
    from espo_algo.learning.rl_module import LanguageModelRLModule

__all__ = ["block_names", "dealt_optimizer_state", "gathered_optimizer_state", "keep_only_shards", "shard_module"]


def block_names(config: PretrainedConfig) -> frozenset[str]:
    """Class names of an architecture's transformer blocks.

    Raises:
        ValueError: If transformers does not name any.
    """
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not (names := frozenset(model._no_split_modules or ())):
        raise ValueError(f"expected an architecture that names its blocks (_no_split_modules), got {model.__name__}")
    return names


def shard_module(module: LanguageModelRLModule, device: torch.device | str) -> None:
    """Spreads the weights over all processes of the group, each parameter along its first axis, and moves it there.

    A block is gathered for its forward and its backward pass, and its gradients are summed and dealt out right after
    it. Embeddings, last norm and output layer of the policy form the root, which stays gathered from the forward pass
    to the end of the backward pass (the logits are computed in chunks, each twice); those of the critic's trunk are a
    block. The value head is gathered like the root, but computes in float32. It is sharded, too, though it could be
    replicated: its optimiser's parameters are all of one kind then, which foreach kernels and gradient norms ask for.

    Args:
        module: In float32, equal on all processes; what it computes in is its ``dtype``.
        device: This process's. Only a block at a time is there as a whole.
    """
    device = torch.device(device)
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)  # FSDP works on the current one
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    shard = partial(fully_shard, mesh=mesh, mp_policy=MixedPrecisionPolicy(module.dtype, torch.float32))
    model = module.model
    blocks = block_names(model.config)
    for trunk in (model.trunk, model.critic_trunk):
        for part in [] if trunk is None else trunk.modules():
            if type(part).__name__ in blocks:
                shard(part)
    if model.critic_trunk is not None:
        shard(model.critic_trunk)
    fully_shard(model.value_head, mesh=mesh, reshard_after_forward=False)
    shard(module)
    register_fsdp_forward_method(module, "forward_train")


def keep_only_shards(module: Module) -> None:
    """Lets go of weights that a pass without a backward pass has left gathered: they would be outdated one day."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def gathered_optimizer_state(optimizer: Optimizer, keep: bool) -> dict[str, Any] | None:
    """An optimiser's state as arrays on the CPU, with whole moments, as that of one that is not sharded.

    Args:
        optimizer: Of a sharded module; all learners have to call this.
        keep: False on those that only take part: they get None, and never hold more than a moment.
    """
    state = optimizer.state_dict()
    moments: dict[int, dict[str, Any]] = {}
    for index, entry in state["state"].items():
        for name, tensor in entry.items():
            array = convert_to_numpy(whole(tensor))
            if keep:
                moments.setdefault(index, {})[name] = array
    return {"state": moments, "param_groups": convert_to_numpy(state["param_groups"])} if keep else None


def dealt_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The other way round: this process's part of a whole state. Nothing is communicated.

    Args:
        optimizer: Whose parameters say how their moments are dealt.
        state: What :func:`gathered_optimizer_state` or an optimiser that is not sharded gave, on every process.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {name: deal(torch.tensor(array), parameters[index]) for name, array in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": moments}
