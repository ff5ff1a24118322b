from __future__ import annotations

import copy
import gc
import importlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_checks import (
    CONTEXT,
    DETECTOR,
    END,
    SAMPLING,
    STATE,
    VOCABULARY,
    make_model,
    make_requests,
    run,
    train_a_little,
    worst_differences,
)
from flat import engine_settings
from installed import is_installed, needs_vllm
from transformers import AutoModelForCausalLM, GPT2Config

from espo_algo.learning.lora import LanguageModelWithLoRA, LoRASettings
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.engine import GenerationRequest, SamplingSettings
from espo_algo.rollout.env_runner import ESPOEnvRunner
from espo_algo.rollout.plans import ResponsePlan
from espo_algo.rollout.vllm import engine as engine_module
from espo_algo.rollout.vllm.engine import VLLMEngine
from espo_algo.rollout.vllm.support import check_vllm
from espo_algo.weight_sync.packing import pack_tensors, unpack_pieces
from espo_env.early_stopping import DetectorState, RegretStatistics
from espo_env.types import TRACE_COLUMNS, StopReason

# The rule is the paper's where nothing is known of a prompt.
OPTIONS = {"max_length": CONTEXT, "eos_token_id": END, "sampling": SAMPLING, "rule": "regret_siblings", **DETECTOR}
SMALL = {"kv_cache_memory_bytes": 8 << 20, "block_size": 32}


@pytest.fixture(scope="session")
def model() -> LanguageModelWithCritic:
    return make_model("qwen2", "shared", tied=True)


@pytest.fixture(scope="session")
def shared_engine(model):
    """The one vLLM engine of this process: starting one takes longer than all tests with it."""
    options = {**SMALL, "enable_sleep_mode": True}  # on the CPU nothing but the control flow
    engine = VLLMEngine(model, engine_settings(num_slots=6, options=options, **OPTIONS))
    yield engine
    engine.shutdown()


@pytest.fixture
def engine(shared_engine):
    shared_engine.abort()
    shared_engine.set_sampling(SAMPLING)
    shared_engine.set_detector_state(STATE)
    shared_engine.weights_changed(0)
    return shared_engine


@pytest.fixture
def embedded(model):
    engine = TorchEngine(model, engine_settings(num_slots=6, **OPTIONS))
    engine.set_detector_state(STATE)
    return engine


def assert_same_episodes(found, expected, tolerance: float = 5e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.response_tokens.tolist() == other.response_tokens.tolist()
        assert one.stop_reason is other.stop_reason
        assert one.mark == other.mark
        for name in TRACE_COLUMNS:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=tolerance, err_msg=name)


@needs_vllm
def test_five_hundred_responses_are_those_of_a_plain_loop_and_no_slot_is_ever_idle(engine, model):
    requests = make_requests(500)
    episodes = run(engine, requests)
    worst = worst_differences(model, requests, episodes)
    assert worst["z"] < 1e-5, worst
    assert max(worst.values()) < 5e-5, worst
    reasons = Counter(episode.stop_reason for episode in episodes)
    assert min(reasons[reason] for reason in (StopReason.REGRET, StopReason.EOS, StopReason.LENGTH)) > 20, reasons
    assert sum(e.mark >= 0 and e.stop_reason is not StopReason.REGRET for e in episodes) > 20
    assert max(e.response_tokens.max() for e in episodes) < VOCABULARY


@needs_vllm
@pytest.mark.parametrize(
    "sampling",
    [SAMPLING, SamplingSettings(greedy=True), SamplingSettings(top_p=0.7), SamplingSettings(top_k=3)],
    ids=["sampled", "greedy", "top_p", "top_k"],
)
def test_episodes_are_those_of_the_embedded_engine(engine, embedded, sampling):
    requests = make_requests(40)
    for each in (engine, embedded):
        each.set_sampling(sampling)
    assert_same_episodes(run(engine, requests), run(embedded, requests))


