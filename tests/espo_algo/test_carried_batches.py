"""Training on the responses that are over first; the others are carried on, through checkpoints and failures."""

import os
import signal
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
import ray
from coin_fixtures import assert_same, coin_config, coin_model, train_saved, weights  # noqa: F401 (fixtures)

from espo_algo import ESPO, ESPOConfig
from espo_algo.errors import TrainingError
from espo_env.types import StopReason

pytestmark = pytest.mark.usefixtures("ray_session")

SIZE, MOST, ITERATIONS, SAVED = 32, 2, 7, 4
TOKENS = "num_env_steps_sampled"


def carrying(config: ESPOConfig, batches_ahead: int, runners: int) -> ESPOConfig:
    """Half a batch more in flight, a horizon that few responses reach; stopping begins behind the second update."""
    config.generation(max_new_tokens=40).training(importance_weight_cap=2.0)
    config.early_stopping(beta="auto", target_stop_rate=0.2, warmup_patience=2, warmup_loss_threshold=9.0)
    config.early_stopping(warmup_change_threshold=0.0)
    config.env_runners(num_env_runners=runners, num_envs_per_env_runner=48, batches_ahead=batches_ahead)
    return config.env_runners(unfinished_fraction=0.5, max_carried_updates=MOST)


def numbers_of(algo: ESPO) -> dict[int, int]:
    """The number of each plan by its seed."""
    planner = algo.batches._plans._planner
    return {plan.seed: number for number, plan in enumerate(planner.plans(range(algo.batches.num_planned)))}


def in_flight(algo: ESPO) -> tuple[list[int], int]:
    """Numbers of the plans that are not learnt from yet, and the tokens that they had when the last batch was taken."""
    state = algo.batches.get_state()
    finished = [(number, len(episode)) for number, (_, episode) in state["carried"]["finished"].items()]
    plans = [*state["carried"]["unfinished"].items()]
    if state["ahead"] is not None:
        plans += zip(state["ahead"].asked.numbers, state["ahead"].asked.plans, strict=True)
    both = [*finished, *((number, 0 if plan.partial is None else len(plan.partial)) for number, plan in plans)]
    return [number for number, _ in both], sum(tokens for _, tokens in both)


@pytest.fixture(scope="module", params=[(0, 0), (1, 2)], ids=["local", "ahead"])
def run(request, coin_config, tmp_path_factory) -> Iterator[tuple]:
    """Some iterations, saved in between: the algorithm, its checkpoint, results and what was learnt from."""
    algo: ESPO = carrying(coin_config(), *request.param).build_algo()
    folder = tmp_path_factory.mktemp("carried") / "checkpoint"
    yield algo, folder, *train_saved(algo, folder, ITERATIONS, SAVED)
    algo.stop()


