from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest
from flat import make_detector
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from letter_task import LetterTask, same

import espo_env
from espo_env import (
    PolicySignals,
    RecordTrajectory,
    RegretStatistics,
    RegretTermination,
    StopReason,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    VectorRegretTermination,
)
from espo_env.early_stopping import STOP_RULES

EOS = 0
A, B, C, X = 1, 2, 3, 4
MODES = list(AutoresetMode)


def letter_env(**options) -> TokenGenerationEnv:
    return TokenGenerationEnv(LetterTask(), **{"max_new_tokens": 4} | options)


def action(token=A, regret=0.0, value=1.0):
    return {"token": token, "regret": regret, "value": value}


def confident(observation, action):
    """A module-level callable, as a spec that is pickled needs."""
    return 0.0, 1.0


FAILING = action(regret=50.0, value=0.0)
"""z = 0.1 * 10 after one step, above 0.5 * 0.2."""


class TestStop:
    def test_is_terminal_with_the_failure_reward_and_its_own_reason(self):
        env = RegretTermination(letter_env(), fail_reward=-0.75, beta=0.5)
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step(action())
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert "stop_reason" not in info
        _, reward, terminated, truncated, info = env.step(FAILING)
        assert (reward, terminated, truncated) == (-0.75, True, False)
        assert info["stop_reason"] is StopReason.REGRET
        assert info["problem"] is not None

    def test_numbers_are_those_of_the_paper_by_hand(self):
        env = RegretTermination(
            letter_env(), statistics=RegretStatistics(mean=1.0, var=4.0), beta=2.0, delta=1e-9, clip=3.0
        )
        env.reset(seed=0)
        *_, info = env.step(action(regret=3.0, value=0.1))
        # (3 - 1) / 2 = 1; z = 0.1 * 1; threshold = 2 * max(0.1, 0.2).
        assert (info["regret"], info["value"]) == (3.0, pytest.approx(0.1))
        assert info["z"] == pytest.approx(0.1)
        assert info["threshold"] == pytest.approx(0.4)
        *_, info = env.step(action(regret=100.0, value=0.9))
        # Clipped at 3: z = 0.9 * 0.1 + 0.1 * 3.
        assert info["z"] == pytest.approx(0.39)
        assert info["threshold"] == pytest.approx(1.8)

    @pytest.mark.parametrize(
        ("horizon", "tokens", "reason", "truncated"),
        [
            ("terminal", [EOS], StopReason.EOS, False),
            ("terminal", [A, A, A, A], StopReason.LENGTH, False),
            ("truncation", [A, A, A, A], StopReason.LENGTH, True),
            ("truncation", [A, A, A, EOS], StopReason.EOS, False),
        ],
    )
    def test_is_never_taken_on_a_step_that_ends_by_itself(self, horizon, tokens, reason, truncated):
        env = RegretTermination(letter_env(horizon=horizon), beta=0.5)
        env.reset(options={"index": 1})
        for token in tokens[:-1]:
            env.step(action(token))
        _, reward, terminated, was_truncated, info = env.step(action(tokens[-1], regret=50.0, value=0.0))
        assert info["z"] > info["threshold"]
        assert info["stop_reason"] is reason
        assert (reward, terminated, was_truncated) == (0.0, not truncated, truncated)

    def test_a_right_answer_keeps_its_reward_whatever_its_last_regret(self):
        env = RegretTermination(letter_env(), beta=0.5)
        env.reset(options={"index": 1})
        env.step(action(B))
        _, reward, _, _, info = env.step(action(EOS, regret=50.0, value=0.0))
        assert reward == 1.0
        assert info["correct"] is True

    def test_an_outer_time_limit_on_the_same_step_leaves_both_flags(self):
        env = gym.wrappers.TimeLimit(RegretTermination(letter_env(), beta=0.5), 1)
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step(FAILING)
        assert (reward, terminated, truncated) == (-1.0, True, True)
        assert info["stop_reason"] is StopReason.REGRET

    def test_an_inner_time_limit_wins_over_a_stop(self):
        env = RegretTermination(gym.wrappers.TimeLimit(letter_env(), 1), beta=0.5)
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step(FAILING)
        assert (reward, terminated, truncated) == (0.0, False, True)
        assert "stop_reason" not in info

    def test_reset_forgets_the_last_episodes_regret(self):
        env = RegretTermination(letter_env(), beta=100.0)
        env.reset(seed=0)
        *_, first = env.step(FAILING)
        *_, second = env.step(FAILING)
        env.reset()
        *_, again = env.step(FAILING)
        assert first["z"] == again["z"] < second["z"]

    def test_disabled_or_reconfigured_between_batches(self):
        env = RegretTermination(letter_env(), beta=0.5, enabled=False)
        env.reset(seed=0)
        _, _, terminated, _, info = env.step(FAILING)
        assert not terminated
        assert info["z"] > info["threshold"]
        env.configure(RegretStatistics(mean=0.0, var=1.0), beta=0.25, enabled=True)
        env.reset()
        _, _, terminated, _, info = env.step(FAILING)
        assert terminated
        assert info["threshold"] == pytest.approx(0.05)


