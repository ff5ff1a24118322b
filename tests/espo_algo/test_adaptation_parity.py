"""Adapting outside of RLlib gives the numbers that ESPO gives."""

from __future__ import annotations

import numpy as np
import pytest
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from coin_task import CoinTask
from gymnasium.vector import AutoresetMode

from espo_env import Adaptation, RegretTermination, TokenGenerationEnv, VectorRegretTermination
from espo_env.early_stopping import EarlyStoppingState

SLOTS = 32
ITERATIONS = 5


@pytest.fixture(scope="module")
def training(coin_config, ray_session):
    """What ESPO's state was updated with in each iteration, and the states; the detector's settings."""
    config = coin_config().early_stopping(beta="auto", target_stop_rate=0.3, warmup_patience=1, fail_reward=-1.0)
    calls, states = [], []
    with pytest.MonkeyPatch.context() as patch:
        updated = EarlyStoppingState.updated

        def watched(state, episodes, settings, critic_loss, explained_variance, *, collected_with, stop_rates):
            assert collected_with is None  # the newest state
            assert stop_rates is None  # that of the batch
            if not states:
                states.append(state)
            calls.append((list(episodes), critic_loss, explained_variance))
            states.append(updated(state, episodes, settings, critic_loss, explained_variance))
            return states[-1]

        patch.setattr(EarlyStoppingState, "updated", watched)
        algo = config.build_algo()
        algo.traces = True
        for _ in range(ITERATIONS):
            algo.train()
        algo.stop()
    assert states[-1].warmup.done
    assert len({state.tolerance.beta for state in states}) > 2
    assert any(e.mark >= 0 for episodes, *_ in calls for e in episodes)
    return calls, states


def columns(episodes, t):
    """Step ``t`` of each episode that has one; anything for the others."""
    return {
        "token": np.array([e.response_tokens[t] if t < len(e) else 1 for e in episodes]),
        "regret": np.array([e.regrets[t] if t < len(e) else 0 for e in episodes], np.float32),
        "value": np.array([e.values[t] if t < len(e) else 1 for e in episodes], np.float32),
    }


def test_single_environments_adapt_as_espo_does(training):
    calls, states = training
    env = RegretTermination(TokenGenerationEnv(CoinTask(), max_new_tokens=12), fail_reward=-1.0)
    adaptation = Adaptation(env, state=states[0])
    for (episodes, *trained), state in zip(calls, states[1:], strict=True):
        for episode in episodes:
            env.reset(options={"index": episode.problem.index, "prompt_success": episode.prompt_success})
            for t in range(len(episode)):
                action = columns([episode], t)
                _, reward, terminated, truncated, _ = env.step({name: column[0] for name, column in action.items()})
            assert terminated or truncated
            assert reward == episode.reward
        assert adaptation.num_episodes == len(episodes)
        assert adaptation.update(*trained) == state
        assert env.detector.state == state.detector_state
        assert adaptation.num_episodes == 0


def test_a_vector_environment_adapts_as_espo_does(training):
    calls, states = training
    env = TokenGenerationEnv(CoinTask(), max_new_tokens=12).vectorize(SLOTS, AutoresetMode.DISABLED)
    env = VectorRegretTermination(env, fail_reward=-1.0)
    adaptation = Adaptation(env, state=states[0])
    for (episodes, *trained), state in zip(calls, states[1:], strict=True):
        env.reset(options={"indices": np.array([e.problem.index for e in episodes])})
        for t in range(max(map(len, episodes))):
            action = columns(episodes, t)
            *_, terminations, truncations, _ = env.step(action)
            if (ended := terminations | truncations).any():  # they go on with anything, and never end again
                env.reset(options={"reset_mask": ended, "indices": np.zeros(SLOTS, np.int64)})
        assert adaptation.num_episodes == len(episodes)
        got = adaptation.update(*trained)
        # Episodes come in the order of their ends, so that sums are rounded apart.
        assert got.tolerance.beta == pytest.approx(state.tolerance.beta, rel=1e-5)
        assert (got.statistics.mean, got.statistics.var) == pytest.approx((state.statistics.mean, state.statistics.var))
        assert got.warmup == state.warmup
        assert env.detector.state.enabled == state.detector_state.enabled
