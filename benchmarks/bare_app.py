"""The least that can call run(): an ASGI app that calls it in the event loop."""

import importlib.util
import json
import os
from typing import Any

from scoring_runtime.script import import_aliases

import_aliases.install()
spec = importlib.util.spec_from_file_location("entry_module", os.environ["BENCH_SCRIPT"])
assert spec is not None and spec.loader is not None
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
script.init()


class Raw(bytes):
    """What a script with @rawhttp asks for."""

    def get_data(self) -> bytes:
        """The body."""
        return self


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, call run(), send what it returns as JSON."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    given = Raw(body) if body.startswith(b"\x89PNG") else body.decode()
    content = json.dumps(script.run(given)).encode()
    length = str(len(content)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