def test_each_plan_is_learnt_from_once_in_its_order_and_none_is_older_than_it_may_be(run):
    algo, _, results, batches = run
    number = numbers_of(algo)
    learnt = [[number[episode.seed] for episode in batch] for batch in batches]
    assert [len(batch) for batch in learnt] == [SIZE] * ITERATIONS
    assert all(batch == sorted(batch) for batch in learnt)
    assert learnt[0] == [*range(SIZE)]  # the first one is waited for
    assert learnt[1] != [*range(SIZE, 2 * SIZE)]
    assert sorted(chain(*learnt, in_flight(algo)[0])) == [*range(algo.batches.num_planned)]
    ahead = algo.config.batches_ahead
    for update, batch in enumerate(batches):
        lags = [update - episode.first_version for episode in batch]
        assert max(lags) <= MOST + ahead
        assert {episode.weights_version for episode in batch} <= {*range(max(0, update - MOST - ahead), update + 1)}
        assert results[update]["carried"]["lag_max"] == max(lags)
        assert results[update]["carried"]["lag_mean"] == pytest.approx(np.mean(lags))
        several = [len({segment.version for segment in episode.segments}) > 1 for episode in batch]
        assert results[update]["carried"]["share"] == pytest.approx(np.mean(several))
    assert max(result["carried"]["share"] for result in results) > 0.1
    assert 0 < max(result["carried"]["tokens"] for result in results) < 1
    assert all(result["carried"]["unfinished"] + result["carried"]["finished"] == SIZE // 2 for result in results)


def test_the_tokens_of_the_iterations_are_those_that_were_written(run):
    algo, _, results, batches = run
    learnt = sum(len(episode) for batch in batches for episode in batch)
    written = sum(result["env_runners"][TOKENS] for result in results)
    assert written == results[-1]["env_runners"][f"{TOKENS}_lifetime"] == learnt + in_flight(algo)[1]
    assert all(
        result["env_runners"]["early_stopping"]["tokens_generated"] == sum(map(len, batch))
        for result, batch in zip(results, batches, strict=True)
    )


def test_responses_are_stopped_under_weights_that_did_not_begin_them(run):
    _, _, results, batches = run
    assert results[-1]["warmup_done"] == 1
    over = [episode for batch in batches for episode in batch]
    assert any(e.stop_reason is StopReason.REGRET and len(e.segments) > 1 for e in over)
    assert all(e.mark == len(e) - 1 for e in over if e.stop_reason is StopReason.REGRET)
    # The detector was off when some were begun, and on when they were finished.
    assert any(not e.segments[0].stopping and e.segments[-1].stopping for e in over)


def test_a_restored_run_goes_on_bit_for_bit(run):
    algo, folder, results, batches = run
    restored = ESPO.from_checkpoint(str(folder))
    older = restored.learner_group.get_state(components="learner")
    for expected, batch in zip(results[SAVED:], batches[SAVED:], strict=True):
        result = restored.train()
        for episode, other in zip(restored.latest_episodes, batch, strict=True):
            assert episode.response_tokens.tolist() == other.response_tokens.tolist()
            assert episode.logprobs.tolist() == other.logprobs.tolist()
            assert episode.segments == other.segments
        for name in ("beta", "carried"):
            assert result[name] == expected[name]
        assert result["env_runners"][f"{TOKENS}_lifetime"] == expected["env_runners"][f"{TOKENS}_lifetime"]
    assert_same(weights(restored), weights(algo))
    # The learners alone, as they were before: what other weights have written is written anew, and learnt from once.
    seen = [episode.seed for episode in restored.latest_episodes]
    restored.learner_group.set_state(older)
    restored.send_weights(restored.env_runner_group)
    for _ in range(3):
        restored.train()
        seen += [episode.seed for episode in restored.latest_episodes]
        assert len(restored.latest_episodes) == SIZE
    assert len({*seen}) == len(seen)
    restored.stop()


@pytest.mark.faults
def test_what_a_killed_runner_had_is_missing_and_counted(coin_config):
    algo: ESPO = carrying(coin_config(), 0, 2).build_algo()
    learnt = [(algo.train(), algo.latest_episodes)[1] for _ in range(2)]
    actor = algo.env_runner_group._worker_manager.actors()[1]
    os.kill(ray.get(actor.apply.remote(lambda runner: os.getpid())), signal.SIGKILL)
    result = algo.train()
    learnt.append(algo.latest_episodes)
    missing = result["num_missing_episodes_lifetime"]
    assert missing > 0
    assert SIZE // 2 <= len(learnt[-1]) < SIZE  # the quota of the runner that is left, and what was over before
    numbers, (left, _) = numbers_of(algo), in_flight(algo)
    assert sum(map(len, learnt)) + missing + len(left) == algo.batches.num_planned
    assert not {numbers[e.seed] for batch in learnt for e in batch} & {*left}
    for _ in range(MOST + 1):
        assert algo.train()["carried"]["lag_max"] <= MOST
        assert not {numbers[e.seed] for e in algo.latest_episodes if e.seed in numbers} - {*left}
    algo.stop()


def test_a_token_that_is_too_old_ends_training(coin_config, monkeypatch):
    algo: ESPO = carrying(coin_config(), 0, 0).build_algo()
    sampled = algo.batches.next(algo)
    monkeypatch.setattr(algo, "version_sent", lambda group: 9)
    with pytest.raises(TrainingError, match="expected no token older than 2 updates, got one that is 9 updates old"):
        algo.batches._log_carried(algo, sampled.batch)
    algo.stop()
