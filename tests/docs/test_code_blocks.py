"""Every block of code on every page: Python is run, configurations are checked, command lines are read.

The Python blocks of a page are run one after the other, in one empty folder and one namespace, like a notebook's, in
which ``config`` is a configuration. A block that begins with ``# name.py`` is that file. A block behind
``<!-- compiled only: WHY -->`` is compiled.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

from espo_algo import ESPOConfig
from espo_algo.commands.cli import app
from espo_algo.learning.advantages import ADVANTAGE_ESTIMATORS
from espo_algo.rollout.engines import ENGINES
from espo_algo.schema import SECTIONS, check_sections, section_keys
from espo_algo.tuning.search_file import load_search
from espo_env.early_stopping.rules import STOP_RULES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
BLOCK = re.compile(r"^(?:<!-- compiled only: (?P<why>.+?) -->\n+)?```(?P<language>\w+)\n(?P<text>.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    why: str | None

    @property
    def file(self) -> str | None:
        name = re.match(r"# (\w+\.py)\n", self.text)
        return name and name[1]

    def compile(self):
        # Blank lines before it, so that a traceback names the line of the page.
        return compile("\n" * self.line + self.text, self.page, "exec")


def blocks(page: Path) -> list[Block]:
    text, name = page.read_text("utf-8"), str(page.relative_to(ROOT))
    return [
        Block(name, text.count("\n", 0, found.start("text")), found["language"], found["text"], found["why"])
        for found in BLOCK.finditer(text)
    ]


BLOCKS = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}
PYTHON = {page: [block for block in found if block.language == "python"] for page, found in BLOCKS.items()}
ALL = [block for found in BLOCKS.values() for block in found]


@pytest.mark.parametrize("page", [page for page, found in PYTHON.items() if found])
@pytest.mark.usefixtures("ray_session")
def test_python_runs(page, tmp_path, monkeypatch):
    for registry in (STOP_RULES, ENGINES, ADVANTAGE_ESTIMATORS):
        monkeypatch.setattr(registry, "_entries", dict(registry))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = {*sys.modules}
    names: dict = {"__name__": "page", "config": ESPOConfig()}
    try:
        for block in PYTHON[page]:
            code = block.compile()
            if block.file:
                Path(block.file).write_text(block.text)
            elif block.why is None:
                exec(code, names)
                for name in [name for name in names if name.startswith("test_")]:
                    names.pop(name)()
    finally:
        for name in {*sys.modules} - known:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
                del sys.modules[name]


def test_configurations_are_right(tmp_path):
    found = [yaml.safe_load(block.text) for block in ALL if block.language == "yaml"]
    sections = [content for content in found if isinstance(content, dict) and content.keys() & SECTIONS.keys()]
    assert len(sections) > 1
    for content in sections:
        if "tune" in content:
            (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))
            load_search(tmp_path / "search.yaml")
        else:
            check_sections(content)


def test_command_lines_are_read():
    """Commands, options and arguments are the command line's own; nothing is run."""
    commands = typer.main.get_command(app).commands
    lines = [line for block in ALL if block.language == "bash" for line in block.text.splitlines()]
    calls = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("espo ")]
    assert len(calls) > 5
    for name, *arguments in calls:
        commands[name].make_context(name, arguments)


def test_makefiles_targets_are_there():
    targets = {*re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)}
    text = "\n".join(block.text for block in ALL if block.language == "bash")
    assert {*re.findall(r"^make (\w+)", text, re.M)} <= targets


def test_settings_that_pages_name_are_there():
    known = {key for name in SECTIONS for key in section_keys(name)}
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    named = {*re.findall(r"`(\w+)=[^`]+`", text), *re.findall(r"\|[^|]*`(\w+)` (?:higher|up|down)\b", text)}
    assert len(named) > 15
    assert named - {"OMP_NUM_THREADS"} <= known
