"""What a service is sent for an input."""

from __future__ import annotations

import json
from typing import Any

from ..exceptions import WebserviceException


def body_of(value: Any) -> bytes:
    """Text, bytes or an open file as they are; anything else as JSON."""
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
