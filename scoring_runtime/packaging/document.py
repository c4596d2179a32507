"""``scoring-package.json``: what a build context holds, so that a later run can compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DOCUMENT = "scoring-package.json"
_FORMAT = 1


@dataclass(frozen=True)
class Document:
    """What was packaged; ``files`` are SHA-256 digests in hexadecimal by path with ``/``."""

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

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, sort_keys=True) + "\n"


def read(folder: Path) -> Document | None:
    """The document in a folder; None if there is none, or it is not what :meth:`text` writes."""
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
    elif name in ("triggers", "models", "warnings"):
        wrong = not isinstance(value, list) or not all(isinstance(each, str) for each in value)
        value = tuple(value) if isinstance(value, list) else value
    else:
        wrong = not isinstance(value, str)
    if wrong:
        raise ValueError(f"{name} of {DOCUMENT}")
    return value
