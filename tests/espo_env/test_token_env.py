from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from letter_task import LetterTask

from espo_env import StopReason, TokenGenerationEnv, TokenGenerationVectorEnv
from espo_env.tasks import Problem

EOS = 0
A, B, C, X = 1, 2, 3, 4


def play(env, tokens, **reset):
    env.reset(**reset)
    for token in tokens:
        result = env.step(token)
    return result


@pytest.mark.parametrize(
    "env_id", ["espo_env/Arithmetic-v0", "espo_env/Walk-v0", "espo_env/Cycle-v0", "espo_env/ReasoningGym-v0"]
)
def test_gymnasiums_checker_has_nothing_to_say(env_id):
    if "Gym-" in env_id:
        pytest.importorskip("reasoning_gym")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id).unwrapped)


def test_tokens_are_appended_to_the_prompt(letters):
    env = TokenGenerationEnv(letters, max_new_tokens=3)
    first, info = env.reset(options={"index": 2})
    assert info["problem"].prompt == "cab"
    assert first["tokens"].tolist() == [C, A, B, 0, 0, 0, 0]
    assert (first["length"].tolist(), first["length"].dtype, first["tokens"].dtype) == ([3], np.int32, np.int32)
    second, reward, terminated, truncated, info = env.step(np.int64(B))
    assert second["tokens"].tolist() == [C, A, B, B, 0, 0, 0]
    assert (reward, terminated, truncated, set(info)) == (0.0, False, False, {"problem"})
    assert first["tokens"].tolist() == [C, A, B, 0, 0, 0, 0]
    assert second in env.observation_space


@pytest.mark.parametrize(
    ("horizon", "tokens", "reward", "terminated", "truncated", "reason", "correct"),
    [
        ("terminal", [B, EOS], 1.0, True, False, "eos", True),
        ("terminal", [A, EOS], 0.0, True, False, "eos", False),
        ("terminal", [EOS], 0.0, True, False, "eos", False),
        ("terminal", [B, B, B], 0.0, True, False, "length", None),
        ("truncation", [B, B, B], 0.0, False, True, "length", None),
        ("truncation", [B, EOS], 1.0, True, False, "eos", True),
        ("truncation", [A, B, EOS], 0.0, True, False, "eos", False),
    ],
)
def test_end_token_and_horizon_are_different_ends(
    letters, horizon, tokens, reward, terminated, truncated, reason, correct
):
    env = TokenGenerationEnv(letters, max_new_tokens=3, horizon=horizon)
    _, got, was_terminated, was_truncated, info = play(env, tokens, options={"index": 1})
    assert (got, was_terminated, was_truncated) == (reward, terminated, truncated)
    assert info["stop_reason"] is StopReason(reason)
    assert info.get("correct") is correct
    assert ("grade" in info) == (correct is not None)
    record = env.trajectory()
    assert (record.stop_reason, record.reward, record.correct) == (reason, reward, correct)
    assert record.response_tokens.tolist() == tokens
    assert record.prompt_tokens.tolist() == [B]


def test_an_answer_cut_off_by_the_horizon_is_not_graded(letters):
    # X would make the grader fail.
    assert play(TokenGenerationEnv(letters, max_new_tokens=2), [X, X], seed=0)[1] == 0.0


def test_what_the_grader_raises_passes_through_and_ends_the_episode(letters):
    env = TokenGenerationEnv(letters, max_new_tokens=3)
    with pytest.raises(RuntimeError, match="grader failed on x"):
        play(env, [X, EOS], seed=0)
    with pytest.raises(ResetNeeded):
        env.step(A)
    env.reset()
    env.step(A)


@pytest.mark.parametrize("tokens", [None, [EOS], [A, A, A]])
def test_steps_outside_an_episode_are_an_error(letters, tokens):
    env = TokenGenerationEnv(letters, max_new_tokens=3)
    state = "no episode was started"
    if tokens is not None:
        play(env, tokens, seed=0)
        state = "the episode has ended"
    with pytest.raises(ResetNeeded, match=f"expected reset\\(\\) before step\\(\\): {state}"):
        env.step(A)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (5, r"expected a token id in \[0, 5\), got 5"),
        (-1, r"expected a token id in \[0, 5\), got -1"),
        (1.0, "expected an integer token id, got 1.0"),
        ("a", "expected an integer token id, got 'a'"),
        ({"token": 1}, "expected an integer token id, got {'token': 1}"),
    ],
)
def test_actions_outside_the_vocabulary_are_an_error(letters, action, message):
    env = TokenGenerationEnv(letters, max_new_tokens=3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


def test_the_seed_decides_the_problems(letters):
    env = TokenGenerationEnv(letters, max_new_tokens=3)

    def problems(seed):
        return [env.reset(seed=seed)[1]["problem"].index] + [env.reset()[1]["problem"].index for _ in range(20)]

    assert problems(3) == problems(3) != problems(4)
    assert set(problems(3)) == set(range(5))


def test_problems_outside_the_split_and_unknown_options_are_an_error(letters):
    env = TokenGenerationEnv(letters, max_new_tokens=3)
    with pytest.raises(IndexError, match=r"expected an index in \[0, 5\) of split 'train', got 5"):
        env.reset(options={"index": 5})
    with pytest.raises(ValueError, match=r"expected reset options out of \['index'\], got \['indices'\]"):
        env.reset(options={"indices": 5})


@pytest.mark.parametrize(("prompt", "length"), [("abcab", 5), ("", 0)])
def test_a_prompt_that_the_task_did_not_announce_is_an_error(prompt, length):
    class Liar(LetterTask):
        def problem(self, index, split="train"):
            return Problem(prompt, "a")

    with pytest.raises(ValueError, match=rf"expected a prompt of 1 to 4 tokens \(max_prompt_tokens\), got {length}"):
        TokenGenerationEnv(Liar(), max_new_tokens=3).reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "letters"}, "expected a Task, got 'letters'"),
        ({"max_new_tokens": 0}, "expected max_new_tokens >= 1, got 0"),
        ({"split": "test"}, r"expected split out of \['train', 'eval'\], got 'test'"),
        ({"horizon": "soft"}, r"expected horizon out of \['terminal', 'truncation'\], got 'soft'"),
        ({"render_mode": "human"}, "expected render_mode out of .*'ansi', 'html'.* got 'human'"),
    ],
)
def test_wrong_options_are_named(letters, options, message):
    options = {"task": letters, "max_new_tokens": 3} | options
    with pytest.raises(ValueError, match=message):
        TokenGenerationEnv(**options)
    with pytest.raises(ValueError, match=message):
        TokenGenerationVectorEnv(num_envs=2, **options)


def test_a_split_without_problems_is_an_error():
    class Empty(LetterTask):
        words = ()

    with pytest.raises(ValueError, match="expected a task with problems in split 'train', got none"):
        TokenGenerationEnv(Empty(), max_new_tokens=3)


def test_rendering(letters):
    assert TokenGenerationEnv(letters, max_new_tokens=3).render() is None
    env = TokenGenerationEnv(letters, max_new_tokens=3, render_mode="ansi")
    with pytest.raises(ResetNeeded, match=r"expected reset\(\) before render\(\)"):
        env.render()
    env.reset(options={"index": 2})
    env.step(A)
    assert env.render() == "prompt    cab\nresponse  a\noutcome   running · 1 tokens\nanswer    cab\n"
    env.step(EOS)
    assert "eos · 2 tokens · reward 0 · wrong" in env.render()
    page = TokenGenerationEnv(letters, max_new_tokens=3, render_mode="html")
    page.reset(options={"index": 2})
    assert page.render().startswith("<!DOCTYPE html>")
