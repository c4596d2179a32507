"""The two keys of a local service that asks for them, in a file that its owner alone can read.

The host reads it again when it changes: a new key counts at once.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..errors import LocalServiceError

KEYS = "keys.txt"
NAMES = ("primary", "secondary")
_LEAST_CHARACTERS = 16


def read(folder: Path) -> tuple[str, ...]:
    """The primary and the secondary key; nothing if the service asks for none."""
    try:
        lines = (folder / KEYS).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(line.partition(":")[2] for line in lines)


def write(folder: Path, given: tuple[str | None, ...]) -> None:
    """Have the service ask for these keys, None for one that is made; without any, for none.

    Raises:
        LocalServiceError: one is too short, or has characters that headers cannot have.
    """
    made = [secrets.token_urlsafe(32) if each is None else each for each in given]
    for key in made:
        if len(key) < _LEAST_CHARACTERS or not key.isascii() or set(" ,\r\n") & set(key):
            raise LocalServiceError(
                f"A key must have at least {_LEAST_CHARACTERS} characters of ASCII, without spaces "
                "and commas; leave it out, and one is made."
            )
    if len(set(made)) < len(made):
        raise LocalServiceError("The primary and the secondary key must be two.")
    if not made:
        (folder / KEYS).unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{KEYS}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{name}:{key}\n" for name, key in zip(NAMES, made, strict=True))
    new.replace(folder / KEYS)
