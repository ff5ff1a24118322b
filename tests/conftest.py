"""What all tests share: one thread, no hub, a tiny language model with its configuration, one Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from espo_algo import ESPOConfig

# Before torch, transformers or ray are imported: each reads these once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "disabled"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that start processes come first: else one of them is left over when the rest has ended."""
    slow = {item.path for item in items if "ray_session" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in slow and item.path.parent.name not in ("examples", "vllm"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen2 with the arithmetic task's tokenizer; its embedding has three rows too many."""
    from tiny_models import save_tiny_model

    from espo_env.tasks import ArithmeticTask

    # Initialised wide enough for token probabilities that differ.
    folder = tmp_path_factory.mktemp("model")
    return save_tiny_model(folder, ArithmeticTask().tokenizer, spare_tokens=3, initializer_range=0.2)


@pytest.fixture
def config(model_folder: Path) -> ESPOConfig:
    """A small configuration that is right; tests change what they are about."""
    from espo_algo import ESPOConfig

    return (
        ESPOConfig()
        .environment("espo_env/Arithmetic-v0", env_config={"max_terms": 2, "max_digits": 1})
        .env_runners(num_envs_per_env_runner=4)
        .language_model(model=model_folder)
        .generation(max_new_tokens=12)
        .training(lr=1e-3, critic_lr=1e-3, train_batch_size_per_learner=8, minibatch_size=8)
        .debugging(seed=0, log_level="ERROR")
    )


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one Ray of a test run; eight logical CPUs, so that any small algorithm finds room."""
    import ray

    from espo_algo.local_ray import start_ray

    start_ray(
        num_cpus=8,
        object_store_memory=256 * 2**20,  # small enough to be filled by a test
        logging_level="ERROR",
        # Workers find the tests' own tasks, as pytest does by its setting `pythonpath`.
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent / "support")}},
    )
    yield
    ray.shutdown()