class TestActions:
    @pytest.mark.parametrize(
        "given",
        [
            {"token": 2, "regret": 0.5, "value": 0.25},
            {"token": np.int64(2), "regret": np.float32(0.5), "value": np.array(0.25, np.float32)},
            PolicySignals(2, 0.5, 0.25),
        ],
    )
    def test_carry_their_signals_in_any_form(self, given):
        env = RegretTermination(letter_env())
        env.reset(seed=0)
        observation, *_, info = env.step(given)
        assert observation["tokens"][observation["length"].item() - 1] == 2
        assert (info["regret"], info["value"]) == (0.5, 0.25)

    @pytest.mark.parametrize("answer", [(0.5, 0.25), PolicySignals(None, 0.5, 0.25)])
    def test_may_be_plain_tokens_where_a_callable_gives_the_signals(self, answer):
        asked = []

        def signals(observation, token):
            asked.append((observation["length"].item(), token))
            return answer

        env = RegretTermination(letter_env(), signals=signals)
        assert env.action_space == gym.spaces.Discrete(5)
        observation, _ = env.reset(seed=0)
        length = observation["length"].item()
        env.step(2)
        *_, info = env.step(3)
        assert asked == [(length, 2), (length + 1, 3)]
        assert (info["regret"], info["value"]) == (0.5, 0.25)
        *_, info = env.step(action(regret=0.75))
        assert info["regret"] == 0.75

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (3, r"expected an action with keys .* or a `signals` callable .* got 3 and signals=None"),
            ({"token": 3}, r"expected an action with keys \['regret', 'token', 'value'\], got \['token'\]"),
            ({**FAILING, "logprob": 0.0}, r"got \['logprob', 'regret', 'token', 'value'\]"),
            (action(regret=-0.1), r"expected finite regrets >= 0, got \[-0.1"),
            (action(regret=np.nan), r"expected finite regrets >= 0, got \[nan\]"),
            (action(regret=np.inf), r"expected finite regrets >= 0, got \[inf\]"),
            (action(value=np.nan), r"expected finite values, got \[nan\]"),
            (action(value=-np.inf), r"expected finite values, got \[-inf\]"),
            (action(value=None), r"expected a value of shape \(\), got None"),
            (action(regret=np.zeros(2)), r"expected a regret of shape \(\), got \(2,\)"),
            (action(token=5), r"expected a token id in \[0, 5\), got 5"),
            (action(token=0.5), r"expected an integer token id, got 0.5"),
        ],
    )
    def test_that_cannot_be_are_refused_and_change_nothing(self, given, message):
        env = RegretTermination(letter_env())
        before, _ = env.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            env.step(given)
        after, *_, info = env.step(action())
        assert after["length"] == before["length"] + 1
        assert info["z"] == 0.0

    @pytest.mark.parametrize("last", [None, action(EOS), FAILING])
    def test_on_an_episode_that_does_not_run_are_an_error(self, last):
        env = RegretTermination(letter_env(), beta=0.5)
        if last is not None:
            env.reset(seed=0)
            env.step(last)
        with pytest.raises(ResetNeeded, match=r"expected reset\(\) before step\(\)"):
            env.step(action())


