"""What a watched folder holds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path


def claim_name(name: str) -> str:
    """The name of an input's claim file: as short whatever the input's is."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a folder and below, without those that are hidden."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                with contextlib.suppress(FileNotFoundError):
                    yield path, path.stat()


def age(status: os.stat_result) -> float:
    """Seconds since the last change."""
    return time.time() - status.st_mtime