@needs_vllm
def test_the_rule_is_told_the_prompts_success(engine, embedded):
    requests = [replace(request, prompt_success=i % 2, mark_only=False) for i, request in enumerate(make_requests(40))]
    episodes = run(engine, requests)
    assert_same_episodes(episodes, run(embedded, requests))
    assert not any(e.stop_reason is StopReason.REGRET for e in episodes[::2])
    assert any(e.stop_reason is StopReason.REGRET for e in episodes[1::2])


@needs_vllm
def test_a_response_does_not_depend_on_its_companions(engine):
    requests = make_requests(30)
    expected = run(engine, requests)
    order = np.random.default_rng(0).permutation(len(requests))
    shuffled = run(engine, [requests[i] for i in order])
    assert_same_episodes(shuffled, [expected[i] for i in order])
    for request, episode in zip(requests[:5], expected[:5], strict=True):
        assert_same_episodes(run(engine, [request]), [episode])


@needs_vllm
def test_after_three_weight_syncs_the_signals_are_the_new_weights(engine, model):
    requests = make_requests(30)
    before = run(engine, requests)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for version in (1, 2, 3):
        train_a_little(model)
        engine.weights_changed(version)
    episodes = run(engine, requests)
    worst = worst_differences(model, requests, episodes)
    assert max(worst["logprobs"], worst["z"]) < 1e-5, worst
    assert {episode.weights_version for episode in episodes} == {3}
    assert [e.response_tokens.tolist() for e in episodes] != [e.response_tokens.tolist() for e in before]
    model.load_state_dict(kept)


@needs_vllm
def test_what_is_sent_of_adapters_is_what_the_learner_computes_with_them(engine, model):
    """Merged on the way: base + alpha / r * B @ A, here with vLLM's own kernels."""
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = LoRASettings(r=4, alpha=8.0)
    adapted = LanguageModelWithLoRA(copy.deepcopy(model.policy), "shared", VOCABULARY, settings=settings).eval()
    adapted.value_head.load_state_dict(model.value_head.state_dict())
    with torch.no_grad():
        for parameter in adapted.policy_parameters():
            parameter.normal_(std=0.1)
    unpack_pieces(model, [pack_tensors(adapted.plain_weights())])
    engine.weights_changed(1)
    requests = make_requests(30)
    episodes = run(engine, requests)
    worst = worst_differences(adapted, requests, episodes)
    assert max(worst.values()) < 5e-5, worst
    model.load_state_dict(kept)
    engine.weights_changed(2)
    assert worst_differences(adapted, requests, episodes) == worst  # the copy's base is its own


@needs_vllm
def test_an_end_of_its_own_wins_over_a_stop_in_the_same_step(engine):
    engine.set_detector_state(DetectorState(STATE.statistics, beta=-1e6))  # fires in every step
    requests = [GenerationRequest(i, np.array([1 + i % 9], np.int32), i, 1 + i % 2) for i in range(80)]
    for request, episode in zip(requests, run(engine, requests), strict=True):
        assert len(episode) == 1
        ended = episode.response_tokens[0] == END
        at_horizon = StopReason.LENGTH if request.max_new_tokens == 1 else StopReason.REGRET
        assert episode.stop_reason is (StopReason.EOS if ended else at_horizon)
        assert episode.mark == (0 if episode.stop_reason is StopReason.REGRET else -1)


@needs_vllm
def test_a_disabled_detector_stops_nothing(engine):
    engine.set_detector_state(DetectorState(RegretStatistics(), beta=-1e6, enabled=False))
    episodes = run(engine, make_requests(12))
    assert {e.stop_reason for e in episodes} <= {StopReason.EOS, StopReason.LENGTH}
    assert {e.mark for e in episodes} == {-1}
    assert any(e.z.any() for e in episodes)


