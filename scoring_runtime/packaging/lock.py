"""Lock files: each package that an image installs, with its version and the hashes of its files.

uv writes them (https://docs.astral.sh/uv/pip/compile/) for every platform and for the image's
Python or a newer one; pip installs from them and refuses a file with another hash.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..errors import PackagingError
from .resolution import answer, laid_out

TIMEOUT_SECONDS = 300.0
_OPTIONS = ("--universal", "--generate-hashes", "--no-header", "--no-annotate", "--quiet")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def lock_name(target: str) -> str:
    """The name of a target's lock file in a build context."""
    return f"requirements-{target}.lock"


def locked(
    requirements: str,
    python: str,
    wheels: Iterable[Path] = (),
    previous: bytes = b"",
    *,
    timeout: float = TIMEOUT_SECONDS,
) -> bytes:
    """The lock file of some requirements; versions that ``previous`` has stay if they still fit.

    ``wheels`` are the files that the requirements name as ``./wheels/<file name>``.

    Raises:
        PackagingError: uv is not installed, does not answer in ``timeout`` seconds, finds no
            versions that fit together, or one of the requirements cannot have a hash.
    """
    with laid_out(requirements, wheels) as folder:
        made = folder / "requirements.lock"
        if previous:
            made.write_bytes(previous)
        _compile(folder, made.name, python, timeout)
        found = made.read_bytes()
    _check_hashes(found.decode("utf-8"))
    return found


def _compile(folder: Path, name: str, python: str, timeout: float) -> None:
    command = [_uv(), "pip", "compile", "requirements.txt", "--output-file", name, *_OPTIONS]
    try:
        code, said = answer([*command, "--python-version", python], folder, timeout)
    except subprocess.TimeoutExpired as error:
        raise PackagingError(
            f"The packages cannot be locked: uv has not answered within {timeout:g} s. Try again, "
            "or package without --lock."
        ) from error
    if code:
        lines = _COLOURS.sub("", said).splitlines()
        causes = " ".join(re.sub(r"^\W+", "", line).strip() for line in lines)
        raise PackagingError(f"The packages cannot be locked: uv says: {causes.strip()}")


def _uv() -> str:
    """The program; that of this environment if it has one."""
    try:
        import uv
    except ModuleNotFoundError:
        found = shutil.which("uv")
    else:
        found = str(uv.find_uv_bin())
    if found is None:
        raise PackagingError(
            "--lock needs uv, which is not installed: pip install 'scoring-runtime[lock]'."
        )
    return found


def _check_hashes(text: str) -> None:
    """pip refuses a file in which one has none; a checkout of git has none."""
    entries = re.sub(r"\\\n\s*", "", text).splitlines()
    kept = (each for each in entries if each.strip() and not each.startswith(("#", "-")))
    bare = [each.partition(";")[0].strip() for each in kept if "--hash=" not in each]
    if bare:
        raise PackagingError(
            f"The packages cannot be locked: {', '.join(bare)} has no hash. Name a version of an "
            "index, or a wheel (./name.whl), instead of an address; or package without --lock."
        )
