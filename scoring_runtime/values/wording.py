"""Names and values as messages show them."""

from __future__ import annotations

import re
from typing import Any

HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
"""JSON may hold one alone, UTF-8 may not."""
_SHOWN, _LONGEST = 10, 40


def listed(names: Any, limit: int = _SHOWN) -> str:
    """Names in quotes, at most ``limit`` of them, and how many more there are."""
    shown = [repr(name) for name in list(names)[:limit]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def short(value: Any) -> str:
    """A value as JSON names it, cut to a few words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return f"a list of {len(value)}" if isinstance(value, list) else "an object"
    if isinstance(value, str) and HALF_A_CHARACTER.search(value):
        return "text with half a character, which is no Unicode"
    text = repr(value[:_LONGEST] if isinstance(value, str | bytes) else value)
    kind = "text " if isinstance(value, str) else ""
    return kind + (text if len(text) <= _LONGEST + 2 else text[:_LONGEST] + "…")
