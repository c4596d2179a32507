"""The site in a real browser: pictures of its pages, wide and narrow, light and dark, are kept.

They are in `build/screens`, to be looked at. About 60 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal

import pytest
from playwright.sync_api import Browser

from tests.docs.blocks import ROOT
from tests.docs.test_links import site
from tests.hosts.browser import SCHEMES, SCREENS, WIDTHS, browser

pytestmark = pytest.mark.long
__all__ = ["browser", "site"]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    with server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_their_width_and_ask_nothing_of_other_machines(
    url: str, browser: Browser, width: str, scheme: Literal["light", "dark"]
) -> None:
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": 900}, color_scheme=scheme
    )
    page = context.new_page()
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    folder = SCREENS / f"{width}-{scheme}"
    for source in sorted((ROOT / "docs").glob("*.md")):
        page.goto(f"{url}/{source.stem}.html", wait_until="networkidle")
        page.screenshot(path=folder / f"{source.stem}.png", full_page=source.stem != "settings")
        assert page.locator("h1").first.is_visible(), source.name
        broken = page.evaluate(
            "[...document.images].filter(each => each.complete && !each.naturalWidth)"
            ".map(each => each.src)"
        )
        assert broken == [], source.name
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{source.name} is {overflow} pixels wider than the window"
    context.close()
    assert [each for each in asked if not each.startswith((url, "data:", "blob:"))] == []
    assert failed == []
