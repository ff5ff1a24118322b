from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from letter_task import LetterTask
from registered_envs import WITH_TASK, options

import espo_env
from espo_env import RegretTermination, TokenGenerationEnv, TokenGenerationVectorEnv, VectorRegretTermination

ROOT = Path(espo_env.__file__).parents[1]


@pytest.mark.parametrize("env_id", WITH_TASK)
def test_ids_build_environments_that_grade_their_own_solution(env_id):
    env = gym.make(env_id, **options(env_id))
    assert isinstance(env.unwrapped, TokenGenerationEnv)
    for index in range(min(30, env.unwrapped.task.num_problems("train"))):
        _, info = env.reset(options={"index": index})
        for token in env.unwrapped.task.encode_solution(info["problem"]):
            _, reward, terminated, truncated, info = env.step(token)
        assert (reward, terminated, truncated) == (1.0, True, False)


@pytest.mark.parametrize("env_id", WITH_TASK)
def test_ids_build_vector_environments(env_id):
    kwargs = {"split": "eval", **options(env_id)}
    env = gym.make_vec(env_id, num_envs=3, vectorization_mode="vector_entry_point", **kwargs)
    assert isinstance(env, TokenGenerationVectorEnv)
    assert env.mdp.split == "eval"
    observation, _ = env.reset(seed=0)
    single = gym.make(env_id, **kwargs)
    np.testing.assert_array_equal(observation["tokens"][2], single.reset(seed=2)[0]["tokens"])


def test_options_of_environment_and_task_are_keyword_arguments():
    env = gym.make(
        "espo_env/Arithmetic-v0", max_terms=3, max_new_tokens=20, horizon="truncation", split="eval", render_mode="ansi"
    ).unwrapped
    assert env.task.max_terms == 3
    assert (env.mdp.max_new_tokens, env.mdp.horizon, env.mdp.split, env.render_mode) == (
        20,
        "truncation",
        "eval",
        "ansi",
    )


@pytest.mark.parametrize("task", [LetterTask(), "letter_task:LetterTask"])
def test_a_task_of_ones_own(task):
    env = gym.make("espo_env/TokenGeneration-v0", task=task, max_new_tokens=3)
    assert isinstance(env.unwrapped.task, LetterTask)
    again = gym.make(pickle.loads(pickle.dumps(env.spec)))
    assert again.unwrapped.task.problem(2) == env.unwrapped.task.problem(2)


def test_a_task_by_name_takes_its_options():
    options = {"task": "espo_env.tasks.walk:WalkTask", "max_new_tokens": 20}
    assert gym.make("espo_env/TokenGeneration-v0", max_steps=4, **options).unwrapped.task.max_steps == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "LetterTask"}, ValueError, "expected a task or 'module:Class', got 'LetterTask'"),
        ({"task": "os:getcwd"}, ValueError, "expected a class of tasks at 'os:getcwd', got <built-in function getcwd>"),
        ({"task": LetterTask(), "seed": 3}, ValueError, r"beside a task that is built already, got \['seed'\]"),
        ({"task": 3}, ValueError, "expected a Task, got 3"),
        ({}, TypeError, "task"),
    ],
)
def test_wrong_tasks_are_named(options, error, message):
    with pytest.raises(error, match=message):
        gym.make("espo_env/TokenGeneration-v0", max_new_tokens=3, **options)


def always_lost(observation, action):
    return np.full(np.shape(action), 50.0), np.zeros(np.shape(action))


def test_signals_make_an_environment_that_stops_and_takes_plain_tokens():
    options = {"signals": always_lost, "early_stopping": {"beta": 0.5, "fail_reward": -0.5}}
    made = gym.make("espo_env/Arithmetic-v0", **options)
    assert isinstance(made.action_space, gym.spaces.Discrete)
    for env in (made, gym.make(pickle.loads(pickle.dumps(made.spec)))):
        assert env.has_wrapper_attr("detector")
        env.reset(seed=0)
        assert env.step(3)[1:3] == (-0.5, True)
    vector = gym.make_vec("espo_env/Arithmetic-v0", 2, "vector_entry_point", **options)
    assert isinstance(vector, VectorRegretTermination)
    vector.reset(seed=0)
    assert vector.step(np.array([3, 3]))[1].tolist() == [-0.5, -0.5]


def test_early_stopping_alone_makes_one_whose_actions_have_their_signals():
    env = gym.make("espo_env/Arithmetic-v0", early_stopping={"beta": 0.5})
    assert set(env.action_space) == {"token", "regret", "value"}
    with pytest.raises(ValueError, match="expected an environment without RegretTermination"):
        RegretTermination(env)


BARE = """
import sys

class Blocker:
    blocked = {"torch", "ray", "transformers", "vllm", "sympy", "math_verify", "reasoning_gym", "matplotlib", "scipy"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Blocker())
import gymnasium as gym
import espo_env
from espo_env.early_stopping import FailureDetector

env = espo_env.RegretTermination(gym.make("espo_env/Arithmetic-v0", render_mode="html"), beta=0.5)
_, info = env.reset(seed=0)
for token in env.unwrapped.task.encode_solution(info["problem"]):
    _, reward, terminated, _, info = env.step({"token": token, "regret": 0.0, "value": 1.0})
assert (reward, terminated) == (1.0, True), info
assert "svg" in env.render()
vector = espo_env.VectorRegretTermination(
    gym.make_vec("espo_env/Walk-v0", num_envs=4, vectorization_mode="vector_entry_point")
)
vector.reset(seed=0)
vector.step(vector.action_space.sample())
print(sorted(name for name in sys.modules if name.partition(".")[0] in Blocker.blocked))
"""


def test_imports_and_plays_with_numpy_gymnasium_and_tokenizers_alone():
    out = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    assert out.stdout == "[]\n"


def test_the_package_imports_none_of_the_heavy_ones_even_where_they_are_installed():
    code = "import sys, espo_env; print([m for m in ('torch', 'ray', 'transformers', 'sympy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout == "[]\n"


def test_a_name_that_leads_elsewhere_is_looked_at_not_called(tmp_path):
    options = {"task": "os:system", "command": f"touch {tmp_path / 'ran'}", "max_new_tokens": 3}
    for make in (gym.make, gym.make_vec):
        with pytest.raises(ValueError, match="expected a class of tasks at 'os:system', got <built-in"):
            make("espo_env/TokenGeneration-v0", **options)
    assert not list(tmp_path.iterdir())
