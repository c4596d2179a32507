r"""Which files an ignore file leaves out: the syntax and the meaning of ``.gitignore``.

Source: https://git-scm.com/docs/gitignore. The last rule that fits a file or folder decides; what
is in a folder that is left out is left out with it, whatever later rules say. ``?`` and ``[…]``
stand for one character, not for one byte.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import PackagingError

IGNORE_FILES = (".scoringignore", ".amlignore", ".funcignore")
"""The first of them that is in the source folder counts, and it alone."""

_TOKEN = re.compile(
    r"""(?P<folders>(?:^|(?<=/))\*{2,}/)        # **/ : any number of folders, none included
      | (?P<below>(?:^|(?<=/))\*{2,}$)         # /** : everything below
      | (?P<star>\*+)
      | (?P<one>\?)
      | \[(?P<negated>[!^]?)(?P<members>\]?(?:\[:[^]]*:\]|\\.|[^]\\])*)\]
      | \\(?P<escaped>.)
      | (?P<never>[\[\\])                       # [ without ], \ at the end: fits nothing
      | (?P<plain>.)""",
    re.VERBOSE | re.DOTALL,
)
_MEMBER = re.compile(
    r"\[:(?P<kind>[^]]*):\]|(?P<first>\\.|.)(?:-(?P<last>\\.|.))?",
    re.DOTALL,
)
_WILDCARDS = {"folders": "(?:.*/)?", "below": ".*", "star": "[^/]*", "one": "[^/]"}
_NOTHING = "(?!)"
_KINDS = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


@dataclass(frozen=True)
class Rule:
    """One line of an ignore file; ``anywhere`` if it is about names alone, in any folder."""

    line: int
    text: str
    negated: bool
    folders_only: bool
    anywhere: bool
    pattern: re.Pattern[str]

    def fits(self, name: str, folder: bool) -> bool:
        """Whether the rule is about this path itself, not about a folder that it is in."""
        if self.folders_only and not folder:
            return False
        return bool(self.pattern.fullmatch(name.rpartition("/")[2] if self.anywhere else name))


@dataclass(frozen=True)
class IgnoreRules:
    """The rules of one ignore file; of no ``file`` there are none."""

    file: Path | None = None
    rules: tuple[Rule, ...] = ()

    def rule_against(self, name: str, *, folder: bool) -> Rule | None:
        """The rule that leaves this path out, which has ``/`` and stands below the ignore file.

        Nothing is said about the folders that it is in.
        """
        found = next((rule for rule in reversed(self.rules) if rule.fits(name, folder)), None)
        return None if found is None or found.negated else found


def read(folder: Path) -> IgnoreRules:
    """The rules of the folder's ignore file, the first of :data:`IGNORE_FILES`; else none.

    Raises:
        PackagingError: it cannot be read, or is not UTF-8.
    """
    there = (folder / name for name in IGNORE_FILES if os.path.lexists(folder / name))
    file = next(there, None)
    if file is None:
        return IgnoreRules()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PackagingError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PackagingError(
            f"{file} is not UTF-8: byte {error.start} cannot be decoded. Save it as UTF-8."
        ) from error
    return IgnoreRules(file, parse(text))


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of an ignore file's text."""
    lines = enumerate(text.split("\n"), 1)
    rules = (_rule(number, line.removesuffix("\r")) for number, line in lines)
    return tuple(rule for rule in rules if rule is not None)


def _rule(number: int, line: str) -> Rule | None:
    text = _without_trailing_spaces(line)
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    body = text.removeprefix("!")
    folders_only = body.endswith("/")
    body = body.removesuffix("/")
    anywhere = "/" not in body
    body = body.removeprefix("/")
    if not body:
        return None
    return Rule(number, text, negated, folders_only, anywhere, _pattern(body))


def _without_trailing_spaces(line: str) -> str:
    text = line.rstrip(" ")
    escaped = (len(text) - len(text.rstrip("\\"))) % 2 == 1
    return f"{text} " if escaped and text != line else text


def _pattern(body: str) -> re.Pattern[str]:
    return re.compile("".join(_expression(each) for each in _TOKEN.finditer(body)), re.DOTALL)


def _expression(token: re.Match[str]) -> str:
    kind = str(token.lastgroup)
    if kind == "members":
        return _set(token["members"], negated=bool(token["negated"]))
    if kind in ("escaped", "plain"):
        return re.escape(token[kind])
    return _WILDCARDS.get(kind, _NOTHING)


def _set(members: str, *, negated: bool) -> str:
    """One character of ``[members]``, never a ``/``; an unknown ``[:kind:]`` fits nothing."""
    ranges = []
    for member in _MEMBER.finditer(members):
        if member["kind"] is not None:
            if member["kind"] not in _KINDS:
                return _NOTHING
            ranges.append(_KINDS[member["kind"]])
        else:
            ranges.append(_range(member["first"][-1], (member["last"] or member["first"])[-1]))
    inside = "".join(ranges)
    if negated:
        return f"[^/{inside}]"
    return f"(?!/)[{inside}]"


def _range(first: str, last: str) -> str:
    """Of a range that runs backwards git takes the first character."""
    return f"{re.escape(first)}-{re.escape(last if first <= last else first)}"
