from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from letter_task import LetterTask, same

from espo_env import StopReason, TokenGenerationEnv, TokenGenerationVectorEnv
from espo_env.tasks import ArithmeticTask

EOS = 0
A, B, C, X = 1, 2, 3, 4
MODES = list(AutoresetMode)


def tokens_of_length(draw: np.random.Generator, length: int) -> np.ndarray:
    return draw.integers(1, 4, size=length).astype(np.int32)


@pytest.mark.parametrize("horizon", ["terminal", "truncation"])
@pytest.mark.parametrize("mode", MODES)
def test_every_slot_behaves_like_an_environment_in_gymnasiums_sync_vector(letters, mode, horizon):
    num_envs, options = 5, {"max_new_tokens": 4, "horizon": horizon}
    vector = TokenGenerationVectorEnv(letters, num_envs, autoreset_mode=mode, **options)
    sync = SyncVectorEnv([lambda: TokenGenerationEnv(letters, **options)] * num_envs, autoreset_mode=mode)
    assert vector.observation_space == sync.observation_space
    assert vector.action_space == sync.action_space
    assert vector.metadata["autoreset_mode"] is mode
    rng = np.random.default_rng(0)
    same(vector.reset(seed=7), sync.reset(seed=7))
    ended = 0
    for _ in range(60):
        actions = rng.choice([EOS, A, B, C], size=num_envs, p=[0.3, 0.3, 0.2, 0.2])
        got, expected = vector.step(actions), sync.step(actions)
        same(got, expected)
        over = got[2] | got[3]
        ended += over.sum()
        if mode is AutoresetMode.DISABLED and over.any():
            # The second is given a copy because it takes the mask out of its options.
            got, expected = (env.reset(options={"reset_mask": over.copy()}) for env in (vector, sync))
            same(got, expected)
    assert ended > 50
    same(vector.reset(seed=[1, None, 3, 4, 5]), sync.reset(seed=[1, None, 3, 4, 5]))


def test_metadata_of_one_instance_leaves_the_others_alone(letters):
    disabled = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3, autoreset_mode="Disabled")
    default = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3)
    assert disabled.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert default.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert "autoreset_mode" not in TokenGenerationVectorEnv.metadata


def test_partial_reset_poses_the_given_problems_and_leaves_the_other_slots_alone(letters):
    env = TokenGenerationVectorEnv(letters, 3, max_new_tokens=3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(options={"indices": np.array([0, 1, 2])})
    env.step([A, A, A])
    observation, infos = env.reset(
        options={"reset_mask": np.array([True, False, True]), "indices": np.array([3, 9, 4])}
    )
    assert [problem.prompt for problem in env.problems] == ["acca", "b", "bb"]
    assert infos["_problem"].tolist() == [True, False, True]
    assert observation["length"].tolist() == [[4], [2], [2]]
    assert observation["tokens"][1].tolist() == [B, A, 0, 0, 0, 0, 0]
    assert env.prompt_tokens(0).tolist() == [A, C, C, A]


def test_a_reset_that_fails_changes_no_slot(letters):
    env = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3)
    env.reset(options={"indices": np.array([0, 1])})
    with pytest.raises(IndexError, match=r"expected an index in \[0, 5\) of split 'train', got 5"):
        env.reset(options={"indices": np.array([2, 5])})
    assert [problem.index for problem in env.problems] == [0, 1]


