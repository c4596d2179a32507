"""What ``Webservice.run`` sends, and what it makes of the answer."""

from __future__ import annotations

import json
from typing import Any

from ...local_services.service import Answer
from ..exceptions import WebserviceException


def body_of(value: Any) -> bytes:
    """Text, bytes or an open file as they are; anything else as JSON.

    Raises:
        WebserviceException: it has no JSON form.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "read"):
        value = value.read()
    if not isinstance(value, str | bytes):
        try:
            value = json.dumps(value, default=lambda each: each.tolist())
        except (TypeError, ValueError, AttributeError) as error:
            raise WebserviceException(
                f"The input, a {type(value).__name__}, cannot be turned to JSON: pass text, bytes, "
                "or what JSON has."
            ) from error
    return value.encode() if isinstance(value, str) else value


def result_of(answer: Answer) -> Any:
    """The JSON of an answer; one of another content type as text or bytes.

    Raises:
        WebserviceException: its status is not 200; the text has status, headers and body.
    """
    if answer.status != 200:
        raise WebserviceException(
            "Received bad response from service. More information can be found by calling "
            "`.get_logs()` on the webservice object.\n"
            f"Response Code: {answer.status}\nHeaders: {dict(answer.headers)}\n"
            f"Content: {answer.body.decode(errors='replace')}"
        )
    kind = {name.lower(): value for name, value in answer.headers.items()}.get("content-type", "")
    if "json" in kind:
        return json.loads(answer.body)
    return answer.body.decode() if kind.startswith("text/") else answer.body
