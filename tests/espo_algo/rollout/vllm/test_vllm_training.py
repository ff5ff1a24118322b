"""The algorithm on vLLM runners, each in an actor of its own."""

import importlib
import os
import time

import pytest
import ray
from coin_fixtures import assert_same, coin_config, weights  # noqa: F401 (a fixture)
from coin_task import CoinTask
from engine_checks import needs_weight_transfer
from installed import is_installed, needs_vllm
from tiny_models import save_tiny_model
from transformers import GPT2Config

from espo_algo.weight_sync.vllm_sender import RunnerClient

EARLY = {"beta": "auto", "target_stop_rate": 0.2, "fail_reward": -0.5}


@pytest.fixture(scope="session")
def coin_model(tmp_path_factory):
    """As in the other tests, but with heads as wide as vLLM wants them on a CPU."""
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    return save_tiny_model(tmp_path_factory.mktemp("coin_model"), CoinTask().tokenizer, spare_tokens=5, **sizes)


def vllm(config):
    return config.generation(engine="vllm").env_runners(num_env_runners=1)


def through_files(config, num_runners):
    """vLLM's own weight transfer; its backends want GPUs, so that the bytes go through a file here.

    Each runner has ranks of its own; where one dies the others have to be brought back, too.
    """
    needs_weight_transfer()
    config.generation(weight_transfer="file").env_runners(num_env_runners=num_runners).early_stopping(**EARLY)
    config.generation(engine="file_transfer:ENGINE").environment(env_config={"task": "file_transfer:CoinTask"})
    return config.fault_tolerance(delay_between_env_runner_restarts_s=0.0)


@needs_vllm
@pytest.mark.usefixtures("ray_session")
def test_training_is_that_on_the_embedded_engine_and_outlives_its_runner(coin_config):
    embedded = coin_config().early_stopping(**EARLY).build_algo()
    algo = through_files(coin_config(), 1).build_algo()
    for _ in range(4):
        other, result = embedded.train(), algo.train()
        assert_same_responses(result, other)
        assert result["mismatch"]["kl"] < 1e-6
    assert_same(weights(algo), weights(embedded), rtol=1e-3, atol=1e-4)
    embedded.stop()

    exits_in_the_fifth_step(algo)
    deadline = time.monotonic() + 200
    while (result := algo.train())["num_missing_episodes_lifetime"] < 32:
        assert time.monotonic() < deadline, "nobody died"
    assert result["num_missing_episodes_lifetime"] == 32
    assert result["env_runners"]["num_episodes"] == 32
    assert result["mismatch"]["kl"] < 1e-6  # it has the learner's weights again
    algo.stop()


@needs_vllm
@pytest.mark.faults
@pytest.mark.usefixtures("ray_session")
def test_a_runner_that_dies_in_a_transfer_takes_the_other_one_with_it_and_both_come_back(coin_config, monkeypatch):
    algo = through_files(coin_config(), 2).build_algo()
    algo.train()
    before = processes(algo)
    dies_in_a_transfer(algo, monkeypatch)
    algo.train()
    assert importlib.import_module("file_transfer").FileSender.times_hung_up == 1  # or a broadcast would wait for ever
    deadline = time.monotonic() + 200
    while len(after := processes(algo)) < 2:
        assert time.monotonic() < deadline, "nobody came back"
        result = algo.train()
    assert not before & after  # the one that lived had half of the weights
    result = algo.train()
    assert result["env_runners"]["num_episodes"] == 32
    assert result["mismatch"]["kl"] < 1e-6
    algo.stop()


@needs_vllm
@pytest.mark.usefixtures("ray_session")
def test_what_is_unfinished_is_carried_on_as_by_the_embedded_engine(coin_config):
    config = coin_config().generation(max_new_tokens=30).training(importance_weight_cap=2.0).early_stopping(**EARLY)
    config.env_runners(num_env_runners=1, num_envs_per_env_runner=48, unfinished_fraction=0.5)
    embedded = config.build_algo()
    expected = [embedded.train() for _ in range(4)]
    algo = vllm(config.copy(copy_frozen=False)).build_algo()
    for other in expected:
        result = algo.train()
        assert_same_responses(result, other)
        assert result["carried"] == other["carried"]
        assert result["mismatch"]["kl"] == pytest.approx(other["mismatch"]["kl"], rel=0.05, abs=1e-6)
    assert result["carried"]["share"] > 0
    assert_same(weights(algo), weights(embedded), rtol=1e-3, atol=1e-4)
    embedded.stop()
    algo.stop()


def assert_same_responses(result, other):
    for name in ("accuracy", "num_env_steps_sampled", "stop_reason"):
        assert result["env_runners"][name] == other["env_runners"][name]


def processes(algo):
    """Process numbers of the healthy runners."""
    return {*algo.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)}


def exits_in_the_fifth_step(algo):
    """The runner's process is killed in the middle of a rollout."""

    def prepare(runner):
        step, steps = runner.engine._engine.step, iter(range(1, 10**9))
        runner.engine._engine.step = lambda: os._exit(1) if next(steps) == 5 else step()

    algo.env_runner_group.foreach_env_runner(prepare, local_env_runner=False)


def dies_in_a_transfer(algo, monkeypatch):
    """The runner is killed when half of a weight transfer is through."""
    call, actor = RunnerClient._call, algo.env_runner_group._worker_manager._actors[1]

    def kill_and_call(client, method, arguments):
        if method == "update_weights":
            monkeypatch.setattr(RunnerClient, "_call", call)
            ray.kill(actor, no_restart=False)
        call(client, method, arguments)

    monkeypatch.setattr(RunnerClient, "_call", kill_and_call)


def test_vllm_needs_an_actor_of_its_own(coin_config):
    config = vllm(coin_config()).env_runners(num_env_runners=0)
    with pytest.raises(ValueError, match=r"env_runners\(num_env_runners\) >= 1 with engine='vllm'.* got 0"):
        config.validate()
    evaluated = vllm(coin_config()).evaluation(evaluation_interval=1)
    with pytest.raises(ValueError, match=r"evaluation\(evaluation_num_env_runners\) >= 1 with engine='vllm'.* got 0"):
        evaluated.get_evaluation_config_object().validate()


@pytest.mark.parametrize(("name", "option"), [("engine_options", {"block_size": 32}), ("weight_transfer", "nccl")])
def test_options_for_vllm_are_refused_elsewhere(coin_config, name, option):
    config = coin_config().generation(**{name: option})
    with pytest.raises(ValueError, match=rf"expected .generation\({name}\) .*engine='torch'"):
        config.validate()
    vllm(config).validate()


@needs_vllm
def test_an_architecture_without_a_critic_is_refused_before_any_actor_starts(coin_config, tmp_path):
    config = GPT2Config(n_embd=32, n_layer=1, n_head=1, n_positions=64, vocab_size=32, bos_token_id=None)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM.*got GPT2LMHeadModel.*engine='torch'"):
        vllm(coin_config()).language_model(model=tmp_path).build_algo()


def test_an_unknown_way_for_weights_is_refused(coin_config):
    with pytest.raises(ValueError, match=r"weight_transfer\) None or out of \['nccl', 'ipc'\] with .*, got 'pigeon'"):
        vllm(coin_config()).generation(weight_transfer="pigeon").validate()


@pytest.mark.skipif(is_installed("vllm"), reason="vLLM is installed")
def test_without_vllm_the_algorithm_says_so_before_any_actor_starts(coin_config):
    with pytest.raises(ImportError, match=r"espo\[vllm\]"):
        vllm(coin_config()).build_algo()