def test_observations_are_copies_unless_views_were_asked_for(letters):
    copies = TokenGenerationVectorEnv(letters, 1, max_new_tokens=3)
    before, _ = copies.reset(options={"indices": np.array([1])})
    copies.step([A])
    assert before["length"].tolist() == [[1]]
    views = TokenGenerationVectorEnv(letters, 1, max_new_tokens=3, copy=False)
    before, _ = views.reset(options={"indices": np.array([1])})
    views.step([A])
    assert before["length"].tolist() == [[2]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda env: env.step([1, 2, 3]), ValueError, r"expected actions of shape \(2,\) .* got \(3,\)"),
        (lambda env: env.step([0.5, 1.0]), ValueError, "got .* float64"),
        (lambda env: env.step([1, 5]), ValueError, r"expected token ids in \[0, 5\), got \[5\] in slots \[1\]"),
        (lambda env: env.reset(options={"mask": 1}), ValueError, r"expected reset options out of .*, got \['mask'\]"),
        (lambda env: env.reset(options={"reset_mask": np.array([1, 0])}), ValueError, "expected reset_mask .* bool"),
        (lambda env: env.reset(seed=[1, 2, 3]), ValueError, "expected one seed for each of 2 slots, got 3"),
        (lambda env: env.complete([0, 0], [[1], [1]], ["abort"] * 2), ValueError, "expected different slots"),
        (
            lambda env: env.complete([2], [[1]], ["abort"]),
            ValueError,
            r"expected different slots in \[0, 2\), got \[2\]",
        ),
        (lambda env: env.complete([0], [[1], [1]], ["abort"]), ValueError, "got 2 and 1 for 1"),
        (lambda env: env.complete([0], [[1]], ["bored"]), ValueError, "'bored' is not a valid StopReason"),
    ],
)
def test_wrong_arguments_are_named(letters, call, error, message):
    env = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3)
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        call(env)


@pytest.mark.parametrize("mode", MODES)
def test_step_before_reset_is_an_error(letters, mode):
    with pytest.raises(ResetNeeded, match=r"no running episode in slots \[0, 1\]"):
        TokenGenerationVectorEnv(letters, 2, max_new_tokens=3, autoreset_mode=mode).step([1, 1])


def test_without_autoreset_stepping_an_ended_slot_is_an_error(letters):
    env = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step([EOS, A])
    assert env.running.tolist() == [False, True]
    with pytest.raises(ResetNeeded, match=r"slots \[0\]"):
        env.step([A, A])
    with pytest.raises(ResetNeeded, match=r"slots \[0\]"):
        env.complete([0], [[EOS]], [StopReason.EOS])


def test_an_exception_of_the_grader_passes_through_a_step(letters):
    env = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3)
    env.reset(seed=0)
    env.step([X, A])
    with pytest.raises(RuntimeError, match="grader failed on x"):
        env.step([EOS, A])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("horizon", ["terminal", "truncation"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), before=st.integers(0, 2))
def test_completing_whole_responses_equals_stepping_them(mode, horizon, seed, before):
    rng = np.random.default_rng(seed)
    num_envs, horizon_tokens = 4, 4
    options = {"max_new_tokens": horizon_tokens, "horizon": horizon, "autoreset_mode": mode}
    stepped, whole = (TokenGenerationVectorEnv(LetterTask(), num_envs, **options) for _ in range(2))
    for env in (stepped, whole):
        env.reset(seed=seed)
    # Some tokens one by one, the rest at once.
    for _ in range(before):
        actions = tokens_of_length(rng, num_envs)
        stepped.step(actions), whole.step(actions)
    responses, reasons = [], []
    for _ in range(num_envs):
        length = int(rng.integers(1, horizon_tokens - before + 1))
        eos = bool(rng.integers(2)) or length < horizon_tokens - before
        responses.append(np.append(tokens_of_length(rng, length - 1), EOS if eos else B))
        reasons.append(StopReason.EOS if eos else StopReason.LENGTH)
    out = whole.complete(np.arange(num_envs), responses, reasons)

    # A reference that knows nothing of slots: single environments.
    singles = [
        TokenGenerationEnv(LetterTask(), max_new_tokens=horizon_tokens, horizon=horizon) for _ in range(num_envs)
    ]
    for slot, single in enumerate(singles):
        single.reset(seed=seed + slot)
        for token in stepped.trajectory(slot).response_tokens:
            single.step(token)
        for token in responses[slot]:
            observation, reward, terminated, truncated, info = single.step(token)
        assert (out.rewards[slot], out.terminations[slot], out.truncations[slot]) == (reward, terminated, truncated)
        assert out.correct[slot] == info.get("correct")
        assert out.errors[slot] is None
        if mode is AutoresetMode.SAME_STEP:
            observation, _ = single.reset()
            assert whole.running[slot]
        else:
            assert not whole.running[slot]
        same(whole.observation(slot), observation)
    if mode is AutoresetMode.NEXT_STEP:
        observations, *_ = whole.step(np.zeros(num_envs, np.int64))
        for slot, single in enumerate(singles):
            same(observations["tokens"][slot], single.reset()[0]["tokens"])


