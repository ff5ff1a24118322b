"""Engines by name, as ``.generation(engine=...)`` takes them.

- :class:`EngineKind`: how an engine is built, and what it needs of its process.
- :data:`ENGINES`, :func:`register_engine`, :func:`get_engine`: the registered ones.

An engine's code is imported when one is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espo_algo.rollout.engine import Engine, EngineSettings
from espo_env.imports import import_object
from espo_env.registry import Registry

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
        carries: It gives unfinished responses back (``suspend``), and goes on with those of others
            (``GenerationRequest.partial``).
        weight_transfers: Backends by which weights may arrive beside Ray's object store.
        requirements: ``"module:function"``, called as ``function(architecture, weight_transfer)`` before any actor
            starts; raises an ImportError or ValueError where it cannot run the model. None where any model will do.
    """

    factory: str
    needs_process: bool = False
    needs_gpu: bool = False
    owns_gpus: bool = False
    takes_options: bool = False
    carries: bool = False
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


ENGINES: Registry[EngineKind] = Registry(
    "an engine",
    "module:NAME",
    lambda found: isinstance(found, EngineKind),
    {
        "torch": EngineKind("espo_algo.rollout.embedded.engine:TorchEngine", carries=True),
        "vllm": EngineKind(
            "espo_algo.rollout.vllm.engine:VLLMEngine",
            needs_process=True,
            owns_gpus=True,
            takes_options=True,
            carries=True,
            weight_transfers=("nccl", "ipc"),
            requirements="espo_algo.rollout.vllm.support:check_vllm",
        ),
    },
)
"""All registered kinds by name."""

get_engine = ENGINES.find
"""See :meth:`~espo_env.registry.Registry.find`."""
register_engine = ENGINES.register
"""See :meth:`~espo_env.registry.Registry.register`."""
