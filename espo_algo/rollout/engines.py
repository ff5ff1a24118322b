"""Engines by name, as ``.generation(engine=...)`` takes them.

- :class:`EngineKind`: how an engine is built, and what it needs of its process.
- :data:`ENGINES`, :func:`register_engine`, :func:`get_engine`: the registered ones.

An engine's code is imported when one is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from espo_algo.rollout.engine import Engine, EngineSettings
from espo_env.imports import import_object

if TYPE_CHECKING:
    from espo_algo.learning.model import LanguageModelWithCritic

__all__ = ["ENGINES", "EngineKind", "get_engine", "register_engine"]


@dataclass(frozen=True, slots=True)
class EngineKind:
    """How an engine is built, and what it needs of its process.

    Attributes:
        factory: ``"module:Class"``, called as ``Class(model, EngineSettings)``.
        needs_process: It takes over its process, so every runner has to be an actor.
        needs_gpu: It runs on GPUs alone.
        owns_gpus: It has the runner's GPUs to itself, and copies the weights out of a module on the CPU.
        takes_options: Whether ``engine_options`` mean anything to it.
        weight_transfers: Backends by which weights may arrive beside Ray's object store.
        requirements: ``"module:function"``, called as ``function(architecture, weight_transfer)`` before any actor
            starts; raises an ImportError or ValueError where it cannot run the model. None where any model will do.
    """

    factory: str
    needs_process: bool = False
    needs_gpu: bool = False
    owns_gpus: bool = False
    takes_options: bool = False
    weight_transfers: tuple[str, ...] = ()
    requirements: str | None = None

    def build(self, model: LanguageModelWithCritic, settings: EngineSettings) -> Engine:
        """Builds the engine, in this process."""
        return import_object(self.factory, "an engine as 'module:Class'")(model, settings)

    def check_requirements(self, architecture: str, weight_transfer: str | None) -> None:
        """Checks that the engine is installed and supports the model.

        Args:
            architecture: Name of the language model's transformers class.
            weight_transfer: Backend, or None.

        Raises:
            ImportError: If what it needs is not installed.
            ValueError: If it does not support the architecture.
        """
        if self.requirements is not None:
            check: Any = import_object(self.requirements, "a check as 'module:function'")
            check(architecture, weight_transfer)


_engines = {
    "torch": EngineKind("espo_algo.rollout.embedded.engine:TorchEngine"),
    "vllm": EngineKind(
        "espo_algo.rollout.vllm.engine:VLLMEngine",
        needs_process=True,
        owns_gpus=True,
        takes_options=True,
        weight_transfers=("nccl", "ipc"),
        requirements="espo_algo.rollout.vllm.support:check_vllm",
    ),
}
ENGINES: Mapping[str, EngineKind] = MappingProxyType(_engines)
"""All registered kinds by name; read-only, see :func:`register_engine`."""


def get_engine(name: str) -> EngineKind:
    """The kind of that name, or the :class:`EngineKind` at ``"module:NAME"``, which every process finds by itself.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    if name in _engines:
        return _engines[name]
    if ":" not in str(name):
        raise ValueError(f"expected an engine out of {sorted(_engines)}, or 'module:NAME', got {name!r}")
    kind = import_object(name, "an engine as 'module:NAME'")
    if not isinstance(kind, EngineKind):
        raise ValueError(f"expected an EngineKind at {name!r}, got {kind!r}")
    return kind


def register_engine(name: str, kind: EngineKind) -> None:
    """Adds an engine of your own under a name, in this process.

    Runner actors are other processes: they know it by ``"module:NAME"``, or where a module that they import registers
    it.

    Raises:
        ValueError: If the name is taken by another kind.
    """
    if _engines.get(name, kind) != kind:
        raise ValueError(f"expected a new name for an engine, got {name!r}, which is taken")
    _engines[name] = kind