def test_one_failure_never_loses_the_batch(letters):
    env = TokenGenerationVectorEnv(letters, 3, max_new_tokens=3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(options={"indices": np.array([1, 1, 1])})
    out = env.complete([0, 1, 2], [[B, EOS], [X, EOS], [A, EOS]], [StopReason.EOS] * 3)
    assert out.rewards.tolist() == [1.0, 0.0, 0.0]
    assert out.rewards.dtype == np.float32
    assert out.correct == [True, None, False]
    assert [type(error) for error in out.errors] == [type(None), RuntimeError, type(None)]
    assert out.terminations.tolist() == [True, False, True]
    assert out.truncations.tolist() == [False, True, False]
    assert not env.running.any()
    env.reset(options={"reset_mask": np.array([False, True, False])})
    assert env.running.tolist() == [False, True, False]


def test_only_responses_that_ended_by_themselves_are_graded(letters):
    env = TokenGenerationVectorEnv(letters, 4, max_new_tokens=3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    reasons = [StopReason.LENGTH, StopReason.REGRET, StopReason.ABORT, StopReason.ERROR]
    out = env.complete(range(4), [[X, X, X], [X], [], [X]], reasons, fail_reward=-0.5)
    assert out.errors == [None] * 4
    assert out.correct == [None] * 4
    assert out.rewards.tolist() == [0.0, -0.5, 0.0, 0.0]
    assert out.terminations.tolist() == [True, True, False, False]
    assert out.truncations.tolist() == [False, False, True, True]
    assert env.trajectory(1).stop_reason is StopReason.REGRET


@pytest.mark.parametrize(
    ("response", "reason", "message"),
    [
        ([A, B], "eos", "expected a response that ends with token 0 or after 3 tokens, got 'eos' after 2"),
        ([A, B], "length", "got 'length' after 2"),
        ([], "regret", "got 'regret' after 0"),
        ([A, EOS], "length", "ends by itself after 2 tokens with 'eos', got 'length' after 2"),
        ([A, EOS], "regret", "ends by itself after 2 tokens with 'eos', got 'regret' after 2"),
        ([A, B, C], "regret", "ends by itself after 3 tokens with 'length', got 'regret' after 3"),
        ([EOS, A], "eos", "ends by itself after 1 tokens with 'eos', got 'eos' after 2"),
        ([A, B, C, EOS], "eos", "ends by itself after 3 tokens with 'length', got 'eos' after 4"),
        ([A, 5], "regret", r"expected token ids in \[0, 5\), got 1 to 5"),
        ([[A]], "regret", r"expected a response of shape \(T,\)"),
    ],
)
def test_a_response_that_does_not_fit_its_stop_reason_is_reported(letters, response, reason, message):
    env = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3)
    env.reset(seed=0)
    out = env.complete([0, 1], [response, [EOS]], [reason, "eos"])
    with pytest.raises(ValueError, match=message):
        raise out.errors[0]
    assert out.errors[1] is None
    assert out.rewards.tolist() == [0.0, 0.0]


def test_completing_nothing_gives_nothing(letters):
    env = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3)
    env.reset(seed=0)
    assert len(env.complete([], [], []).rewards) == 0


def test_rendering_shows_every_slot(letters):
    env = TokenGenerationVectorEnv(letters, 2, max_new_tokens=3, render_mode="ansi", autoreset_mode="Disabled")
    env.reset(options={"indices": np.array([0, 3])})
    env.step([EOS, C])
    first, second = env.render()
    assert "eos" in first
    assert "ab" in first
    assert "running" in second
    assert "acca" in second


def test_make_vec_builds_it_with_task_options():
    env = gym.make_vec(
        "espo_env/Arithmetic-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        max_terms=2,
        max_new_tokens=20,
        autoreset_mode="SameStep",
    )
    assert isinstance(env, TokenGenerationVectorEnv)
    assert env.mdp.max_new_tokens == 20
    assert env.task.max_terms == 2
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_an_environment_gives_the_vector_of_itself():
    task = ArithmeticTask()
    env = TokenGenerationEnv(task, max_new_tokens=9, split="eval", horizon="truncation", render_mode="ansi")
    vector = env.vectorize(3, AutoresetMode.DISABLED)
    assert (vector.task, vector.num_envs, vector.mdp, vector.render_mode) == (task, 3, env.mdp, "ansi")
    assert vector.autoreset_mode is AutoresetMode.DISABLED
