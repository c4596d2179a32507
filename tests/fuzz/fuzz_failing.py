"""A target with a bug, by which the runner of targets is tested."""

from __future__ import annotations

import sys

import atheris


def fuzz(data: bytes) -> None:
    """Fail at the seed."""
    if data.startswith(b"boom"):
        raise ZeroDivisionError("the bug")


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
