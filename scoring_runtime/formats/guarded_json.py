"""JSON from the network, refused before it takes far more memory as objects than as text."""

from __future__ import annotations

from typing import Any

from ..errors import InputTooLarge, UndecodableInput
from ..values.body import parse_json
from ..values.content import Limits
from ..values.wording import check_values

MEMORY_FACTOR = 10
"""How many times ``SCORING_MAX_BODY_BYTES`` a body may take in memory once it is read."""
GUARDED_BYTES = 1024 * 1024
# Of a str of a few letters with its place in a list, and of a column with its name.
_BYTES_A_TEXT, _BYTES_A_COLUMN = 64, 400
# What orjson makes of them on a 64-bit CPython; a value is a number with its place in a list.
_BYTES_A_LIST, _BYTES_AN_OBJECT, _BYTES_A_VALUE = 88, 240, 32


FEWER = "Send application/x-npy, or fewer rows at once."


def parse(
    text: bytes, limits: Limits, what: str, instead: str = FEWER, *, exact: bool = False
) -> Any:
    """The JSON value; unless it is ``exact``, integers beyond 64 bits may be floats.

    Messages call the body ``what``, and end with what to send ``instead`` of one too large.

    Raises:
        UndecodableInput: not JSON.
        InputTooLarge: more values or memory than allowed.
    """
    check(text, limits, what, instead)
    try:
        return parse_json(text, exact=exact)
    except RecursionError:
        raise UndecodableInput(f"{what} is JSON that is nested too deeply.") from None
    except ValueError as error:
        raise UndecodableInput(f"{what} could not be decoded as JSON: {error}") from None


def check(text: bytes, limits: Limits, what: str, instead: str) -> None:
    """Refuse, as InputTooLarge, what :func:`parse` refuses before it looks whether it is JSON."""
    if len(text) <= GUARDED_BYTES:
        return
    values = text.count(b",") + 1
    check_values(values, limits, what)
    check_memory(memory_of(text, values), limits, what, instead)


def memory_of(text: bytes, values: int) -> int:
    """About how many bytes the objects of a JSON text with so many values take."""
    containers = text.count(b"[") * _BYTES_A_LIST + text.count(b"{") * _BYTES_AN_OBJECT
    return containers + values * _BYTES_A_VALUE


def check_memory(memory: int, limits: Limits, what: str, instead: str = FEWER) -> None:
    """Refuse, as InputTooLarge, what would take over ``MEMORY_FACTOR`` times the largest body."""
    if memory > limits.bytes * MEMORY_FACTOR:
        raise InputTooLarge(
            f"{what} would take about {memory // 1_000_000} MB of memory once read; at most "
            f"{MEMORY_FACTOR} times SCORING_MAX_BODY_BYTES ({limits.bytes}) are allowed. {instead}"
        )


def check_texts(rows: int, columns: int, limits: Limits, what: str) -> None:
    """The same for a table of text fields."""
    memory = columns * (rows * _BYTES_A_TEXT + _BYTES_A_COLUMN)
    check_memory(memory, limits, what)
