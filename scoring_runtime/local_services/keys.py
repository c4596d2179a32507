"""The two keys of a local service that asks for them: made here, read by its host.

They are in a file that its owner alone can read; the host reads it again when it changes, so that a
new key counts at once.
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
    said = dict(line.split(":", 1) for line in lines)
    return tuple(said[name] for name in NAMES)


def write(folder: Path, given: tuple[str | None, ...] = (None, None)) -> tuple[str, ...]:
    """Have the service ask for these keys; for one that is None a new one is made.

    Raises:
        LocalServiceError: one is too short, or has characters that headers cannot have.
    """
    made = tuple(secrets.token_urlsafe(32) if each is None else each for each in given)
    for key in made:
        if len(key) < _LEAST_CHARACTERS or not key.isascii() or set(" ,\r\n") & set(key):
            raise LocalServiceError(
                f"A key must have at least {_LEAST_CHARACTERS} characters of ASCII, without spaces "
                "and commas; leave it out, and one is made."
            )
    if made[0] == made[1]:
        raise LocalServiceError("The primary and the secondary key must be two.")
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{name}:{key}\n" for name, key in zip(NAMES, made, strict=True))
    new = folder / f".{KEYS}"
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(folder / KEYS)
    return made


def remove(folder: Path) -> None:
    """Have the service ask for none, once it is started anew."""
    (folder / KEYS).unlink(missing_ok=True)
