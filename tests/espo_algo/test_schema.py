"""The schema against the methods that it describes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields

import pytest

from espo_algo import ESPOConfig
from espo_algo.commands.config_file import RunOptions
from espo_algo.schema import COMMAND_LINE, FIELDS, SECTIONS, UNREAD, WITHOUT_FIELD, section_keys

DEPRECATED = -1
"""RLlib's mark for arguments that only raise an error any more."""
METHODS = [section for section in SECTIONS if section not in COMMAND_LINE]


def keywords(section: str) -> set[str]:
    """Those of a method of the configuration, and of the methods that it passes the rest to."""
    found: set[str] = set()
    for owner in ESPOConfig.__mro__:
        if section in vars(owner):
            parameters = inspect.signature(vars(owner)[section]).parameters.values()
            found |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.default is not DEPRECATED}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found - {"self"}


@pytest.mark.parametrize("section", METHODS)
def test_the_schema_has_every_keyword_of_a_method_and_no_other(section):
    known = {*section_keys(section), *UNREAD.get(section, {})}
    missing, extra = keywords(section) - known, known - keywords(section)
    name = SECTIONS[section].__name__
    assert not missing, (
        f"ESPOConfig.{section} takes {sorted(missing)}, which the schema lacks: write each with its type and range "
        f"into class {name} of espo_algo/schema/sections.py (or into espo_algo/schema/unread.py if nothing reads it)"
    )
    assert not extra, f"ESPOConfig.{section} does not take {sorted(extra)}: take them out of class {name} or UNREAD"
    assert not {*section_keys(section)} & {*UNREAD.get(section, {})}


def test_the_run_section_is_that_of_its_options():
    assert section_keys("run") == [field.name for field in fields(RunOptions)]


@pytest.mark.parametrize("section", [*METHODS, "framework"])
def test_every_keyword_has_its_field(section):
    # What a keyword sets is what the check of a built configuration looks at.
    keys = [*UNREAD.get(section, {}), *(section_keys(section) if section in SECTIONS else [])]
    for key in {*keys} - {key for place, key in WITHOUT_FIELD if place == section}:
        assert hasattr(ESPOConfig(), FIELDS.get((section, key), key)), key


def test_reading_and_checking_a_file_needs_neither_torch_nor_ray(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("training: {lrr: 1}")
    code = (
        "import sys\n"
        "from espo_algo.commands.config_file import read_file\n"
        f"try: read_file({str(path)!r})\n"
        "except ValueError as error: print(error, {'torch', 'ray', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: unknown key of section training: 'lrr'; did you mean 'lr'? set()\n"
