"""Secrets in source files and settings, found by their shape.

What is told apart from a secret: the key of Azurite, which is public, connection strings of
Application Insights, which only allow to send, and placeholders such as ``<key>``.
Shapes: https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string,
https://learn.microsoft.com/azure/service-bus-messaging/service-bus-sas and
https://learn.microsoft.com/rest/api/storageservices/create-service-sas.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..connections import AZURITE
from ..errors import PackagingError

MAX_BYTES = 1 << 20
"""Larger files are data, and are not searched."""

_NAMED = 10
_START_BYTES = 8192
_TOKEN_LENGTH = 1000
_QUOTES = r"""["'\\]{0,4}"""
_VALUE = r"""([^;,&\s"'`\\]+)"""
_STORAGE = "a storage account key (AccountKey=…)"
_SHARED = "a shared access key (SharedAccessKey=…)"
_SAS = "a SAS token (sig=…)"
_REDIS = "a Redis password"
_IS = rf"""{_QUOTES}\s*[:=]\s*(?:[a-z]{{1,2}}(?=["']))?{_QUOTES}"""
_KINDS = (
    (_STORAGE, re.compile(rf"(?:key|credential){_IS}([A-Za-z0-9+/]{{86}}==)", re.IGNORECASE)),
    (_SHARED, re.compile(rf"SharedAccessKey{_IS}{_VALUE}", re.IGNORECASE)),
    (_SAS, re.compile(rf"(?<![A-Za-z0-9_])sig={_VALUE}")),
    (
        _REDIS,
        re.compile(
            r"""rediss?(?:\+[a-z]+)?://[^\s:@/"'`]{0,99}:(?!\d+/)([^\s@"'`]{1,300})@""",
            re.IGNORECASE,
        ),
    ),
    (_REDIS, re.compile(rf"""redis[^\s"']{{0,300}},\s*password={_VALUE}""", re.IGNORECASE)),
)
_MARKS = re.compile(r"key|credential|sig=|redis", re.IGNORECASE)
_OTHER_FIELDS = re.compile(r"(?<![A-Za-z0-9_])(?:se|si|sv|skn)=")
_PUBLIC_KEY = re.findall(r"AccountKey=([^;]+)", AZURITE)[0]

# Signs of a template, of code that fills one in, or of something left out.
_TEMPLATE = re.compile(r"^[<\[$]|[{}…]|\.\.\.|^%\w+%$|%s|%\(")
_WORDS = re.compile(
    r"(?:^|[-_. ])(?:your|my|some|the|example|sample|dummy|test|fake|placeholder|changeme|change|"
    r"insert|replace|redacted|removed|secret|password|passwd|pass|pwd|key|value|token|sas|todo|"
    r"none|null)(?=$|[-_. ])|^(?:your|my|the|some)[a-z]*(?:key|password|token|secret|sig)$",
    re.IGNORECASE,
)
_SECRET_WORDS = {
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "KEYS",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PASSWORDS",
    "PWD",
    "SAS",
    "SECRET",
    "SECRETS",
    "TOKEN",
    "TOKENS",
}
_PASSWORD_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@")
_SWITCHES = {"true", "false", "yes", "no", "on", "off"}


_OF_SOURCE = (
    'read it from an environment variable (os.environ["NAME"]) that is set where the image runs, '
    "such as an app setting, or leave the file out with an ignore file (.scoringignore or "
    ".amlignore). A key that others may have seen should be renewed."
)


def check(files: Iterable[tuple[str, Path]], advice: str = _OF_SOURCE) -> None:
    """Refuse source files that hold a secret: whoever has the image would have it too.

    Text files of up to :data:`MAX_BYTES` bytes are searched line by line, so what is put together
    from several lines is not found.

    Args:
        files: ``(path in the context with /, path)``.
        advice: what to do about it, as the end of a sentence.

    Raises:
        PackagingError: the places and the kinds, never the text of a secret; or a file cannot be
            read.
    """
    found = [f"{name}:{line} holds {kind}" for name, path in files for line, kind in _in(path)]
    if found:
        more = f", and {len(found) - _NAMED} more places do" if len(found) > _NAMED else ""
        raise PackagingError(
            f"{'; '.join(found[:_NAMED])}{more}. Whoever has the image would have it too: {advice}"
        )


def is_secret(name: str, value: str) -> bool:
    """Whether an environment variable is a secret, by its name or by its value.

    Names are those whose last word is KEY, SECRET, PASSWORD, TOKEN, SAS and the like, in
    ``UPPER_CASE`` or ``camelCase``, and those that end in ``ConnectionString``. Without a secret
    are switches (``true``), and what Application Insights needs.
    """
    if "insights" in name.lower() or "instrumentationkey=" in value.lower():
        return next(_kinds_in(value), None) is not None
    if _is_secret_name(name) and not _is_plain(name, value.strip()):
        return True
    if any(_is_real(match[1]) for match in _PASSWORD_IN_URL.finditer(value)):
        return True
    return next(_kinds_in(value), None) is not None


def _is_plain(name: str, value: str) -> bool:
    """A switch, or a number of tokens, as in ``MAX_TOKENS=512``."""
    return value.lower() in _SWITCHES or (value.isdecimal() and name.lower().endswith("tokens"))


def _is_secret_name(name: str) -> bool:
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    plain = "".join(words).upper()
    return plain.endswith("CONNECTIONSTRING") or bool(words and words[-1].upper() in _SECRET_WORDS)


# --- texts ----------------------------------------------------------------------------------------


def _kinds_in(text: str) -> Iterator[str]:
    """The kind of each secret in the text."""
    if not _MARKS.search(text):
        return
    for kind, pattern in _KINDS:
        for match in pattern.finditer(text):
            if _is_real(match[1]) and (kind != _SAS or _is_sas_token(text, match.start())):
                yield kind


def _is_sas_token(text: str, position: int) -> bool:
    """Whether ``sig=`` stands among the other fields of a token, up to the next quote or space."""
    before = re.split(r"[\s\"'`]", text[max(0, position - _TOKEN_LENGTH) : position])[-1]
    after = re.split(r"[\s\"'`]", text[position : position + _TOKEN_LENGTH])[0]
    return bool(_OTHER_FIELDS.search(before + after))


def _is_real(value: str) -> bool:
    bare = value.rstrip("=")
    few = len(set(bare)) <= (3 if len(bare) >= 16 else 1)
    return not (few or value == _PUBLIC_KEY or _TEMPLATE.search(value) or _WORDS.search(value))


# --- files ----------------------------------------------------------------------------------------


def _in(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the kind of each secret in a text file, a kind once a line."""
    try:
        encoding = _encoding(path)
        if not encoding:
            return
        with path.open(encoding=encoding, errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                yield from ((number, kind) for kind in dict.fromkeys(_kinds_in(line)))
    except OSError as error:
        raise PackagingError(f"{path} cannot be read: {error.strerror}.") from error


def _encoding(path: Path) -> str:
    """How to read the file; empty if it is none of text, or too large."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
        if file.seek(0, 2) > MAX_BYTES:
            return ""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "" if b"\0" in start else "utf-8-sig"
