"""Runners on one Ray node and learners on another; then nodes die.

Every node is a real one of Ray's, with processes and an object store of its own, all on this machine. First the whole
algorithm runs over two of them, and what a weight sync puts into the runners' node is counted. Then the runners' node
dies, again and again, and another one joins; at last the learner's node dies. Prints what came of it as JSON; fails
where something hangs, or is not as it should be. ``make faults`` loses five nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from coin_task import CoinTask
from ray._private import ray_constants
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster
from tiny_models import save_tiny_model

from espo_algo import ESPO, ESPOConfig
from espo_algo.errors import TrainingError

RUNNERS, BATCH = 2, 16
SUPPORT = str(Path(__file__).parents[1] / "support")
LIMIT_S = 120.0
"""Within which a node that joins has to serve: it starts processes, which import everything."""


def make_config(folder: Path) -> ESPOConfig:
    """Runners and learner ask for what one node each has; the model is large enough for Ray's store (1.7 MB)."""
    model = save_tiny_model(folder, CoinTask().tokenizer, spare_tokens=3000, hidden_size=128)
    return (
        ESPOConfig()
        .environment("espo_env/TokenGeneration-v0", env_config={"task": "coin_task:CoinTask"})
        .env_runners(
            num_env_runners=RUNNERS, num_envs_per_env_runner=8, custom_resources_per_env_runner={"for_runners": 1}
        )
        .learners(num_learners=1, custom_resources_per_learner={"for_learners": 1})
        .language_model(model=model)
        .generation(max_new_tokens=12)
        .training(train_batch_size_per_learner=BATCH, minibatch_size=BATCH, num_epochs=1)
        .fault_tolerance(wait_floor_s=60.0, wait_factor=5.0, max_empty_rounds=20, env_runner_restore_timeout_s=LIMIT_S)
        .debugging(seed=0, log_level="ERROR")
    )


def add_node(cluster: Cluster, **resources: float) -> Any:
    return cluster.add_node(
        node_ip_address="127.0.0.1", num_cpus=RUNNERS, object_store_memory=100 * 2**20, resources=resources
    )


def store_bytes(node: Any) -> int:
    """What was ever put into a node's object store, copies from other nodes included."""
    (found,) = (n for n in ray.nodes() if n["NodeID"] == node.node_id)
    stats = node_stats(found["NodeManagerAddress"], found["NodeManagerPort"], include_memory_info=False)
    return int(stats.store_stats.cumulative_created_bytes)


def home(_: Any) -> str:
    """The node that an actor is on."""
    return str(ray.get_runtime_context().get_node_id())


def homes_of_runners(algo: ESPO) -> list[str]:
    return list(algo.env_runner_group.foreach_env_runner(home, local_env_runner=False))


def train_until_whole(algo: ESPO, count: int) -> tuple[int, float]:
    """Trains until so many runners have written a whole batch; gives back iterations and seconds."""
    start, iterations, missing = time.monotonic(), 0, None
    while time.monotonic() < start + LIMIT_S:
        before, missing = missing, int(algo.train()["num_missing_episodes_lifetime"])
        iterations += 1
        if missing == before and algo.env_runner_group.num_healthy_remote_workers() == count:
            return iterations, time.monotonic() - start
    raise TimeoutError(f"expected {count} runners to serve within {LIMIT_S} s")


def run(cluster: Cluster, folder: Path, losses: int) -> dict[str, Any]:
    """Trains on two nodes of which one is lost so many times, then the other."""
    of_learner = add_node(cluster, for_learners=1)
    of_runners = add_node(cluster, for_runners=RUNNERS)
    algo: ESPO = make_config(folder).build_algo()
    algo.train()
    report: dict[str, Any] = {
        "runners_at_home": homes_of_runners(algo) == [of_runners.node_id] * RUNNERS,
        "learner_at_home": [result.get() for result in algo.learner_group.foreach_learner(home)]
        == [of_learner.node_id],
    }
    before = [store_bytes(node) for node in (of_learner, of_runners)]
    algo.send_weights(algo.env_runner_group)
    put, received = (store_bytes(n) - b for n, b in zip((of_learner, of_runners), before, strict=True))
    report |= {"weights_put": put, "weights_received": received}
    report["serve_again_after"], report["trained_on"] = [], 0
    for _ in range(losses):
        cluster.remove_node(of_runners, allow_graceful=False)
        of_runners = add_node(cluster, for_runners=RUNNERS)
        iterations, seconds = train_until_whole(algo, RUNNERS)
        report["serve_again_after"].append(round(seconds, 1))
        report["trained_on"] += iterations
    result = algo.train()
    report["missing"] = int(result["num_missing_episodes_lifetime"])
    report["answered"] = int(result["env_runners"]["num_episodes_lifetime"])
    report["planned"] = algo.batches.num_planned
    report["runners_at_home_at_last"] = homes_of_runners(algo) == [of_runners.node_id] * RUNNERS
    cluster.remove_node(of_learner, allow_graceful=False)
    start = time.monotonic()
    try:
        algo.train()
    except TrainingError as error:
        report["learner_lost"] = str(error)
    report["learner_lost_after"] = round(time.monotonic() - start, 1)
    return report


def check(report: dict[str, Any]) -> None:
    """Fails where anything is lost uncounted, or weights travel twice."""
    assert report["learner_at_home"]
    assert report["runners_at_home"]
    # Once for the two runners of the node, and little else.
    assert report["weights_put"] > 1_500_000
    assert report["weights_put"] <= report["weights_received"] < 1.2 * report["weights_put"]
    # What the lost nodes should have written is missing, and said so; the runners of the last that joined write on.
    assert report["missing"] > 0
    assert report["planned"] == report["missing"] + report["answered"]
    assert report["runners_at_home_at_last"]
    assert "got none from [0] (dead" in report["learner_lost"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=int, default=5, help="of the runners' node")
    options = parser.parse_args()
    # A folder of its own: Ray notes there which cluster runs, and others on this machine would join it.
    os.environ["RAY_TMPDIR"] = folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([SUPPORT, os.environ.get("PYTHONPATH", "")])}
    ray_constants.ENABLE_RAY_CLUSTER = False  # as start_ray: every node is at 127.0.0.1
    # Ray's own health checks need about 20 s to find a node dead.
    health = {
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "node_ip_address": "127.0.0.1",
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": 100 * 2**20,
            "_system_config": health,
        },
    )
    try:
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": environment},
        )
        report = run(cluster, Path(folder) / "model", options.losses)
        print(json.dumps(report, indent=1))
        check(report)
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
