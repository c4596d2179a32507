"""Names and values as messages show them, and the sentences that several modules say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import InputTooLarge
from .content import Limits

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


def uneven(lengths: Mapping[str, int]) -> str:
    """``a 2, b 3`` if what has these names is not equally long, else nothing."""
    if len(set(lengths.values())) < 2:
        return ""
    shown = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:_SHOWN])
    return f"not equally long: {shown}"


def check_rows(rows: int, limits: Limits, what: str) -> None:
    """Refuse more rows than the limits allow; ``what`` has them.

    Raises:
        InputTooLarge: the message says how many there are.
    """
    if rows > limits.rows:
        raise too_many(what, rows, "rows", limits.rows, "SCORING_MAX_ROWS")


def check_values(values: int, limits: Limits, what: str) -> None:
    """The same for values."""
    if values > limits.values:
        raise too_many(what, values, "values", limits.values, "SCORING_MAX_VALUES")


def check_columns(columns: int, limits: Limits, what: str, kind: str = "columns") -> None:
    """The same for columns, or other parts with names."""
    if columns > limits.columns:
        raise too_many(what, columns, kind, limits.columns, "SCORING_MAX_COLUMNS")


def too_large(what: str, limit: int, setting: str) -> InputTooLarge:
    """The error for what has more bytes than a setting allows, or has not been read for that."""
    return InputTooLarge(f"{what} is larger than {limit} bytes ({setting}).")


def too_many(what: str, there: int | str, kind: str, limit: int, setting: str) -> InputTooLarge:
    """The error for what is more than a setting allows."""
    if isinstance(there, int) and there >= 10**18:  # Python does not write the longest integers
        there = f"more than {limit}"
    return InputTooLarge(
        f"{what} has {there} {kind}; at most {limit} are taken at once ({setting})."
    )
