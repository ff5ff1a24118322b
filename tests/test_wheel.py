"""The package as others get it: what is in it, and that it works outside of the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

LOOP = """
import sys
import gymnasium as gym
import espo_env

env = espo_env.RegretTermination(gym.make("espo_env/Arithmetic-v0"), beta=0.5, fail_reward=-1.0)
rewards = []
for episode in range(20):
    observation, info = env.reset(seed=episode)
    done = False
    while not done:
        token = int(env.unwrapped.action_space.sample())
        observation, reward, terminated, truncated, info = env.step({"token": token, "regret": 3.0, "value": 0.1})
        done = terminated or truncated
    rewards.append(reward)
print(espo_env.__file__)
print(sorted({"ray", "torch", "transformers", "scipy", "espo_algo"} & {*sys.modules}))
print(-1.0 in rewards)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Wheel and source distribution, the wheel built from the latter."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT])
    return folder


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """A folder with the wheel alone."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = dist.glob("*.whl")
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel])
    return folder


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def closure(*names: str) -> set[str]:
    """Distributions, and all that they need."""
    needed: set[str] = set()
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            requirements = map(Requirement, metadata.requires(name) or [])
            waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return needed


def test_the_wheel_has_the_packages_and_nothing_else(dist):
    (wheel,) = dist.glob("*.whl")
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    packages = [ROOT / name for name in ("espo_env", "espo_algo")]
    sources = [path for package in packages for path in package.rglob("*") if path.is_file()]
    assert files == {str(path.relative_to(ROOT)) for path in sources if path.suffix != ".pyc"}


def test_the_source_distribution_builds_by_itself(dist):
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "espo_env/__init__.py", "espo_algo/py.typed"} <= names


def test_the_environment_works_with_nothing_but_what_it_names(installed, tmp_path):
    needed = tmp_path / "needed"
    needed.mkdir()
    for name in closure("gymnasium", "numpy", "tokenizers"):
        distribution = metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops - {path.name for path in needed.iterdir()}:
            (needed / top).symlink_to(distribution.locate_file(top))
    assert not (needed / "ray").exists()
    # -I, -S: neither the environment's packages nor the working directory are there.
    code = f"import sys; sys.path[:0] = {[str(installed), str(needed)]}\n{LOOP}"
    place, imported, stopped = run([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path).splitlines()
    assert Path(place).is_relative_to(installed)
    assert (imported, stopped) == ("[]", "True")


def test_the_command_line_works_outside_of_the_source_tree(installed, tmp_path):
    (tmp_path / "run.yaml").write_text("training: {lrr: 1e-4}")
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "espo_algo.commands.cli", "train", "run.yaml", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == "error: run.yaml: unknown key of section training: 'lrr'; did you mean 'lr'?\n"