@needs_vllm
def test_abort_gives_back_everything_and_the_engine_goes_on(engine, embedded):
    requests = make_requests(20)
    expected = run(embedded, requests)
    engine.submit(requests)
    early = [episode for _ in range(3) for episode in engine.step()]
    given_up = engine.abort()
    assert engine.num_unfinished == 0
    assert sorted(e.request_id for e in early + given_up) == list(range(20))
    assert {e.stop_reason for e in given_up} == {StopReason.ABORT}
    for episode in given_up:
        assert len(episode) <= 3
        same = expected[episode.request_id].response_tokens[: len(episode)]
        assert episode.response_tokens.tolist() == same.tolist()
        assert len(episode.z) == len(episode)
    assert sum(len(episode) > 0 for episode in given_up) == 6 - len([e for e in early if len(e) == 3])
    assert_same_episodes(run(engine, requests), expected)


@needs_vllm
@pytest.mark.parametrize("mark_only", [False, True])
def test_a_response_that_is_cut_and_carried_on_by_either_engine_is_the_uncut_one(engine, embedded, mark_only):
    requests = [replace(r, mark_only=r.mark_only or mark_only) for r in make_requests(12)]
    expected = run(embedded, requests)
    over, asked = {}, requests
    marked = set()
    for writer, steps in ((engine, 6), (embedded, 9), (engine, 0), (engine, 8)):
        writer.submit(asked)
        over |= {episode.request_id: episode for _ in range(steps) for episode in writer.step()}
        partials = writer.suspend()
        assert writer.num_unfinished == writer.num_live == 0
        writer.set_detector_state(STATE)  # which an engine that is busy refuses
        asked = [replace(r, partial=partials[r.request_id]) for r in requests if r.request_id in partials][::-1]
        marked |= {number for number, partial in partials.items() if partial.mark >= 0}
    assert 0 < len(asked) < len(requests)
    assert bool(marked) is mark_only
    over |= {episode.request_id: episode for episode in run(engine, asked)}
    assert_same_episodes([over[r.request_id] for r in requests], expected)
    assert all(sum(segment.tokens for segment in e.segments) == len(e) for e in over.values())
    assert any(len(e.segments) > 2 for e in over.values())


@needs_vllm
def test_settings_change_only_while_nothing_is_unfinished(engine):
    engine.submit(make_requests(1))
    for change in (
        lambda: engine.weights_changed(1),
        lambda: engine.set_sampling(SAMPLING),
        lambda: engine.set_detector_state(STATE),
    ):
        with pytest.raises(RuntimeError, match=r"expected no unfinished responses at .*, got 1"):
            change()


@pytest.fixture
def naps(engine, monkeypatch):
    """What vLLM was told about its memory, in order; the engine's fixture has left it asleep."""
    told, vllm = [], engine._engine

    def recorded(name):
        method = getattr(vllm, name)

        def call(*args, **kwargs):
            assert not vllm.has_unfinished_requests(), "falling asleep aborts them"
            told.append(name)
            return method(*args, **kwargs)

        return call

    for name in ("sleep", "wake_up"):
        monkeypatch.setattr(vllm, name, recorded(name))
    return told


@needs_vllm
def test_it_sleeps_from_one_batch_to_the_next_and_never_within_one(engine, naps):
    """It slept in ``step`` alone: awake from its construction to the first batch, and after new weights."""
    assert engine._engine.is_sleeping()  # after new weights
    engine.submit(make_requests(2))
    engine.step()
    with pytest.raises(RuntimeError, match="no unfinished responses at rest, got 2"):
        engine.rest()
    while engine.num_unfinished:
        engine.step()
    engine.submit(make_requests(1))  # the same batch goes on
    engine.abort()
    assert naps == ["wake_up"]
    engine.rest()
    engine.rest()
    assert naps == ["wake_up", "sleep"]
    engine.weights_changed(1)
    assert naps == ["wake_up", "sleep"] * 2
    assert engine._engine.is_sleeping()
    engine.submit([])
    assert engine.step() == engine.abort() == []
    engine.set_sampling(SAMPLING)
    engine.set_detector_state(STATE)
    assert len(naps) == 4


