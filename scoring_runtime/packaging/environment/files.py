"""Texts that describe an environment: read, shown in messages, and searched for secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import PackagingError
from ...settings.secrets import is_secret

LARGEST_BYTES = 10 << 20
"""No file that describes an environment is larger."""

INSTALL = 'pip install "scoring-runtime[package]"'

_USER = re.compile(r"(?P<scheme>[\w.+-]*)://(?P<user>[^/@\s]+)@")
_SIGNATURE = re.compile(
    r"(?i)(?<=[?&;])(sig|token|access_token|api_?key|password|code)=[^&;\s]{4,}"
)
_SHOWN = 120


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        PackagingError: it is not there, no file, cannot be read, too large, or not UTF-8.
    """
    try:
        if not path.is_file():
            raise PackagingError(
                f"{path} is no file." if path.exists() else f"{path} does not exist."
            )
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise PackagingError(f"{path} cannot be read: {why}.") from error
    if len(content) > LARGEST_BYTES:
        raise PackagingError(
            f"{path} is larger than {LARGEST_BYTES >> 20} MB; no description of an environment is."
        )
    return _decoded(path, content)


def _decoded(path: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PackagingError(
            f"{path} is in UTF-16, as PowerShell's > writes it: save it in UTF-8 "
            "(… | Out-File -Encoding utf8)."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PackagingError(f"{path}, line {line}: this is not UTF-8.") from error


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with the numbers they begin at: joined at a final backslash, without comments."""
    start, parts = 1, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if not parts:
            start = number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            parts.append(line[:-1])
            continue
        yield from _logical(start, [*parts, line])
        parts = []
    yield from _logical(start, parts)


def _logical(start: int, parts: list[str]) -> Iterator[tuple[int, str]]:
    line = re.sub(r"(^|\s)#.*$", "", "".join(parts)).replace("\t", " ").strip()
    if line:
        yield start, line


def parse_yaml(text: str, where: str) -> object:
    """A YAML document as plain data.

    Raises:
        PackagingError: it is not YAML, or PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise PackagingError(f"{where} is YAML, and PyYAML is not installed: {INSTALL}") from error
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}" if mark else ""
        raise PackagingError(f"{where}{place} is not YAML: {error.problem}.") from error
    except Exception as error:  # PyYAML's constructors raise whatever int(), float() … raise
        said = shown(str(error).partition("\n")[0])
        raise PackagingError(f"{where} is not YAML: {said}.") from error


def shown(value: object) -> str:
    """A value for a message: on one line, not too long, without credentials."""
    text = repr(without_credentials(value) if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def without_credentials(text: str) -> str:
    """The text with ``***`` for the user part of URLs and for tokens in their queries."""
    return _SIGNATURE.sub(r"\1=***", _USER.sub(_without_user, text))


def _without_user(found: re.Match[str]) -> str:
    """The user name of SSH, as in ``git+ssh://git@…``, is no secret."""
    if found["scheme"].endswith("ssh") and ":" not in found["user"]:
        return found[0]
    return f"{found['scheme']}://***@"


def check_no_credentials(line: str, where: str) -> None:
    """Refuse a line of which a URL signs in: what is in a context is in the image.

    Raises:
        PackagingError: there are credentials; they are not in the message.
    """
    if line != without_credentials(line):
        raise PackagingError(
            f"{where}: {shown(line)} holds credentials, which are never written into a build "
            "context. Take them out, and give pip the address when the image is built: "
            "--build-arg PIP_EXTRA_INDEX_URL, which takes it from the environment and keeps it out "
            "of the image."
        )


def fields(value: object, known: tuple[str, ...], where: str) -> Mapping[str, Any]:
    """The fields of an object or mapping, none of which is unknown.

    Raises:
        PackagingError: it is no mapping, or has a key that is not known; the message lists those.
    """
    if not isinstance(value, dict):
        raise PackagingError(
            f"{where} is {shown(value)}; an object with these keys is expected: {', '.join(known)}."
        )
    for key in value:
        if key not in known:
            raise PackagingError(
                f"{where} has the unknown key {shown(key)}; known are {', '.join(known)}."
            )
    return value


def variables(value: object, where: str) -> dict[str, str]:
    """Environment variables that may be written into an image, with names of any form.

    Raises:
        PackagingError: it is no mapping of names to texts or numbers, or one is a secret.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PackagingError(f"{where} is {shown(value)}; names with their values are expected.")
    return {str(name): _variable(str(name), each, where) for name, each in value.items()}


def _variable(name: str, value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PackagingError(
            f"{where}: {name} is {type(value).__name__}; a text is expected: write it in quotes."
        )
    text = str(value)
    signs_in = is_secret(name, text) or text != without_credentials(text)
    if text and not text.startswith("@Microsoft.KeyVault(") and signs_in:
        raise PackagingError(
            f"{where}: {name} looks like a secret, and secrets are never written into an image. "
            f"Take it out, and set {name} where the image runs."
        )
    return text
