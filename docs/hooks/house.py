"""Pages that stand at the top of the repository, taken into the site as they are.

- :func:`on_page_markdown`: MkDocs calls it; replaces ``<!-- file: NAME -->`` by the file, and
  ``<!-- file: NAME#TITLE -->`` by what stands under a heading of it, with links to pages of the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"<!-- file: (\S+?)(?:#(.+?))? -->")
PAGES = {
    "README.md": "index.md",
    "REPRODUCTION.md": "reproduction.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Files of the repository that are pages of the site."""


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Puts the files into the page."""
    return MARKER.sub(lambda found: with_the_sites_links(_text(*found.groups())), markdown)


def _text(file: str, title: str | None) -> str:
    text = (ROOT / file).read_text("utf-8")
    return text if title is None else under(text, title)


def under(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of its rank.

    Raises:
        ValueError: If there is no such heading.
    """
    lines = text.splitlines(keepends=True)
    heading = next((line for line in lines if re.fullmatch(rf"#+ {re.escape(title)}\n", line)), None)
    if heading is None:
        raise ValueError(f"expected a heading {title!r}, got none")
    rank = heading.index(" ")
    rest = lines[lines.index(heading) + 1 :]
    end = next((i for i, line in enumerate(rest) if re.match(rf"#{{1,{rank}}} ", line)), len(rest))
    return "".join(rest[:end])


def with_the_sites_links(text: str) -> str:
    """Links between files of the repository as links between pages; those to what is no page lose their link."""

    def link(found: re.Match[str]) -> str:
        words, target = found.groups()
        file, sign, anchor = target.partition("#")
        if not file or "://" in target:
            return found[0]
        if file in PAGES:
            return f"[{words}]({PAGES[file]}{sign}{anchor})"
        if file.startswith("docs/"):
            return f"[{words}]({file.removeprefix('docs/')}{sign}{anchor})"
        return words

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", link, text)