@needs_vllm
def test_it_is_awake_from_the_first_call_of_a_weight_transfer_to_the_last(engine, naps, monkeypatch):
    calls = []
    monkeypatch.setattr(engine, "_call", lambda method, *args, **kwargs: calls.append((method, *naps)))
    monkeypatch.setattr(engine, "_receives", False)
    for method in ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update"):
        engine.transfer(method)
        assert calls[-1] == (method, "wake_up")
    engine.weights_transferred(3)
    assert naps == ["wake_up", "sleep"]


@needs_vllm
def test_it_leaves_its_old_group_before_it_joins_a_new_one(engine, monkeypatch):
    """The group of a learner's former sender was never left: a communicator more for each runner that restarted."""
    calls = []
    monkeypatch.setattr(engine, "_call", lambda method, **kwargs: calls.append((method, kwargs)))
    monkeypatch.setattr(engine, "_receives", False)
    for rank in (1, 2):
        engine.transfer("init_weight_transfer_engine", init_info={"rank_offset": rank})
        engine.transfer("start_weight_update")
    assert calls == [
        ("init_weight_transfer_engine", {"init_info": {"rank_offset": 1}}),
        ("start_weight_update", {}),
        ("shutdown_weight_transfer_engine", {}),
        ("init_weight_transfer_engine", {"init_info": {"rank_offset": 2}}),
        ("start_weight_update", {}),
    ]


@needs_vllm
def test_a_runner_leaves_its_engine_asleep_even_where_it_fails(engine, naps, config, monkeypatch):
    """An evaluation engine kept its memory from its last response to the next evaluation."""
    monkeypatch.setattr(engine_module, "VLLMEngine", lambda model, settings: engine)
    config.generation(engine="vllm").env_runners(num_env_runners=1, num_envs_per_env_runner=6)
    runner = ESPOEnvRunner(config=config, worker_index=1)
    plans = [ResponsePlan(i, i) for i in range(20)]  # some slots are filled again
    assert len(runner.sample(plans=plans)) == 20
    assert naps == ["wake_up", "sleep"]

    def broken(*args, **kwargs):
        raise RuntimeError("the environment is broken")

    with monkeypatch.context() as patch:
        patch.setattr(runner.env, "complete", broken)
        with pytest.raises(RuntimeError, match="the environment is broken"):
            runner.sample(plans=plans)
    assert naps == ["wake_up", "sleep"] * 2
    assert engine.num_unfinished == 0
    assert len(runner.sample(plans=plans)) == 20
    runner.env.close()


