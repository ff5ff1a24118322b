"""What describes a release: changelog, citation and package agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert [each["identifiers"][0]["value"] for each in citation["references"]] == ["arXiv:2605.29860"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_changelog_has_an_entry_of_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    newest = re.findall(r"^## \[(.+?)\]", text, re.M)[0]
    said = re.search(r"this is what ([\d.]+) will be", text)
    assert PROJECT["version"] == (said.group(1) if newest == "Unreleased" and said else newest)
    sections = re.findall(r"^### (.+)$", text, re.M)
    assert {*sections} <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_example_is_in_the_index_once():
    rows = [line for line in (ROOT / "examples" / "README.md").read_text().splitlines() if line.startswith("| [")]
    listed = [(re.findall(r"\]\(([\w./]+)\)", row)[0], row) for row in rows]
    there = {path.name for path in (ROOT / "examples").iterdir() if path.name not in ("README.md", "__pycache__")}
    assert {name for name, _ in listed} == there
    assert len(listed) == len(there) + 1  # reproduce.py, in small and in full
