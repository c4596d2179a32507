"""Whether pip finds the packages of a ``requirements.txt``, before an image is built of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import PackagingError
from .resolution_output import Trouble, trouble
from .specification import WHEELS

TIMEOUT_SECONDS = 300.0

_COMMAND = (
    "install",
    "--dry-run",
    "--ignore-installed",
    "--no-input",
    "--no-color",
    "--progress-bar=off",
    "--disable-pip-version-check",
    "--retries=2",
    "--timeout=20",
)
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_UNKNOWN = "It could not be checked whether the packages can be installed"

_ADVICE = (
    " Name a version that has a wheel for Python {python}, which the image has; a pickled model "
    "should be loaded by the version that it was written with."
)


def check(
    requirements: str,
    python: str = "",
    wheels: Iterable[Path] = (),
    *,
    timeout: float = TIMEOUT_SECONDS,
) -> tuple[str, ...]:
    """Ask pip whether the requirements can be installed together; warnings if it cannot tell.

    Nothing is installed. For another Python than this one only wheels are looked at, as pip cannot
    build for it.

    Args:
        requirements: the text of a ``requirements.txt``.
        python: the version in the image, such as ``3.11``; empty for this one.
        wheels: the files that it names as ``./wheels/<file name>``.
        timeout: seconds that pip may take.

    Raises:
        PackagingError: they cannot be installed; the message says which packages are at fault.
    """
    with tempfile.TemporaryDirectory(prefix="scoring-package-") as name:
        folder = Path(name)
        (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
        _place(folder / WHEELS, wheels)
        other = _other_python(python)
        try:
            found = _asked(["-r", "requirements.txt", *other], folder, timeout)
            if found is not None and found.certain and found.requirement and other:
                found = _only_from_source(found, folder, timeout)
        except subprocess.TimeoutExpired:
            return (f"{_UNKNOWN}: pip has not answered within {timeout:g} s.",)
    return _outcome(found, python or _HERE)


def _place(folder: Path, wheels: Iterable[Path]) -> None:
    folder.mkdir()
    for path in wheels:
        shutil.copyfile(path, folder / path.name)


def _other_python(python: str) -> list[str]:
    if python in ("", _HERE):
        return []
    return ["--python-version", python, "--only-binary=:all:", "--target", "target"]


def _asked(arguments: Sequence[str], folder: Path, timeout: float) -> Trouble | None:
    """What is wrong; None if nothing is."""
    command = [sys.executable, "-m", "pip", *_COMMAND, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        return Trouble(f"pip cannot be started: {error.strerror}", certain=False)
    return trouble(done.stdout.decode("utf-8", "replace")) if done.returncode else None


def _only_from_source(found: Trouble, folder: Path, timeout: float) -> Trouble:
    """The trouble, or a milder one if this Python finds the package, as source perhaps."""
    again = _asked(["--no-deps", found.requirement], folder, timeout)
    if again is not None and again.certain:
        return found
    text = f"{found.requirement} has no wheel for the Python of the image, and may have to be built"
    return Trouble(text, certain=False, unbuilt=True)


def _outcome(found: Trouble | None, python: str) -> tuple[str, ...]:
    if found is None:
        return ()
    if found.certain:
        raise PackagingError(f"The packages cannot be installed: {found.text}.")
    advice = _ADVICE.format(python=python) if found.unbuilt else ""
    return (f"{_UNKNOWN}: {found.text}.{advice}",)
