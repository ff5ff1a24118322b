"""A real browser without a window; tests that ask for it are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("expected chromium (apt-get install chromium), got none")
    with playwright.sync_playwright() as started:
        # Chromium's own sandbox does not start as root.
        yield started.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
