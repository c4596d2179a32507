"""``scoring-package.json``: what a build context holds, so that a later run can compare."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DOCUMENT = "scoring-package.json"
_FORMAT = 1


@dataclass(frozen=True)
class Document:
    """What was packaged; ``files`` are SHA-256 digests in hexadecimal by path with ``/``.

    ``executables`` are those of the files that can be run. ``resolved`` if pip was asked whether
    the requirements can be installed, ``warnings`` is what it could not tell.
    """

    runtime: str
    target: str
    triggers: tuple[str, ...]
    python: str
    entry_script: str
    models: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    executables: tuple[str, ...] = ()
    resolved: bool = False

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, sort_keys=True) + "\n"


def read(folder: Path) -> Document | None:
    """The document in a folder; None if there is none, or it is not what :meth:`text` writes."""
    if not os.path.isfile(folder / DOCUMENT):
        return None
    try:
        said = json.loads((folder / DOCUMENT).read_bytes())
        if not isinstance(said, dict) or said.pop("format", None) != _FORMAT:
            return None
        return Document(**{name: _checked(name, value) for name, value in said.items()})
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _checked(name: str, value: Any) -> Any:
    """Lists become the tuples they were."""
    if name in ("settings", "required", "files"):
        wrong = not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values())
    elif name in ("triggers", "models", "warnings", "executables"):
        wrong = not isinstance(value, list) or not all(isinstance(each, str) for each in value)
        value = tuple(value) if isinstance(value, list) else value
    else:
        wrong = not isinstance(value, bool if name == "resolved" else str)
    if wrong:
        raise ValueError(f"{name} of {DOCUMENT}")
    return value


# --- the files it tells of ------------------------------------------------------------------------


def digest_of(content: bytes | Path) -> str:
    """The SHA-256 of bytes or of a file, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path, *leave: str) -> Iterator[str]:
    """Every file of a context but those in its folders ``leave`` and Python's own, with ``/``."""
    for parent, folders, names in os.walk(folder):
        below = parent[len(str(folder)) :].lstrip(os.sep)
        folders[:] = [
            name for name in folders if name != "__pycache__" and (below or name not in leave)
        ]
        for name in names:
            yield os.path.join(below, name).replace(os.sep, "/")


def changed_by_hand(folder: Path, document: Document, *leave: str) -> list[str]:
    """The files of a context that are not those of its document, each with what is wrong.

    Raises:
        OSError: one of them cannot be read.
    """
    there = set(files_below(folder, *leave)) - {DOCUMENT}
    files = document.files
    changed = [
        name for name in sorted(there & set(files)) if not _is(f"{folder}/{name}", files[name])
    ]
    missing = [f"{name} (missing)" for name in sorted(set(files) - there)]
    return changed + missing + [f"{name} (new)" for name in sorted(there - set(files))]


def _is(path: str, digest: str) -> bool:
    return os.path.isfile(path) and digest_of(Path(path)) == digest