@needs_vllm
@pytest.mark.parametrize("room", [True, False])
def test_weights_for_several_workers_go_through_memory_where_it_has_room(engine, model, room, monkeypatch, tmp_path):
    """Containers often have 64 MB of shared memory; a file of all weights did not fit."""
    kept, files = {name: tensor.clone() for name, tensor in model.state_dict().items()}, []
    needed = sum(tensor.nbytes for tensor in engine_module.engine_weights(model).values())
    free = needed + (2 << 20) if room else needed
    save = engine_module.save_file
    monkeypatch.setattr(engine_module, "_SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(engine_module, "disk_usage", lambda folder: SimpleNamespace(free=free))
    monkeypatch.setattr(engine_module, "save_file", lambda weights, file: (files.append(file), save(weights, file)))
    monkeypatch.setattr(engine, "_num_workers", 2)
    train_a_little(model)
    engine.weights_changed(1)
    assert [Path(file).parents[1] for file in files] == [tmp_path if room else Path(tempfile.gettempdir())]
    assert not Path(files[0]).exists()
    requests = make_requests(6)
    assert max(worst_differences(model, requests, run(engine, requests)).values()) < 5e-5
    model.load_state_dict(kept)


def test_without_shared_memory_weights_go_through_the_temporary_folder(model, monkeypatch, tmp_path):
    monkeypatch.setattr(engine_module, "_SHARED_MEMORY", str(tmp_path / "none"))
    assert engine_module._shared_memory(engine_module.engine_weights(model)) is None


@needs_vllm
def test_the_room_left_for_the_sampler_is_what_its_buffers_take(engine):
    """vLLM gave its cache all that the model left free; the sampler's buffers came after that."""
    worker = importlib.import_module("espo_algo.rollout.vllm.worker")
    run(engine, make_requests(12))
    (held,) = engine._engine.collective_rpc(lambda worker: tensors_of(worker.model_runner.sampler))
    settings = engine_settings(num_slots=6, **OPTIONS)
    # What a draw takes besides is measured in `test_sampling.py`.
    assert worker.sampler_bytes(settings, CONTEXT, vocab_size=0) == pytest.approx(held, rel=0.02)


def tensors_of(sampler):
    """Bytes of all memory that the sampler and its detector hold; views are counted once."""
    tensors = [x for x in (*vars(sampler).values(), *vars(sampler.detector).values()) if isinstance(x, torch.Tensor)]
    assert len(tensors) > 10
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


@needs_vllm
@pytest.mark.parametrize(
    ("prompt", "seed", "max_new_tokens", "message"),
    [
        ([], 0, 1, "at least one token, got none"),
        ([1] * 100, 0, 29, r"max_length 128 .*got 100 \+ 29 = 129"),
        ([1, 99], 0, 1, r"token ids in \[0, 24\), got 1 to 99"),
        ([1], 0, 0, "max_new_tokens >= 1, got 0"),
        ([1], -1, 1, "seed in .*, got -1"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_and_none_is_queued(engine, prompt, seed, max_new_tokens, message):
    good = make_requests(1)
    with pytest.raises(ValueError, match=message):
        engine.submit([*good, GenerationRequest(1, np.array(prompt, np.int32), seed, max_new_tokens)])
    assert engine.num_unfinished == 0


@needs_vllm
def test_an_architecture_without_a_critic_is_refused_before_anything_starts():
    config = GPT2Config(n_embd=32, n_layer=1, n_head=1, n_positions=16, vocab_size=8, bos_token_id=None, eos_token_id=1)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM.*got GPT2LMHeadModel.*engine='torch'"):
        VLLMEngine(
            LanguageModelWithCritic(AutoModelForCausalLM.from_config(config)),
            engine_settings(num_slots=1, max_length=16, eos_token_id=1),
        )


def test_options_that_the_engine_sets_itself_are_refused(model):
    with pytest.raises(ValueError, match=r"got \['max_num_seqs'\]"):
        VLLMEngine(model, engine_settings(num_slots=1, options={"max_num_seqs": 3}, **OPTIONS))


@pytest.mark.skipif(is_installed("vllm"), reason="vLLM is installed")
def test_without_vllm_the_error_names_the_extra():
    with pytest.raises(ImportError, match=r"got none: pip install 'espo\[vllm\]'"):
        check_vllm()


def test_a_version_that_is_too_new_is_refused_with_both_numbers(tmp_path, monkeypatch):
    folder = tmp_path / "vllm-99.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 99.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"expected vLLM >= 0.26, < 0.34 .*got vllm 99.1"):
        check_vllm()


@needs_vllm
@pytest.mark.timeout(600)  # three engines, and vLLM is imported anew
def test_engines_with_other_options_in_a_process_of_their_own():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=580, check=False
    )
    assert child.returncode == 0, child.stderr[-4000:]
    assert child.stdout.count("done") == 3


def split_engine(name: str, tied: bool) -> None:
    """The model is split over two workers, each a process; what the first one draws holds for both.

    Where the second one is given other tokens all the same, it is an error when a response ends, or in that step.
    """
    worker = importlib.import_module("espo_algo.rollout.vllm.worker")
    straight = worker.EarlyStoppingWorker
    worker.EarlyStoppingWorker = importlib.import_module("crooked_worker").CrookedWorker
    # vLLM pads an embedding to 64 rows; with fewer tokens the second worker would have none of them in its half.
    model = make_model(name, "separate", tied, vocabulary=59)
    options = {**OPTIONS, "rule": "crooked_worker:paper", "num_workers": 2}
    engine = VLLMEngine(model, engine_settings(num_slots=6, options=SMALL, **options))
    engine.set_detector_state(STATE)
    requests = make_requests(40)
    for version in range(2):
        worst = worst_differences(model, requests, run(engine, requests))
        assert max(worst["logprobs"], worst["z"]) < 1e-5, worst
        train_a_little(model)
        engine.weights_changed(version + 1)
    engine._call("mishear", check_every_step=False)
    with pytest.raises(RuntimeError, match=r"tokens on all 2 workers, got others on worker 1 in . of . resp"):
        run(engine, requests)
    engine._call("mishear", check_every_step=True)
    with pytest.raises(RuntimeError, match=r"tokens on all workers, got others on \[1\]"):
        run(engine, requests)
    engine.shutdown()
    worker.EarlyStoppingWorker = straight


def overlapped_engine(name: str, tied: bool) -> None:
    """The same with asynchronous scheduling: responses run once more before vLLM sees that they have ended."""
    importlib.import_module("overlapped_vllm")
    crowded_engine(name, tied, overlapped=True)


def crowded_engine(name: str, tied: bool, overlapped: bool = False) -> None:
    """A separate critic; a cache too small for the slots; prompts read in pieces."""
    torch.set_num_threads(1)
    model = make_model(name, "separate", tied)
    block = 2 * 2 * 2 * 32 * 4 * 32  # trunks, layers, keys and values, head_dim, bytes, tokens
    too_small = {"kv_cache_memory_bytes": 2 * block, "block_size": 32}
    with pytest.raises(ValueError, match=r"6 slots of up to 128 tokens.*got"):
        VLLMEngine(model, engine_settings(num_slots=6, options=too_small, **OPTIONS))
    gc.collect()
    options = {"kv_cache_memory_bytes": 10 * block, "block_size": 32, "max_num_batched_tokens": 40}
    options |= {"enable_sleep_mode": True, "async_scheduling": overlapped}  # on the CPU it sleeps by name only
    engine = VLLMEngine(model, engine_settings(num_slots=6, options=options, **OPTIONS))
    assert engine._engine.is_sleeping()
    assert (engine._engine.engine_core.engine_core.batch_queue is not None) is overlapped
    engine.set_detector_state(STATE)
    preempted: list[str] = []
    scheduler = engine._engine.engine_core.engine_core.scheduler
    preempt = scheduler._preempt_request
    scheduler._preempt_request = lambda request, *args, **kwargs: (
        preempted.append(request.request_id),
        preempt(request, *args, **kwargs),
    )
    requests = make_requests(60, max_new_tokens=40)
    for version in range(3):
        worst = worst_differences(model, requests, run(engine, requests, always_full=False))
        assert max(worst["logprobs"], worst["z"]) < 1e-5, worst
        assert max(worst.values()) < 1e-4, worst
        train_a_little(model)
        engine.weights_changed(version + 1)
    assert len(preempted) > 10, preempted
    engine.shutdown()


if __name__ == "__main__":
    # The first one's workers are processes of their own; the last one changes vLLM for good.
    split_engine("qwen2", tied=True)
    print("split: done", flush=True)
    crowded_engine("llama", tied=True)
    print("crowded: done", flush=True)
    overlapped_engine("qwen3", tied=False)
    print("overlapped: done", flush=True)
