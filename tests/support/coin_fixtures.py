"""Fixtures for the algorithm: a tiny model for the coin task, and a configuration that trains it in a second."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coin_task import CoinTask
from tiny_models import save_tiny_model

from espo_algo import ESPO, ESPOConfig
from espo_algo.episodes import TokenEpisode


@pytest.fixture(scope="session")
def coin_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained Qwen2 with a few more tokens than the task's tokenizer, and tied embeddings."""
    return save_tiny_model(tmp_path_factory.mktemp("coin_model"), CoinTask().tokenizer, spare_tokens=5)


@pytest.fixture(scope="session")
def coin_config(coin_model: Path) -> Callable[..., ESPOConfig]:
    """Builds configurations: 32 responses of up to 12 tokens a batch, two minibatches, the paper's constants."""

    def build(env: str = "espo_env/TokenGeneration-v0", env_config: dict | None = None) -> ESPOConfig:
        return (
            ESPOConfig()
            .environment(env, env_config={"task": "coin_task:CoinTask"} if env_config is None else env_config)
            .env_runners(num_envs_per_env_runner=8)
            .language_model(model=coin_model)
            .generation(max_new_tokens=12)
            .early_stopping(preset="paper")
            .training(lr=1e-3, critic_lr=1e-3, train_batch_size_per_learner=32, minibatch_size=16)
            .debugging(seed=0, log_level="ERROR")
        )

    return build


def train_saved(algo: ESPO, folder: Path, iterations: int, saved: int) -> tuple[list[dict], list[list[TokenEpisode]]]:
    """Trains, and saves in between, behind so many iterations; gives each one's results and what it learnt from."""
    results, batches = [], []
    for iteration in range(iterations):
        if iteration == saved:
            algo.save_to_path(str(folder))
        results.append(algo.train())
        batches.append(algo.latest_episodes)
    return results, batches


def weights(algo: ESPO) -> dict[str, np.ndarray]:
    """Copies of the learner's weights and state of early stopping."""
    state = algo.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"]["default_policy"]
    return {name: np.array(array) for name, array in state.items()}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray], **tolerance: float) -> None:
    """Equal names and equal arrays: bit for bit, or within ``atol`` and ``rtol``."""
    assert left.keys() == right.keys()
    for name in left:
        if tolerance:
            np.testing.assert_allclose(left[name], right[name], err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
