"""Parity and speed on a GPU, as one command: ``pytest tests/gpu -s``. Skipped where there is none.

Works with every vLLM of ``SUPPORTED_VLLM``; weight transfer needs 0.32. Prints ratios, asserts no times. What is
compared with what is written in ``tests/support/engine_checks.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from engine_checks import (
    CONTEXT,
    DETECTOR,
    END,
    SAMPLING,
    STATE,
    make_model,
    make_requests,
    needs_weight_transfer,
    run,
    train_a_little,
    worst_differences,
)
from flat import engine_settings

from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.vllm.engine import VLLMEngine

gpus = torch.cuda.device_count()
if not gpus:
    pytest.skip("no CUDA device here: parity and speed on a GPU are not checked", allow_module_level=True)
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (the vllm extra)")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OPTIONS = {"max_length": CONTEXT, "eos_token_id": END, "sampling": SAMPLING, **DETECTOR}
# In float32; sums run in another order than on the CPU.
TOLERANCE = 1e-3


def run_script(*arguments: str) -> None:
    """In a process of its own: an engine keeps its GPU memory for as long as its process lives."""
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    print(child.stdout)
    assert child.returncode == 0, child.stderr[-6000:]


@pytest.mark.timeout(1200)
@needs_vllm
@pytest.mark.parametrize("name", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_vllm_is_a_plain_loop_over_transformers_before_and_after_weight_syncs(name, critic):
    run_script(__file__, name, critic)


def vllm_parity(name: str, critic: str) -> None:
    model = make_model(name, critic, tied=name == "qwen2")
    options = {"gpu_memory_utilization": 0.3, "enable_sleep_mode": True}
    engine = VLLMEngine(model, engine_settings(num_slots=16, options=options, **OPTIONS))
    engine.set_detector_state(STATE)
    requests = make_requests(500)
    for version in range(4):
        episodes = run(engine, requests)
        engine.rest()
        free = torch.cuda.mem_get_info()[0]
        engine.submit(requests[:1])
        awake = torch.cuda.mem_get_info()[0]
        engine.abort()
        assert free - awake > 1 << 30, f"expected the idle engine to give back memory, got {free} and {awake} bytes"
        worst = worst_differences(model, requests, episodes)
        print(f"vLLM, {name}, {critic} critic, {version} weight syncs: {worst}")
        assert max(worst.values()) < TOLERANCE
        train_a_little(model)
        engine.weights_changed(version + 1)
    engine.shutdown()


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_the_embedded_engine_is_a_plain_loop_over_transformers(critic):
    model = make_model("qwen2", critic, tied=True).cuda()
    engine = TorchEngine(model, engine_settings(num_slots=16, **OPTIONS))
    engine.set_detector_state(STATE)
    requests = make_requests(200)
    worst = worst_differences(model, requests, run(engine, requests))
    print(f"embedded engine, {critic} critic: {worst}")
    assert max(worst.values()) < TOLERANCE


@pytest.mark.timeout(1800)
@needs_vllm
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("weight_transfer", [None, "ipc", "nccl"])
def test_training_through_each_way_for_weights(coin_config, weight_transfer):
    if weight_transfer:
        needs_weight_transfer()
    if weight_transfer == "nccl" and gpus < 2:
        pytest.skip("nccl needs two GPUs, one for the learner")
    share = 1 if weight_transfer == "nccl" else 0.5
    config = (
        coin_config()
        .generation(engine="vllm", engine_options={"gpu_memory_utilization": 0.3}, weight_transfer=weight_transfer)
        .env_runners(num_env_runners=1, num_gpus_per_env_runner=share)
        .learners(num_learners=1, num_gpus_per_learner=share)
    )
    algo = config.build_algo()
    for _ in range(3):
        result = algo.train()
        assert result["env_runners"]["num_episodes"] == 32
        assert result["mismatch"]["kl"] < 1e-4
    algo.stop()


@pytest.mark.timeout(3600)
@needs_vllm
@pytest.mark.parametrize("model", ["qwen2-30M"])
def test_speed_of_vllm_with_and_without_stops(model):
    run_script(str(BENCHMARKS / "bench_vllm.py"), "--model", model, "--slots", "256", "--length", "512")


@pytest.mark.timeout(3600)
def test_speed_of_the_embedded_engine():
    run_script(str(BENCHMARKS / "bench_engine.py"), "--rounds", "3")


if __name__ == "__main__":
    vllm_parity(sys.argv[1], sys.argv[2])
