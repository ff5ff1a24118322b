"""The tables of ``configuration.md``: every setting with its type, default, the paper's value and what it does.

- :func:`settings_table`: one section as a Markdown table, from the schema, the configuration's defaults and docstrings.
- :func:`on_page_markdown`: MkDocs calls it; replaces ``<!-- settings: SECTION -->`` by that section's table.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

from docstrings import in_markdown
from griffe import Docstring, DocstringSectionKind
from ray.rllib.algorithms.ppo.ppo import PPOConfig

from espo_algo import ESPOConfig
from espo_algo.commands.config_file import RunOptions
from espo_algo.presets import PRESETS
from espo_algo.schema import FIELDS, WITHOUT_FIELD, expected_value, section_keys
from espo_algo.tuning.search_file import SearchOptions

MARKER = re.compile(r"<!-- settings: (\w+) -->")
COMMAND_LINE = {"run": RunOptions, "tune": SearchOptions}
HEADER = "| setting | takes | default | source | what it is |\n|---|---|---|---|---|"


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Puts the tables into the page."""
    return MARKER.sub(lambda found: settings_table(found[1]), markdown)


def settings_table(section: str) -> str:
    """A row for each setting of a section.

    ``source``: the paper's value of a constant that it publishes; ``ours`` for what it does not have or leaves open;
    ``RLlib`` for RLlib's own keyword, with its default there if that is another.
    """
    rows = [HEADER]
    said = _descriptions(section)
    for key in section_keys(section):
        what = said.get(key, "-")  # RLlib leaves one or two out
        cells = (f"`{key}`", expected_value(section, key), _default(section, key), _source(section, key, what), what)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


@functools.cache
def _configs() -> tuple[ESPOConfig, PPOConfig]:
    return ESPOConfig(), PPOConfig()


def _default(section: str, key: str) -> str:
    if section in COMMAND_LINE:
        return f"`{getattr(COMMAND_LINE[section](), key)!r}`"
    if (section, key) in WITHOUT_FIELD:
        return "-"
    default = getattr(_configs()[0], FIELDS.get((section, key), key))
    shown = default.__name__ if inspect.isclass(default) else repr(default)
    return "RLlib's" if "<class" in shown else f"`{shown}`"


def _source(section: str, key: str, said: str) -> str:
    if key in PRESETS["paper"]:
        return f"paper: `{PRESETS['paper'][key]!r}`"
    if published := re.search(r"([\d.]+) in the paper", said):
        return f"paper: `{published[1]}`"
    if section in COMMAND_LINE or key in inspect.signature(vars(ESPOConfig).get(section, _descriptions)).parameters:
        return "ours"
    own, rllibs = (getattr(config, FIELDS.get((section, key), key), None) for config in _configs())
    return "RLlib" if own == rllibs or inspect.isclass(own) else f"RLlib, there `{rllibs!r}`"


def _descriptions(section: str) -> dict[str, str]:
    """What the docstrings of a method, ours before RLlib's, say about each keyword."""
    if section in COMMAND_LINE:
        return _arguments(COMMAND_LINE[section], DocstringSectionKind.attributes)
    said: dict[str, str] = {}
    for owner in ESPOConfig.__mro__:
        if section in vars(owner):
            said = _arguments(vars(owner)[section], DocstringSectionKind.parameters) | said
    return said


def _arguments(documented: Any, kind: DocstringSectionKind) -> dict[str, str]:
    text = inspect.getdoc(documented) or ""
    ours = documented.__module__.startswith("espo_algo")
    sections = Docstring(text).parse("google", warn_unknown_params=False, warnings=False)
    return {
        item.name: in_markdown(" ".join(item.description.split()) if ours else _first_sentence(item.description))
        for part in sections
        if part.kind is kind
        for item in part.value
    }


def _first_sentence(text: str) -> str:
    """RLlib's descriptions are long."""
    return re.split(r"(?<=[a-z`)\]\"])\.\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".") + "."
