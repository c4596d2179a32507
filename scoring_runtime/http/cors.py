"""CORS (the Fetch standard) around an endpoint."""

from __future__ import annotations

from .messages import Handle, HttpRequest, Reply


def with_cors(handle: Handle, origins: tuple[str, ...]) -> Handle:
    """Add the CORS headers (Fetch standard) for these origins; ``*`` is any."""
    wanted = {origin.lower().encode("latin-1") for origin in origins}
    wildcard = "*" in origins
    first = b"*" if wildcard else sorted(origin.encode("latin-1") for origin in origins)[0]

    async def handle_with_cors(request: HttpRequest) -> Reply:
        reply = await handle(request)
        asked = dict(request.headers)
        origin = asked.get(b"origin")
        if any(name == b"access-control-allow-origin" for name, _ in reply.headers):
            return reply  # the script has answered for itself
        if origin is not None and not wildcard and origin.lower() not in wanted:
            return reply
        reply.headers.append((b"access-control-allow-origin", origin or first))
        if request.method == "OPTIONS":
            reply.headers.extend(_preflight(asked))
        if len(origins) > 1 or (wildcard and origin):
            reply.headers.append((b"vary", b"Origin"))
        return reply

    return handle_with_cors


def _preflight(asked: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    if asked.get(b"access-control-request-method", b"").upper() not in (b"GET", b"POST"):
        return []
    lines = [(b"access-control-allow-methods", b"GET, POST")]
    names = asked.get(b"access-control-request-headers")
    if names:
        listed = b", ".join(sorted(name.strip() for name in names.split(b",")))
        lines.append((b"access-control-allow-headers", listed))
    return lines
