"""The files of a folder that may go into an image: what is left out, what is refused."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from ..errors import PackagingError
from .document import DOCUMENT
from .ignore_rules import IGNORE_FILES, IgnoreRules

LEFT_OUT = frozenset(
    {
        ".DS_Store",
        ".azure",
        ".azureml",
        ".env",
        ".git",
        ".hg",
        ".ipynb_checkpoints",
        ".local-services",
        ".mlflow-models",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".ruff_cache",
        ".scoring",
        ".svn",
        ".tox",
        "__pycache__",
        "local.settings.json",
        "node_modules",
    }
)
"""Names of what is never taken: version control, caches, settings of one machine."""

_PATTERNS = ("*.pyc", ".env.*", "*.egg-info")
_ENVIRONMENT_SIGNS = ("pyvenv.cfg", "conda-meta")
_LISTED = 1000
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Selection:
    """What may be taken from a folder; ``top`` and ``outputs`` are real paths."""

    folder: Path
    top: str
    rules: IgnoreRules
    outputs: frozenset[str]

    @property
    def hint(self) -> str:
        """What to do about a file that cannot be taken, as a sentence."""
        file = self.rules.file.name if self.rules.file else IGNORE_FILES[0]
        return f"Remove it, or name it in {file}."


# --- what is left out -----------------------------------------------------------------------------


def why_left_out(selection: Selection, name: str) -> str:
    """Why this path itself is left out, as a clause; empty if it is taken."""
    path = selection.folder / name
    real = os.path.realpath(path)
    for part in dict.fromkeys((path.name, *_inside(selection, real).split("/"))):
        if part in LEFT_OUT or any(fnmatchcase(part, each) for each in _PATTERNS):
            return f"{part} is never taken"
    folder = os.path.isdir(path)
    if folder and any(os.path.exists(path / each) for each in _ENVIRONMENT_SIGNS):
        return f"{path} is a virtual environment"
    if folder and os.path.isfile(path / DOCUMENT):
        return f"{path} is a package that was made before"
    if folder and path.suffix == ".scoring" and os.path.isdir(path.with_suffix("")):
        return f"{path} is what is noted of the models in {path.with_suffix('')}"
    if real in selection.outputs:
        return f"{path} is what is being made"
    rule = selection.rules.rule_against(name, folder=folder)
    return f"line {rule.line} of {selection.rules.file} says {rule.text}" if rule else ""


def _inside(selection: Selection, real: str) -> str:
    """The path below the folder that a link leads to; empty if it leads out."""
    prefix = os.path.join(selection.top, "")
    return real.removeprefix(prefix) if real.startswith(prefix) else ""


# --- the files of a folder ------------------------------------------------------------------------


def files(selection: Selection, *names: str) -> Iterator[tuple[str, Path]]:
    """These files and the files of these folders, without what is left out; "" is the whole folder.

    Raises:
        PackagingError: one of them cannot be in an image; the message says why.
    """
    waiting = [name for name in names if all(_is_taken(selection, each) for each in _above(name))]
    while waiting:
        name = waiting.pop()
        path = selection.folder / name
        if name and not _is_taken(selection, name):
            continue
        if os.path.isdir(path):
            waiting.extend(_children(path, name))
        else:
            _check_file(selection, path)
            yield name, path


def _above(name: str) -> list[str]:
    """The folders that a path is in: ``a``, ``a/b`` of ``a/b/c``."""
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _is_taken(selection: Selection, name: str) -> bool:
    if why_left_out(selection, name):
        return False
    check_name(name)
    if os.path.islink(selection.folder / name):
        _check_link(selection, selection.folder / name)
    return True


def _children(folder: Path, name: str) -> list[str]:
    try:
        return [f"{name}/{child}" if name else child for child in os.listdir(folder)]
    except OSError as error:
        raise PackagingError(f"{folder} cannot be read: {error.strerror}.") from error


def check_name(name: str) -> None:
    """Refuse what an image layer cannot hold, or no one could read there.

    Raises:
        PackagingError: it holds a control character, or bytes that are not UTF-8.
    """
    if _NO_TEXT.search(name):
        raise PackagingError(
            f"The file name {name!a} cannot be in an image: it holds a line break, another control "
            "character, or bytes that are not UTF-8. Rename it, or leave it out."
        )


def _check_link(selection: Selection, path: Path) -> None:
    real = os.path.realpath(path)
    parents = (each for each in path.parents if each.is_relative_to(selection.folder))
    if real in map(os.path.realpath, parents):
        raise PackagingError(
            f"The link {path} leads to a folder that it is in itself. {selection.hint}"
        )
    if not _inside(selection, real):
        raise PackagingError(
            f"The link {path} leads out of {selection.folder}, to {real}. {selection.hint}"
        )


def _check_file(selection: Selection, path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PackagingError(f"{path} is neither a file nor a folder. {selection.hint}")
        with path.open("rb"):
            return
    except OSError as error:
        problem = "is a link to nothing" if path.is_symlink() else "cannot be read"
        raise PackagingError(f"{path} {problem}: {error.strerror}. {selection.hint}") from error


# --- near misses ----------------------------------------------------------------------------------


def near_misses(path: Path, pattern: str = "*") -> str:
    """``" Did you mean …?"`` with what has a similar name; empty if nothing has.

    Looked at is what is beside the path and one folder below, in a folder above if its own is not
    there.
    """
    folder = path.parent
    while not os.path.isdir(folder):
        folder = folder.parent
    found = [each.name for each in islice(folder.glob(pattern), _LISTED)]
    below = (each for each in folder.glob(f"*/{pattern}") if each.parent.name not in LEFT_OUT)
    found += [each.relative_to(folder).as_posix() for each in islice(below, _LISTED)]
    return did_you_mean(path.name, found)


def first_missing(path: Path) -> Path:
    """The outermost folder on the way to a path that is not there, or the path itself."""
    return next((each for each in reversed(path.parents) if not os.path.exists(each)), path)


def did_you_mean(wanted: str, there: list[str]) -> str:
    """``" Did you mean …?"`` with those whose last part is similar; empty if none is."""
    by_name = {Path(path).name: path for path in reversed(there)}
    names = difflib.get_close_matches(wanted, by_name)
    return f" Did you mean {' or '.join(by_name[each] for each in names)}?" if names else ""
