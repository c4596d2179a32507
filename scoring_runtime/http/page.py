"""The page for browsers, at ``/`` and ``/docs``: one document with its style and its script in it.

It is the same for every service and holds none of its data, which the script asks ``/status`` and
``/swagger.json`` for. Its policy (https://www.w3.org/TR/CSP3/) allows no other script than that one
and no other host.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from functools import cache
from pathlib import Path

from werkzeug.http import parse_accept_header

from ..messages import Headers, ScoringResponse
from ..scoring.runtime import Runtime, State
from ..telemetry.request_ids import Ids
from .messages import HttpRequest
from .model_routes import Route
from .status import Status

_FILES = Path(__file__).with_name("browser")


def page_routes(runtime: Runtime, healthy: Route) -> dict[str, Route]:
    """The routes of the page, and of what it shows.

    Args:
        runtime: whose state it is.
        healthy: answers ``/`` for whoever is no browser.
    """

    async def page(request: HttpRequest, ids: Ids) -> ScoringResponse:
        # As for probes: some of them take whatever a browser takes.
        status = 200 if runtime.state is State.HEALTHY else 503
        asked = dict(request.headers)
        return page_response(status, zipped=b"gzip" in asked.get(b"accept-encoding", b""))

    async def page_or_health(request: HttpRequest, ids: Ids) -> ScoringResponse:
        accept = dict(request.headers).get(b"accept", b"")
        is_browser = b"text/html" in accept and prefers_html(accept.decode("latin-1"))
        return await (page if is_browser else healthy)(request, ids)

    return {"/": page_or_health, "/docs": page, "/status": Status(runtime)}


def prefers_html(accept: str) -> bool:
    """Whether ``Accept`` names ``text/html``, above ``*/*`` and whatever a probe is answered."""
    ranges = dict(parse_accept_header(accept))
    others = (ranges.get(each, 0) for each in ("*/*", "text/*", "text/plain", "application/json"))
    return ranges.get("text/html", 0) > max(others)


def page_response(status: int, *, zipped: bool) -> ScoringResponse:
    """The page with this status."""
    plain, compressed, headers = _page()
    if zipped:
        more = (b"content-encoding", b"gzip")
        return ScoringResponse(status, compressed, (*headers, more), -1)
    return ScoringResponse(status, plain, headers, -1)


@cache
def _page() -> tuple[bytes, bytes, Headers]:
    """The document, the same compressed, and its headers."""
    parts = {name: (_FILES / f"page.{name}").read_bytes() for name in ("html", "css", "js")}
    document = parts["html"]
    for name in ("css", "js"):
        document = document.replace(b"{%b}" % name.encode(), parts[name])
    policy = (
        f"default-src 'none'; script-src {_hash(parts['js'])}; style-src {_hash(parts['css'])}; "
        "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    lines = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "vary": "Accept, Accept-Encoding",
        "x-content-type-options": "nosniff",
    }
    headers = tuple((name.encode(), value.encode()) for name, value in lines.items())
    return document, gzip.compress(document, mtime=0), headers


def _hash(text: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
