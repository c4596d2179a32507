"""Whether pip finds the packages of a ``requirements.txt``, before an image is built of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import PackagingError
from .environment.files import without_credentials
from .specification import WHEELS

TIMEOUT_SECONDS = 300.0

_OPTIONS = (
    *("--dry-run", "--ignore-installed", "--no-input", "--no-color", "--progress-bar=off"),
    *("--disable-pip-version-check", "--retries=2", "--timeout=20"),
    "--requirement=requirements.txt",
)
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_ADVICE = (
    ". Name a version that has a wheel for Python {python}, which the image has; a pickled model "
    "should be loaded by the version that it was written with"
)
# How pip's last error begins if the packages are at fault, and what stands above it if the index is
# away, which it calls an index without that package.
_AT_FAULT = ("No matching distribution found", "Cannot install", "Invalid requirement", "Wheel ")
_UNBUILT = ("metadata-generation-failed", "subprocess-exited-with-error", "BackendUnavailable")
_AWAY = ("Retrying (", "Could not fetch URL", " Error: ", "Max retries exceeded")
_CAUSES = "The conflict is caused by:"


def check(
    requirements: str,
    python: str = "",
    wheels: Iterable[Path] = (),
    *,
    timeout: float = TIMEOUT_SECONDS,
) -> tuple[str, ...]:
    """Ask pip whether the requirements can be installed together; warnings if it cannot tell.

    Nothing is installed. For another ``python`` than this one only wheels are looked at, as pip
    cannot build for it; what is not found then and is for this one may have to be built. ``wheels``
    are the files that the text names as ``./wheels/<file name>``, ``timeout`` the seconds that pip
    may take.

    Raises:
        PackagingError: they cannot be installed; the message is pip's last error.
    """
    other = [f"--python-version={python}", "--only-binary=:all:", "--target=target"]
    other = other if python not in ("", _HERE) else []
    with laid_out(requirements, wheels) as folder:
        try:
            said, certain = _asked(other, folder, timeout)
            if certain and other:
                certain = _asked([], folder, timeout)[1]
                said += "" if certain else _ADVICE.format(python=python)
        except subprocess.TimeoutExpired:
            said, certain = f"pip has not answered within {timeout:g} s", False
    if certain:
        raise PackagingError(f"The packages cannot be installed: {said}.")
    unknown = "It could not be checked whether the packages can be installed"
    return (f"{unknown}: {said}.",) if said else ()


@contextmanager
def laid_out(requirements: str, wheels: Iterable[Path]) -> Iterator[Path]:
    """A folder for the time being, with ``requirements.txt`` and the wheels that it names."""
    with tempfile.TemporaryDirectory(prefix="scoring-package-") as name:
        folder = Path(name)
        (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
        (folder / WHEELS).mkdir()
        for path in wheels:
            shutil.copyfile(path, folder / WHEELS / path.name)
        yield folder


def answer(command: Sequence[str], folder: Path, timeout: float) -> tuple[int, str]:
    """The exit code of a command in a folder, and what it says, without credentials.

    Raises:
        subprocess.TimeoutExpired: it takes longer, in seconds.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    return done.returncode, without_credentials(done.stdout.decode("utf-8", "replace"))


def _asked(arguments: Sequence[str], folder: Path, timeout: float) -> tuple[str, bool]:
    """What is wrong, nothing if nothing is, and whether the requirements are at fault."""
    command = [sys.executable, "-m", "pip", "install", *_OPTIONS, *arguments]
    code, output = answer(command, folder, timeout)
    if not code:
        return "", False
    lines = [line.strip() for line in output.splitlines()]
    errors = [line[7:] for line in lines if line.startswith(("ERROR: ", "error: "))]
    errors = [each for each in errors if not each.startswith("ResolutionImpossible")]
    error = ["pip said nothing", *filter(None, lines), *errors][-1].rstrip(".")
    if any(each in output for each in _AWAY):
        return "the package index cannot be reached, or refuses to answer", False
    if not error.startswith(_AT_FAULT) and any(each in output for each in _UNBUILT):
        problem = "one of them has no wheel that fits, and building it from source fails here"
        return problem + _ADVICE.format(python=_HERE), False
    if _CAUSES in lines:
        causes = lines[lines.index(_CAUSES) + 1 :]
        error += f": {'; '.join(causes[: causes.index('')] if '' in causes else causes)}"
    return error, error.startswith(_AT_FAULT)
