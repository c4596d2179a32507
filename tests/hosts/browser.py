"""Chromium without a window, for tests, and axe-core (https://github.com/dequelabs/axe-core)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.hosts.azurite import npm_package
from tests.hosts.images import ensure_tools

SCREENS = Path(__file__).parents[2] / "build" / "screens"
"""Where pictures of pages are kept, to be looked at."""
WIDTHS = {"wide": 1280, "narrow": 390}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_AXE = "4.14.1"
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; with apt, where it is missing."""
    [program] = ensure_tools("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_OPTIONS)
        yield browser
        browser.close()


def axe() -> str:
    """The source of axe-core."""
    _, home = npm_package("axe-core", _AXE)
    return (home / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def serious_faults(page: Page, source: str) -> list[Any]:
    """What axe finds on a page that is open, of the impacts serious and critical."""
    page.evaluate(source)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
