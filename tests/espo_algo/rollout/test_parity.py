"""Stopping inside the engine is stepping the wrapped environment: same stop step, same z, same reward."""

import numpy as np
import pytest
import torch
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from gymnasium.vector import AutoresetMode

from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.collect import collect
from espo_algo.rollout.engines import get_engine
from espo_algo.rollout.environment import make_vector_env
from espo_algo.rollout.plans import ResponsePlan
from espo_env import RegretStatistics, RegretTermination, StopReason, TokenGenerationEnv, VectorRegretTermination
from espo_env.early_stopping import DetectorState

RULES = {"regret_value": 2.0, "regret_only": 0.4, "value_only": 2.0, "random": 1.5, "never": 7.0} | {
    "regret_prompt": 1.0,
    "regret_siblings": 1.5,
}
# Bit for bit, but for the one rule with a logarithm: numpy and torch may round it apart.
ROUNDING = dict.fromkeys(RULES, 0.0) | {"random": 1e-6}
SUCCESS = np.linspace(0.0, 1.0, 40)
STATISTICS = RegretStatistics(mean=0.8, var=0.5)


@pytest.fixture(scope="module")
def model(coin_model):
    model = LanguageModelWithCritic.from_pretrained(coin_model, vocab_size=11)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.value_head.weight, std=0.3)
    torch.nn.init.constant_(model.value_head.bias, 0.3)
    # Wide logits, so that there is something to regret.
    torch.nn.init.normal_(model.policy.get_input_embeddings().weight, std=0.3)
    return model.requires_grad_(False)


CASES = [*((rule, "before") for rule in RULES), ("regret_value", "after"), ("value_only", "after")]


def collected(coin_config, model, rule, gate):
    config = coin_config().early_stopping(rule=rule, gate=gate, fail_reward=-0.75)
    env = make_vector_env(config)
    engine = get_engine(config.engine).build(model, config.engine_settings(env.unwrapped.mdp))
    engine.set_detector_state(DetectorState(STATISTICS, RULES[rule]))
    return env, collect(engine, env, [ResponsePlan(i, 100 + i, prompt_success=SUCCESS[i]) for i in range(40)])


@pytest.mark.parametrize(("rule", "gate"), CASES)
def test_the_wrapper_stops_where_the_engine_stopped(coin_config, model, rule, gate):
    vector, episodes = collected(coin_config, model, rule, gate)
    task = vector.unwrapped.task
    env = RegretTermination(
        TokenGenerationEnv(task, max_new_tokens=12),
        fail_reward=-0.75,
        statistics=STATISTICS,
        beta=RULES[rule],
        rule=rule,
        gate=gate,
    )
    for episode in episodes:
        options = {"index": episode.problem.index, "prompt_success": episode.prompt_success}
        env.reset(seed=episode.seed, options=options)  # also the `random` rule's draw
        for t in range(len(episode)):
            action = {
                "token": episode.response_tokens[t],
                "regret": episode.regrets[t],
                "value": episode.values[t],
            }
            _, reward, terminated, truncated, info = env.step(action)
            assert np.float32(info["z"]) == pytest.approx(episode.z[t], rel=ROUNDING[rule], abs=0)
            assert np.float32(info["threshold"]) == episode.thresholds[t]
            assert (terminated or truncated) == (t == len(episode) - 1)
        assert info["stop_reason"] is episode.stop_reason
        assert reward == pytest.approx(episode.reward)
    stopped = [e for e in episodes if e.stop_reason is StopReason.REGRET]
    assert bool(stopped) is (rule != "never")
    assert all(e.reward == -0.75 and e.mark == len(e) - 1 for e in stopped)


@pytest.mark.parametrize(("rule", "gate"), CASES)
def test_the_vector_wrapper_stops_where_the_engine_stopped(coin_config, model, rule, gate):
    vector, episodes = collected(coin_config, model, rule, gate)
    env = VectorRegretTermination(
        TokenGenerationEnv(vector.unwrapped.task, max_new_tokens=12).vectorize(40, AutoresetMode.DISABLED),
        fail_reward=-0.75,
        statistics=STATISTICS,
        beta=RULES[rule],
        rule=rule,
        gate=gate,
    )
    indices = np.array([e.problem.index for e in episodes])
    options = {"reset_mask": np.ones(40, bool), "indices": indices, "prompt_success": SUCCESS}
    env.reset(seed=[e.seed for e in episodes], options=options)
    # The vector environment has no slot that waits: those that have ended are put back to the start, and left there.
    ended = np.zeros(40, bool)
    for t in range(12):
        columns = {
            "token": np.zeros(40, np.int64),
            "regret": np.zeros(40, np.float32),
            "value": np.ones(40, np.float32),
        }
        for slot, episode in enumerate(episodes):
            if not ended[slot]:
                columns["token"][slot] = episode.response_tokens[t]
                columns["regret"][slot], columns["value"][slot] = episode.regrets[t], episode.values[t]
        _, rewards, terminations, truncations, infos = env.step(columns)
        over = (terminations | truncations) & ~ended
        for slot in np.flatnonzero(~ended):
            assert np.float32(infos["z"][slot]) == pytest.approx(episodes[slot].z[t], rel=ROUNDING[rule], abs=0)
            assert over[slot] == (t == len(episodes[slot]) - 1)
            if over[slot]:
                assert infos["stop_reason"][slot] is episodes[slot].stop_reason
                assert rewards[slot] == pytest.approx(episodes[slot].reward)
        ended |= over
        if (again := ended & (terminations | truncations)).any():
            env.reset(options={"reset_mask": again, "indices": np.zeros(40, np.int64)})
    assert ended.all()
