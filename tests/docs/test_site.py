"""The site is built from the repository, with no link that leads nowhere, and has every setting."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from espo_algo.schema import SECTIONS, section_keys

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", page.read_text("utf-8")))


def test_every_setting_is_documented(site):
    rows = re.findall(r"<tr>(.*?)</tr>", (site / "configuration" / "index.html").read_text("utf-8"), re.S)
    cells = [
        [html.unescape(re.sub(r"<[^>]+>", "", c)).strip() for c in re.findall("<td>(.*?)</td>", r, re.S)] for r in rows
    ]
    table = [row for row in cells if len(row) == 5]
    assert sorted(row[0] for row in table) == sorted(key for name in SECTIONS for key in section_keys(name))
    assert not [row for row in table if not row[3].startswith("RLlib") and len(row[4]) < 10]
    by_key = {row[0]: row for row in table}
    assert by_key["smoothing"][1:4] == ["a number in [0, 1)", "0.0", "paper: 0.9"]
    assert by_key["max_new_tokens"][1:4] == ["a whole number >= 1", "8192", "paper: 8192"]
    assert by_key["clip_param"][1:4] == ["a number > 0", "0.2", "RLlib, there 0.3"]
    assert by_key["checkpoint_every"][1:4] == ["a whole number >= 1", "10", "ours"]


def test_docstrings_are_written_in_markdown(site):
    for page in ("espo_env", "espo_algo"):
        text = text_of(site / "api" / page / "index.html")
        assert not re.findall(r":(?:class|func|mod|data|meth):", text)
        assert "``" not in text
