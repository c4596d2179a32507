"""Texts that describe an environment: read, shown in messages, and searched for secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import PackagingError
from ...settings.secrets import is_secret

_LARGEST_BYTES = 10 << 20
_INSTALL = 'pip install "scoring-runtime[package]"'

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
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise PackagingError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > _LARGEST_BYTES:
        raise PackagingError(
            f"{path} is larger than {_LARGEST_BYTES >> 20} MB; no description of an environment is."
        )
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


@contextmanager
def needing(package: str, why: str) -> Iterator[None]:
    """Imports are from a package: PackagingError, which begins with ``why``, if it is not there."""
    try:
        yield
    except ImportError as error:
        raise PackagingError(f"{why} {package} is not installed: {_INSTALL}") from error


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with the numbers they begin at: joined at a final backslash, without comments."""
    start, kept = 1, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        start = start if kept else number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            kept += line[:-1]
            continue
        whole = re.sub(r"(^|\s)#.*$", "", kept + line).replace("\t", " ").strip()
        kept = ""
        if whole:
            yield start, whole


def parse_yaml(text: str, where: str) -> object:
    """A YAML document as plain data.

    Raises:
        PackagingError: it is not YAML, or PyYAML is not installed.
    """
    with needing("PyYAML", f"{where} is YAML, and"):
        import yaml
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


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """The value, which messages call ``where``; raises PackagingError if it is no object."""
    if not isinstance(value, dict):
        raise PackagingError(f"{where} is {shown(value)}; an object with keys is expected.")
    return value


def variables(value: object, where: str) -> dict[str, str]:
    """Environment variables that may be written into an image, with names of any form.

    Raises:
        PackagingError: it is no mapping of names to texts or numbers, or one is a secret.
    """
    said = {} if value is None else mapping(value, where)
    return {str(name): _variable(str(name), each, where) for name, each in said.items()}


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