class TestStack:
    @pytest.mark.parametrize("signals", [None, confident])
    def test_is_rebuilt_from_a_pickled_spec(self, signals):
        options = {"fail_reward": -0.5, "statistics": RegretStatistics(0.1, 0.2), "beta": 0.3, "rule": "regret_only"}
        env = gym.make("espo_env/Arithmetic-v0", max_terms=3)
        env = RecordTrajectory(RegretTermination(env, signals=signals, **options), max_trajectories=7)
        again = gym.make(pickle.loads(pickle.dumps(env.spec)))
        assert str(again) == str(env)
        assert again.trajectories.maxlen == 7
        inner = again.env
        assert isinstance(inner, RegretTermination)
        assert inner.fail_reward == -0.5
        assert inner.detector.state.statistics == RegretStatistics(0.1, 0.2)
        assert (inner.detector.state.beta, inner.detector.settings.rule, inner.signals) == (0.3, "regret_only", signals)
        assert again.unwrapped.task.max_terms == 3
        assert again.spec == env.spec

    @pytest.mark.parametrize("between", [lambda env: env, lambda env: gym.wrappers.TimeLimit(env, 3)])
    @pytest.mark.parametrize("signals", [None, confident])
    def test_has_one_detector(self, between, signals):
        env = between(RegretTermination(letter_env(), signals=signals))
        with pytest.raises(ValueError, match="expected an environment without RegretTermination, got <"):
            RegretTermination(env)

    def test_passes_gymnasiums_checker(self):
        with pytest.warns(UserWarning, match="different from the unwrapped version"):
            check_env(RegretTermination(letter_env()))

    def test_wraps_any_environment_with_discrete_actions(self):
        env = RegretTermination(gym.make("CartPole-v1"), beta=0.5)
        env.reset(seed=0)
        _, reward, terminated, *_ = env.step({"token": 1, "regret": 50.0, "value": 0.0})
        assert (reward, terminated) == (-1.0, True)
        with pytest.raises(ValueError, match="expected an environment with a Discrete action space, got Box"):
            RegretTermination(gym.make("Pendulum-v1"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"fail_reward": np.nan}, "expected a finite fail_reward, got nan"),
            ({"rule": "sometimes"}, "expected a stop rule out of .* got 'sometimes'"),
            ({"smoothing": 1.0}, r"expected smoothing in \[0, 1\), got 1.0"),
            ({"value_floor": 0.0}, "expected value_floor > 0, got 0"),
            ({"beta": np.inf}, "expected a finite beta, got inf"),
        ],
    )
    def test_refuses_constants_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            RegretTermination(letter_env(), **options)
        with pytest.raises(ValueError, match=message):
            VectorRegretTermination(letter_env().vectorize(2), **options)

    def test_vector_wrapper_wants_the_token_environment_itself(self):
        wrapped = gym.wrappers.vector.RecordEpisodeStatistics(letter_env().vectorize(2))
        with pytest.raises(ValueError, match=r"expected a TokenGenerationVectorEnv .*, got <RecordEpisodeStatistics"):
            VectorRegretTermination(wrapped)


class TestRendering:
    @pytest.mark.parametrize("mode", ["ansi", "html"])
    def test_shows_the_place_of_the_stop(self, mode):
        env = RegretTermination(letter_env(render_mode=mode), beta=0.5)
        env.reset(seed=0)
        env.step(action())
        assert "stopped at step" not in env.render()
        env.step(FAILING)
        view = env.render()
        assert "stopped at step 1" in view
        assert "threshold 0.1" in view
        assert "reward -1" in view

    def test_shows_it_for_every_slot(self):
        env = VectorRegretTermination(letter_env(render_mode="ansi").vectorize(2, AutoresetMode.DISABLED), beta=0.5)
        env.reset(seed=0)
        env.step({"token": [A, A], "regret": [0.0, 50.0], "value": [1.0, 0.0]})
        first, second = env.render()
        assert "running" in first
        assert "stopped at step 0" in second
        assert "threshold 0.1" in second

    def test_leaves_signals_out_where_a_response_was_played_at_once(self):
        env = VectorRegretTermination(letter_env(render_mode="html").vectorize(1, AutoresetMode.DISABLED))
        env.reset(seed=0)
        env.step({"token": [A], "regret": [0.5], "value": [1.0]})
        assert "threshold 7" in env.render()[0]
        env.complete([0], [[B]], [StopReason.REGRET])
        assert "stopped at step 1" in env.render()[0]
        assert "threshold 7" not in env.render()[0]

    def test_of_another_environment_is_that_environments_own(self):
        env = RegretTermination(gym.make("FrozenLake-v1", render_mode="ansi"))
        env.reset(seed=0)
        assert "FFFH" in env.render()


