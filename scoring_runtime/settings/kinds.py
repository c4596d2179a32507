"""What the values of settings may be: text → value, or ValueError or KeyError."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from .processors import processors


def setting_name(value: str) -> str:
    """Not the connection string itself."""
    if value and not re.fullmatch(r"[\w.:-]+", value):
        raise ValueError
    return value


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if number < low or (high is not None and number > high):
            raise ValueError
        return number

    return parse


def workers(value: str) -> int:
    """``auto``: as many as processors; 1 where processes cannot be forked."""
    if value.lower() == "auto":
        return processors() if hasattr(os, "fork") else 1
    return integer(1)(value)


def seconds(value: str) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def optional_number(value: str) -> float | None:
    """Nothing is None."""
    return seconds(value) if value.strip() else None


def one_of(*choices: str) -> Callable[[str], str]:
    spelled = {choice.lower(): choice for choice in choices}

    def parse(value: str) -> str:
        if value.lower() not in spelled:
            raise ValueError
        return spelled[value.lower()]

    return parse


def boolean(value: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[value.lower()]


def true_in_any_case(value: str) -> bool:
    return value.lower() == "true"


def exactly_true(value: str) -> bool:
    return value == "true"


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def uuid(value: str) -> str:
    if value and not _UUID.fullmatch(value):
        raise ValueError
    return value.lower()


def list_of(value: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in value.split(",") if each.strip())


TRIGGERS = ("http", "blob", "service_bus")


def triggers(value: str) -> tuple[str, ...]:
    named = {each.lower().replace("-", "_") for each in list_of(value)}
    if named - set(TRIGGERS):
        raise ValueError
    return tuple(each for each in TRIGGERS if each in named)


def interval(value: str) -> tuple[float, float]:
    first, _, last = value.partition("-")
    low, high = float(first), float(last or first)
    if not 0 < low <= high < float("inf"):
        raise ValueError
    return low, high


def share(value: str) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError
    return number


STEP = re.compile(r"""(\.\.?)([^\s.,'"*\[\]]+|\*)|(\.\.)?\[(\d+|\*|'[^']+'|"[^"]+")\]""")
"""A step of a JSON path (RFC 9535): ``.name``, ``['name']``, ``[0]``, ``[*]``, ``..name``."""


def hidden_fields(value: str) -> tuple[str, ...]:
    """Names, and JSON paths of such steps."""
    found = list_of(value)
    for each in found:
        form = rf"\$(?:{STEP.pattern})+" if each.startswith("$") else r"[\w.-]+"
        if not re.fullmatch(form, each):
            raise ValueError
    return found
