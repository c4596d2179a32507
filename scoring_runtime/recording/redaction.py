"""What is not kept of requests and answers: secrets by their names, and what the settings name.

A body is searched for the names first, which is quick, and read only where one may be in it. Where
a name is found in a body that is no JSON, the whole body is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus

from ..settings.kinds import STEP
from ..settings.secrets import masked, masked_query

HIDDEN = "***"
SECRETS = (
    "password", "passwd", "passphrase", "passcode", "secret", "secrets", "credential",
    "credentials", "token", "authorization", "cookie", "connection string", "api key",
    "access key", "account key", "private key", "shared key", "secret key", "master key",
    "subscription key", "functions key", "function key", "host key", "encryption key",
)  # fmt: skip
"""What the name of a secret ends with, whatever its case and a number after it; between words may
be ``_``, ``-`` or nothing. And ``pwd`` and ``sas``, as whole words."""
_LONG = "|".join(each.replace(" ", r"[\W_]{0,2}") for each in SECRETS)
_NAME = re.compile(rf"(?is)(?:.*(?:{_LONG})|(?:.*[\W_])?(?:pwd|sas))\d*")
_WORDS = rf"(?:{_LONG}|(?<![a-zA-Z0-9])(?:pwd|sas))\d*"
_IN_TEXT = re.compile(rf"{_WORDS}(?![a-z0-9])".encode())
_ASSIGNED = re.compile(rf"(?i){_WORDS}[\"'\\\s]*[:=]")
# One of these is in whatever _IN_TEXT finds.
_MARKS = (
    *(b"pass", b"pwd", b"secret", b"credential", b"token", b"authoriz", b"cookie", b"connection"),
    *(b"key", b"sas", b"\\u"),  # or it is escaped
)
_OF_HEADERS = re.compile("auth|cookie|token|secret|passw|credential|client-?cert|principal")
_ESCAPED = re.compile(rb"\\u00([2-7][0-9a-f])")
_LONG_VALUE = 256
_OF_A_KEY = ("-key", "_key", "apikey")


class LeftOut(Exception):
    """A body is not kept; the message says why."""


class Redaction:
    """Hides secrets, and fields, headers and query parameters by name or JSON path.

    Args:
        fields: names and paths, as ``SCORING_RECORD_REDACT`` has them.
    """

    def __init__(self, fields: Sequence[str] = ()) -> None:
        self._names = frozenset(each.lower() for each in fields if not each.startswith("$"))
        self._paths = [_steps(each) for each in fields if each.startswith("$")]
        last = [steps[-1][1] for steps in self._paths]
        self._columns = {*self._names, *(str(name).lower() for name in last)}
        self._anywhere = any(name == "*" or isinstance(name, int) for name in last)
        self._always = self._anywhere or not all(each.isascii() for each in self._columns)
        self._marks = tuple(each.encode() for each in self._columns)
        self._known = lru_cache(1024)(self._header)

    def headers(self, lines: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
        """Header lines as text, their secrets hidden."""
        return [
            (self._known if len(value) < _LONG_VALUE else self._header)(name, value)
            for name, value in lines
        ]

    def query(self, query: bytes) -> str:
        """A query string, the values of keys and of named parameters hidden."""
        text = masked_query(query.decode("latin-1"))
        pairs = (each.partition("=") for each in text.split("&"))
        return "&".join(
            f"{name}{equals}{self._value(name, value)}" for name, equals, value in pairs
        )

    def body(self, body: bytes) -> tuple[bytes, bool]:
        """The body, and whether something in it is hidden.

        Raises:
            LeftOut: it is no JSON, and has the name of what is to be hidden in it.
        """
        plain = body.replace(b"\0", b"").lower()  # UTF-16 and UTF-32 too
        if not self._always and not any(each in plain for each in (*_MARKS, *self._marks)):
            return body, False
        for texts, end in (([body], ""), ([each for each in body.splitlines() if each], "\n")):
            try:
                return self._of_json(body, texts, end)
            except (ValueError, RecursionError):
                continue
        return self._of_text(body, plain)

    def row(self, names: Sequence[str], row: Sequence[Any]) -> list[Any]:
        """A row of a table by the names of its columns; of a path the last name counts."""
        return [
            HIDDEN if name.lower() in self._columns or _NAME.fullmatch(name) else value
            for name, value in zip(names, row, strict=True)
        ]

    def _header(self, of: bytes, value: bytes) -> tuple[str, str]:
        name = of.decode("latin-1")
        hidden = _OF_HEADERS.search(name) or name in self._names
        if hidden or (name.endswith(_OF_A_KEY) and name != "x-input-key"):
            return name, HIDDEN
        text = value.decode("latin-1")
        return name, masked(text) if "=" in text or ":" in text else text  # else there is no secret

    def _value(self, name: str, value: str) -> str:
        """Of a parameter of a query, which may be JSON."""
        try:
            _, hidden = self.body(unquote_plus(value).encode())
        except LeftOut:
            hidden = True
        return HIDDEN if value and (hidden or self._is_hidden(unquote_plus(name))) else value

    def _of_json(self, body: bytes, texts: list[bytes], end: str) -> tuple[bytes, bool]:
        hidden = 0

        def members(given: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal hidden
            found = dict(given)
            hidden += len(given) - len(found)  # what is there twice is not read
            return found

        values = [json.loads(each, object_pairs_hook=members) for each in texts]
        hidden += self._hide(values)
        for steps in self._paths:
            hidden += sum(_hide_path(each, steps) for each in values)
        if not hidden:
            return body, False
        return end.join(json.dumps(each, ensure_ascii=False) for each in values).encode(), True

    def _of_text(self, body: bytes, plain: bytes) -> tuple[bytes, bool]:
        plain = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), plain).lower()
        found = _IN_TEXT.search(plain)
        named = next((each for each in self._marks if each in plain), None)
        if found is None and named is None and not self._anywhere:
            return body, False
        name = found[0] if found is not None else named or b"a field without a name"
        raise LeftOut(f"it is no JSON, and {name.decode('utf-8', 'replace')} may be in it")

    def _is_hidden(self, name: object) -> bool:
        text = str(name)
        return text.lower() in self._names or _NAME.fullmatch(text) is not None

    def _hide(self, value: Any) -> int:
        """Hide in place what has a hidden name; how often."""
        if isinstance(value, list):
            return sum(self._hide_at(value, at, each) for at, each in enumerate(value))
        if not isinstance(value, dict):
            return 0
        hidden = self._hide_table(value)
        for name, each in value.items():
            if self._is_hidden(name):
                value[name], hidden = HIDDEN, hidden + 1
            else:
                hidden += self._hide_at(value, name, each)
        return hidden

    def _hide_at(self, where: Any, at: Any, value: Any) -> int:
        if isinstance(value, list | dict):
            return self._hide(value)
        if isinstance(value, str) and _ASSIGNED.search(value):
            where[at] = HIDDEN
            return 1
        return 0

    def _hide_table(self, table: dict[str, Any]) -> int:
        """Of columns and rows, and of what is called by a member ``name``, as tensors are."""
        hidden = 0
        columns, rows = table.get("columns"), table.get("data")
        if isinstance(columns, list) and isinstance(rows, list):
            for at in (at for at, name in enumerate(columns) if self._is_hidden(name)):
                for row in (each for each in rows if isinstance(each, list) and at < len(each)):
                    row[at], hidden = HIDDEN, hidden + 1
        if isinstance(table.get("name"), str) and self._is_hidden(table["name"]):
            for member in table.keys() & {"data", "value", "values"}:
                table[member], hidden = [HIDDEN], hidden + 1
        return hidden


_Step = tuple[bool, str | int]
"""Whether it is looked for at any depth; a name, a number, or ``*`` for all."""


def _steps(path: str) -> list[_Step]:
    found: list[_Step] = []
    for dots, name, deep, inside in STEP.findall(path):
        plain = name or inside.strip("'\"")
        found.append((".." in (dots, deep), int(plain) if inside.isdecimal() else plain))
    return found


def _hide_path(value: Any, steps: Sequence[_Step]) -> int:
    (deep, name), rest = steps[0], steps[1:]
    hidden = 0
    for where, at in _places(value, name, deep):
        if rest:
            hidden += _hide_path(where[at], rest)
        else:
            where[at], hidden = HIDDEN, hidden + 1
    return hidden


def _places(value: Any, name: str | int, deep: bool) -> Iterator[tuple[Any, Any]]:
    """The members of that name, of the value or of any below it."""
    members = list(value.items()) if isinstance(value, dict) else []
    members += list(enumerate(value)) if isinstance(value, list) else []
    for at, each in members:
        if name in ("*", at):
            yield value, at
        if deep:
            yield from _places(each, name, deep)