class TestRecords:
    def test_have_the_signals_and_the_outcome(self):
        env = RecordTrajectory(RegretTermination(letter_env(), beta=0.5), max_trajectories=2)
        env.reset(options={"index": 1})
        env.step(action(A, 0.25, 0.5))
        env.step(action(B, 50.0, 0.0))
        stopped = env.trajectories[0]
        assert stopped.prompt_tokens.tolist() == [B]
        assert stopped.response_tokens.tolist() == [A, B]
        assert stopped.regrets.tolist() == [0.25, 50.0]
        assert stopped.values.tolist() == [0.5, 0.0]
        assert stopped.z[1] > stopped.thresholds[1]
        assert (stopped.stop_reason, stopped.reward, stopped.mark) == (StopReason.REGRET, -1.0, 1)
        assert stopped.correct is None
        for _ in range(2):
            env.reset(options={"index": 1})
            env.step(action(B))
            env.step(action(EOS))
        assert len(env.trajectories) == 2
        right = env.trajectories[-1]
        assert (right.stop_reason, right.reward, right.mark, right.correct) == (StopReason.EOS, 1.0, -1, True)
        assert right.problem.prompt == "b"

    def test_without_a_detector_have_empty_columns(self):
        env = RecordTrajectory(letter_env())
        env.reset(seed=0)
        env.step(EOS)
        assert len(env.trajectories[0].regrets) == 0

    def test_need_a_token_environment(self):
        with pytest.raises(ValueError, match="expected a TokenGenerationEnv, wrapped or not, got <"):
            RecordTrajectory(gym.make("CartPole-v1"))
        with pytest.raises(ValueError, match="expected max_trajectories >= 1, got 0"):
            RecordTrajectory(letter_env(), max_trajectories=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", sorted(STOP_RULES))
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_vector_wrapper_equals_wrapper_equals_plain_detector(mode, rule, seed):
    num_envs = 4
    rng = np.random.default_rng(seed)
    beta = {"random": 1.5, "value_only": 2.0}.get(rule, 0.3)
    wrapper = {"rule": rule, "beta": beta, "statistics": RegretStatistics(0.2, 0.5), "seed": 3}
    options = {"max_new_tokens": 5, "horizon": "truncation"}
    vector = VectorRegretTermination(
        TokenGenerationVectorEnv(LetterTask(), num_envs, autoreset_mode=mode, **options), **wrapper
    )
    sync = SyncVectorEnv(
        [lambda: RegretTermination(TokenGenerationEnv(LetterTask(), **options), **wrapper)] * num_envs,
        autoreset_mode=mode,
    )
    assert vector.action_space == sync.action_space
    detectors = [make_detector(1, wrapper["statistics"], beta, rule=rule) for _ in range(num_envs)]
    same(vector.reset(seed=seed), sync.reset(seed=seed))
    fresh = np.ones(num_envs, bool)
    for _ in range(25):
        actions = {
            "token": rng.choice([EOS, A, B], size=num_envs, p=[0.15, 0.5, 0.35]),
            "regret": rng.exponential(1.0, size=num_envs).astype(np.float32),
            "value": rng.uniform(-0.5, 1.0, size=num_envs).astype(np.float32),
        }
        got, expected = vector.step(actions), sync.step(actions)
        same(got, expected)
        over = got[2] | got[3]
        z, have = got[4]["z"], got[4]["_z"].copy()
        if mode is AutoresetMode.SAME_STEP and over.any():
            z, have = np.where(over, got[4]["final_info"]["z"], z), have | over
        # The plain loop; its draws for the random rule are its own, so only the others are compared.
        for slot in np.flatnonzero(have):
            if fresh[slot]:
                detectors[slot].reset()
            verdict = detectors[slot].update(actions["regret"][[slot]], actions["value"][[slot]])
            if rule != "random":
                assert verdict.score[0] == z[slot]
                stopped = got[1][slot] == -1.0
                # Unless a stop was due on a step that ended by itself.
                natural = actions["token"][slot] == EOS or got[3][slot]
                assert stopped == (bool(verdict.stop[0]) and not natural)
        fresh = np.where(have, over, fresh)
        if mode is AutoresetMode.DISABLED and over.any():
            same(*(env.reset(options={"reset_mask": over.copy()}) for env in (vector, sync)))


def test_partial_reset_clears_these_slots_z_and_no_others():
    env = VectorRegretTermination(letter_env(max_new_tokens=9).vectorize(3, AutoresetMode.DISABLED), beta=100.0)
    env.reset(seed=0)
    noisy = {"token": [A] * 3, "regret": [5.0] * 3, "value": [1.0] * 3}
    env.step(noisy)
    *_, infos = env.step(noisy)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    *_, after = env.step({**noisy, "regret": [0.0] * 3})
    assert after["z"][1] == 0.0
    np.testing.assert_allclose(after["z"][[0, 2]], 0.9 * infos["z"][[0, 2]], rtol=1e-6)


def test_signals_of_slots_that_are_only_reset_are_not_looked_at():
    env = VectorRegretTermination(letter_env().vectorize(2))
    env.reset(seed=0)
    env.step({"token": [EOS, A], "regret": [0.0, 0.0], "value": [0.0, 0.0]})
    *_, infos = env.step({"token": [99, A], "regret": [np.nan, 0.5], "value": [np.nan, 0.0]})
    assert infos["_z"].tolist() == [False, True]
    with pytest.raises(ValueError, match=r"expected finite regrets >= 0, got \[nan\] in rows \[1\]"):
        env.step({"token": [A, A], "regret": [0.0, np.nan], "value": [0.0, 0.0]})


def test_plain_tokens_of_all_slots_with_a_callable():
    def signals(observations, tokens):
        return np.where(np.asarray(tokens) == X, 50.0, 0.0), np.zeros(2)

    env = VectorRegretTermination(letter_env().vectorize(2), signals=signals, beta=0.5)
    assert env.action_space == gym.spaces.MultiDiscrete([5, 5])
    env.reset(seed=0)
    _, rewards, terminations, _, infos = env.step(np.array([A, X]))
    assert rewards.tolist() == [0.0, -1.0]
    assert terminations.tolist() == [False, True]
    assert infos["stop_reason"].tolist() == [None, StopReason.REGRET]
    assert infos["_stop_reason"].tolist() == [False, True]


@pytest.mark.parametrize("mode", MODES)
def test_whole_responses_get_the_failure_reward_where_they_were_stopped(mode):
    env = VectorRegretTermination(letter_env().vectorize(3, mode), fail_reward=-0.5, beta=0.5)
    env.reset(options={"indices": np.array([1, 1, 1])})
    env.step({"token": [B] * 3, "regret": [0.4] * 3, "value": [1.0] * 3})
    reasons = [StopReason.REGRET, StopReason.EOS, StopReason.REGRET]
    out = env.complete([0, 1, 2], [[A], [EOS], [EOS]], reasons)
    assert out.rewards.tolist() == [-0.5, 1.0, 0.0]
    assert out.terminations.tolist() == [True, True, False]
    assert isinstance(out.errors[2], ValueError)
    if mode is AutoresetMode.DISABLED:
        env.reset()
    elif mode is AutoresetMode.NEXT_STEP:
        env.step({"token": [A] * 3, "regret": [0.0] * 3, "value": [0.0] * 3})
    *_, infos = env.step({"token": [A] * 3, "regret": [0.0] * 3, "value": [0.0] * 3})
    assert infos["z"].tolist() == [0.0, 0.0, 0.0]


def test_random_stops_are_reproduced_by_the_seed_of_a_reset():
    def lengths(seed):
        env = RegretTermination(letter_env(max_new_tokens=200), rule="random", beta=2.5)
        out = []
        env.reset(seed=seed)
        for _ in range(10):
            count, over = 0, False
            while not over:
                *_, terminated, truncated, _ = env.step(action())
                count, over = count + 1, terminated or truncated
            out.append(count)
            env.reset()
        return out

    assert lengths(5) == lengths(5) != lengths(6)


def test_wrappers_are_public():
    assert espo_env.RegretTermination is RegretTermination
    assert espo_env.VectorRegretTermination is VectorRegretTermination
