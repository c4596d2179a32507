"""Secrets in the files of a package: whoever has the image would have them too."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import PackagingError
from ..settings.secrets import is_real, is_secret, kinds_in

MAX_BYTES = 1 << 20
"""Larger files are data, and are not searched."""

_NAMED = 10
_KEY, _LOGIN = "a private key", "a login"
_NAMES = {
    **dict.fromkeys(("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_*_sk"), _KEY),
    **dict.fromkeys(("*.ppk", "*.p12", "*.pfx"), _KEY),
    **dict.fromkeys((".netrc", "_netrc", ".pgpass", ".pypirc", ".git-credentials"), _LOGIN),
    **dict.fromkeys((".dockercfg", ".docker/config.json", ".aws/credentials"), _LOGIN),
    **dict.fromkeys((".kube/config", "kubeconfig*", "*.kubeconfig"), _LOGIN),
}
"""Files that are refused whatever they hold, by the end of their path."""
_VARIABLES = ("*.env", "*.env.*", "*.envrc", "*.tfvars")
_VARIABLE = re.compile(r"""\s*(?:export\s+)?(\w+)\s*=\s*["']?([^\s"'#]+)""")
_START_BYTES = 8192
_OF_SOURCE = (
    'read it from an environment variable (os.environ["NAME"]) that is set where the image runs, '
    "such as an app setting, or leave the file out with an ignore file (.scoringignore or "
    ".amlignore). A key that others may have seen should be renewed."
)


def check(files: Iterable[tuple[str, Path]], advice: str = _OF_SOURCE) -> None:
    """Refuse files that hold a secret, or are one: whoever has the image would have it too.

    Text files of up to :data:`MAX_BYTES` bytes are searched line by line, so what is put together
    from several lines is not found.

    Args:
        files: ``(path in the context with /, path)``.
        advice: what to do about it, as the end of a sentence.

    Raises:
        PackagingError: the places and the kinds, never the text of a secret; or a file cannot be
            read.
    """
    found = [each for name, path in files for each in _problems(name, path)]
    if found:
        more = f", and {len(found) - _NAMED} more places do" if len(found) > _NAMED else ""
        raise PackagingError(
            f"{'; '.join(found[:_NAMED])}{more}. Whoever has the image would have it too: {advice}"
        )


# --- files ----------------------------------------------------------------------------------------


def _problems(name: str, path: Path) -> Iterator[str]:
    parts = name.lower().split("/")
    for pattern, kind in _NAMES.items():
        end = "/".join(parts[-1 - pattern.count("/") :])
        if fnmatchcase(end, pattern) and not end.endswith(".py"):
            yield f"{name} is {kind}"
            return
    variables = any(fnmatchcase(parts[-1], each) for each in _VARIABLES)
    yield from (f"{name}:{line} holds {kind}" for line, kind in _in(path, variables))


def _kinds(line: str, variables: bool) -> Iterator[str]:
    yield from kinds_in(line)
    found = _VARIABLE.match(line) if variables else None
    if found and is_secret(*found.groups()) and is_real(found[2]):
        yield f"a secret ({found[1]})"


def _in(path: Path, variables: bool) -> Iterator[tuple[int, str]]:
    """The line and the kind of each secret in a text file, a kind once a line."""
    try:
        encoding = _encoding(path)
        if not encoding:
            return
        with path.open(encoding=encoding, errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                yield from ((number, kind) for kind in dict.fromkeys(_kinds(line, variables)))
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
