"""The page of responses: one HTML file with everything in it, which opens offline.

- :class:`PageRun`: what the page shows of a run.
- :func:`page_data`: all of it as JSON.
- :func:`render_page`, :func:`write_page`: the page.

Markup, style and script are in the folder ``page``. The data stand in the page as JSON in which nothing can end the
element, and the script puts them into text nodes alone; the page's policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from espo_algo.atomic import write_text
from espo_env.escapes import visible

__all__ = ["PageRun", "page_data", "render_page", "write_page"]

_RATES = (
    "iteration",
    "accuracy",
    "stop_rate",
    "false_positive_rate",
    "response_length",
    "tokens",
    "beta",
    "entropy",
    "vf_explained_var",
)
_MOST_BYTES = 32_000_000
"""Of all snapshots on a page; the oldest ones are left out beyond it."""
_MOST_POINTS = 1000


@dataclass(frozen=True, slots=True)
class PageRun:
    """What the page shows of a run.

    Attributes:
        name: What it is called.
        records: The record (:func:`~espo_algo.evaluation.report.iteration_record`) of each iteration.
        snapshots: Of :func:`~espo_algo.evaluation.snapshots.take_snapshot`, in the order in which they are offered.
    """

    name: str
    records: Sequence[Mapping[str, float]] = ()
    snapshots: Sequence[Mapping[str, Any]] = field(default_factory=list)


def page_data(runs: Sequence[PageRun], title: str) -> dict[str, Any]:
    """What the page's script reads.

    Args:
        runs: At least one.
        title: Heading of the page.
    """
    shown = []
    for run in runs:
        snapshots: list[Mapping[str, Any]] = []
        spent = 0
        for snapshot in reversed(run.snapshots):
            spent += len(json.dumps(snapshot))
            if snapshots and spent > _MOST_BYTES / len(runs):
                break
            snapshots.insert(0, snapshot)
        shown.append(
            {
                "name": visible(run.name),
                "rates": _rates(run.records, {snapshot["iteration"] for snapshot in snapshots}),
                "snapshots": snapshots,
                "left_out": len(run.snapshots) - len(snapshots),
            }
        )
    version = hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
    return {"title": visible(title), "version": version, "runs": shown}


def render_page(data: Mapping[str, Any], live: bool = False) -> str:
    """The page as HTML.

    Args:
        data: Of :func:`page_data`.
        live: Whether it asks its server for newer data, at ``data.json?have=<version>``.
    """
    template, css, js = (_part(name) for name in ("page.html", "page.css", "page.js"))
    policy = [
        "default-src 'none'",
        f"script-src 'sha256-{_sha256(js)}'",
        # The script colours tokens by themselves, which is no style that came with the page.
        f"style-src 'sha256-{_sha256(css)}'",
        "connect-src 'self'" if live else "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    parts = {
        "policy": "; ".join(policy),
        "title": html.escape(data["title"]),
        "css": css,
        "js": js,
        "live": str(live).lower(),
        "data": _harmless(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))),
    }
    # In one go, so that nothing that is put in is looked through again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def write_page(runs: Sequence[PageRun], path: str | Path, title: str) -> Path:
    """Writes the page of some runs, and gives back where it is."""
    write_text(path, render_page(page_data(runs, title)))
    return Path(path)


def _rates(records: Sequence[Mapping[str, float]], wanted: set[int]) -> dict[str, list[float | None]]:
    """Columns of the rates: all iterations, or some of a long run's, with those that have snapshots."""
    stride = -(-len(records) // _MOST_POINTS) or 1
    last = len(records) - 1
    kept = [r for i, r in enumerate(records) if i % stride == 0 or i == last or r["iteration"] in wanted]
    return {name: [_finite(record[name]) for record in kept] for name in _RATES}


def _finite(number: float) -> float | None:
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _harmless(text: str) -> str:
    """JSON without a character that means something to HTML or to old scripts; it says the same."""
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _part(name: str) -> str:
    return (files("espo_algo.evaluation") / "page" / name).read_text("utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
