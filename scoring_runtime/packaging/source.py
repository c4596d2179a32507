"""Which files of the user's code go into a build context.

All of the source folder is taken, without one all of the entry script's own, but caches, virtual
environments, version control, local settings, packages that were made before, and what its ignore
file says, in the syntax of ``.gitignore``. A ``.gitignore`` is not honoured, for models and data
are often kept out of git and yet needed; a link ``.amlignore -> .gitignore`` says that it is meant.

Models that are packaged as such are left out of the script's own folder, as are registries. Of a
source folder that is named they are taken like any other file.
"""

from __future__ import annotations

import os
import re
import stat
import symtable
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PackagingError
from ..models.folder import did_you_mean, registered
from ..models.kinds import ONNX, kind_of, pickles
from ..models.manifest import is_noted
from ..models.pickled import said, weights
from ..settings.secrets import in_file
from .environment.files import needing
from .imports import imports_of
from .specification import DEPLOYMENT, DOCUMENT, MODELS, PackagedModel, Specification

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILES = (".scoringignore", ".amlignore", ".funcignore")
"""The first of them that is in the source folder counts, and it alone."""

_LEFT_OUT = (
    *(".DS_Store", ".azure", ".azureml", ".env", ".env.*", ".git", ".hg", ".ipynb_checkpoints"),
    *(".local-services", ".mlflow-models", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache"),
    *(".scoring", ".svn", ".tox", "*.egg-info", "*.pyc", "__pycache__", "local.settings.json"),
    "node_modules",
)
_ENVIRONMENT_SIGNS = ("pyvenv.cfg", "conda-meta")
_SAMPLES = ("sample_input.json", "sample_input.csv")
_LARGE_BYTES = 100_000_000
_LISTED, _NAMED = 1000, 10
_TAKE_IT_OUT = (
    'read it from an environment variable (os.environ["NAME"]) that is set where the image runs, '
    "such as an app setting, or leave the file out with an ignore file (.scoringignore or "
    ".amlignore). A key that others may have seen should be renewed."
)
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Warn = Callable[[str], None]


@dataclass(frozen=True)
class _Selection:
    """What may be taken from a folder; ``top`` and ``outputs`` are real paths.

    ``models`` are those of the models that are packaged as such, and of their registries;
    ``script`` may be a link that leads out, for it was named.
    """

    folder: Path
    top: str
    outputs: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    script: str = ""
    file: Path | None = None
    lines: tuple[str, ...] = ()
    rules: GitIgnoreSpec | None = None

    def refused(self, what: str) -> PackagingError:
        """The error of a file that cannot be taken."""
        name = self.file.name if self.file else IGNORE_FILES[0]
        return PackagingError(f"{what}. Remove it, or name it in {name}.")


def source_files(
    specification: Specification,
    leave_out: Iterable[Path] = (),
    *,
    warn: Warn = lambda sentence: None,
) -> list[tuple[str, Path]]:
    """The files of the user's code, sorted, as ``(path below source/ with /, path)``.

    The entry script is meant below the source folder, else as it stands; without one there are
    none. Links are followed; ``leave_out`` are paths that are not taken, such as the output.
    ``warn`` is called with a sentence for a script without ``init`` or ``run``, and for a large
    folder of its own.

    Raises:
        PackagingError: the entry script or the folder is not there, is left out, or is no Python;
            or a file cannot be in an image.
    """
    if specification.entry_script is None:
        return []
    folder, name = _located(specification)
    own = specification.source_dir is None
    models = _places(specification.models, folder) if own else frozenset[str]()
    selection = replace(_selection(folder, leave_out), models=models, script=name if own else "")
    _check_place(selection, name)
    _check_script(folder / name, warn)
    found = sorted(_files(selection, ""))
    size = sum(path.stat().st_size for _, path in found) if own else 0
    if size > _LARGE_BYTES:
        warn(
            f"The folder of the entry script, {folder}, is packaged whole and has {size:,} bytes: "
            "name what is not needed in .scoringignore, or move the script to a folder of its own."
        )
    return found


def beside(model: Path) -> list[tuple[str, Path]]:
    """What a model's file needs of what lies beside it, as ``(path below its folder, path)``.

    Those are the modules that its pickle names, what these import, the files that hold the weights
    of an ONNX model, and samples.
    """
    selection = _selection(model.parent)
    named = [*_SAMPLES, *(weights(model) if kind_of(model) == ONNX else ())]
    found = {name: path for each in named for name, path in _taken(selection, each)}
    waiting, seen = sorted(_pickled(model)), set[str]()
    while waiting:
        top = waiting.pop().partition(".")[0]
        if top in seen or top in sys.stdlib_module_names:
            continue
        seen.add(top)
        is_package = any((model.parent / top).glob("*.py"))
        for name, path in _taken(selection, top if is_package else f"{top}.py"):
            found[name] = path
            waiting += imports_of(path) if name.endswith(".py") else ()
    return sorted(found.items())


def entry_script_name(specification: Specification) -> str:
    """The entry script's path below ``source/``, with ``/``; empty without one.

    Raises:
        PackagingError: it is not there, or not in the source folder.
    """
    return _located(specification)[1] if specification.entry_script is not None else ""


def _pickled(path: Path) -> set[str]:
    return {module for each in pickles(path) for module in said(each).modules}


def _taken(selection: _Selection, name: str) -> list[tuple[str, Path]]:
    """The files of one that may be there or not, and may lead anywhere."""
    there = not name.startswith(("/", "..")) and os.path.exists(selection.folder / name)
    return [*_files(selection, os.path.normpath(name))] if there else []


def _places(models: Iterable[PackagedModel], folder: Path) -> frozenset[str]:
    """Where models lie that are packaged as such: those of a registry with all others of it."""
    found = {os.path.realpath(path) for path in (*(each.path for each in models), folder / MODELS)}
    for root in {each.path.parent.parent for each in models if each.registered}:
        noted = (each.path.parent for each in registered(root) if is_noted(each.path))
        found.update(map(os.path.realpath, (root, *noted)))
    return frozenset(each for each in found if not folder.resolve().is_relative_to(each))


# --- the entry script -----------------------------------------------------------------------------


def _located(specification: Specification) -> tuple[Path, str]:
    """The folder that stands for ``source/``, and the entry script's path below it."""
    script = specification.entry_script or Path()
    if specification.source_dir is None:
        path = _existing([Path(os.path.abspath(script))])
        check_name(path.name)
        return path.parent, path.name
    folder = Path(os.path.abspath(specification.source_dir))
    if not os.path.isdir(folder):
        problem = "is no folder" if os.path.exists(folder) else "does not exist"
        there = [each.name for each in islice(folder.parent.glob("*"), _LISTED) if each.is_dir()]
        near = did_you_mean(folder.name, there)
        raise PackagingError(f"The source folder {folder} {problem}.{near}")
    path = _existing([Path(os.path.abspath(each)) for each in (folder / script, script)])
    for top, inside in ((folder, path), (folder.resolve(), path.resolve())):
        if inside.is_relative_to(top):
            return folder, inside.relative_to(top).as_posix()
    raise PackagingError(
        f"The entry script {path} is not in the source folder {folder}: move it there, or name a "
        f"source folder that holds it, such as {os.path.commonpath([folder, path])}."
    )


def _existing(places: list[Path]) -> Path:
    path = next((path for path in places if os.path.exists(path)), places[0])
    if not os.path.exists(path):
        raise PackagingError(f"There is no entry script {path}.{near_misses(path, '*.py')}")
    if os.path.isdir(path):
        problem = "a folder: name the Python file in it"
    elif path.suffix == ".ipynb":
        problem = (
            "a notebook: export it with jupyter nbconvert --to script "
            f"{path.name}, and name the Python file"
        )
    elif path.suffix != ".py":
        problem = "no Python file: its name ends not in .py"
    else:
        return path
    raise PackagingError(f"The entry script {path} is {problem}.")


def _check_place(selection: _Selection, name: str) -> None:
    """An output that holds the source would be taken into itself, or replaced by itself."""
    for output in selection.outputs:
        if os.path.commonpath([output, selection.top]) == output:
            raise PackagingError(
                f"The source folder {selection.folder} lies in the output {output}: "
                "write the output to another folder."
            )
    for each in (*_above(name), name):
        reason = _why_left_out(selection, each)
        if reason:
            raise PackagingError(
                f"The entry script {selection.folder / name} would be left out: {reason}."
            )


def _above(name: str) -> list[str]:
    """The folders that a path is in: ``a``, ``a/b`` of ``a/b/c``."""
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _check_script(path: Path, warn: Warn) -> None:
    """That Python understands it, and what it defines."""
    try:
        table = symtable.symtable(path.read_bytes(), str(path), "exec")  # type: ignore[arg-type]
    except OSError as error:
        raise PackagingError(f"{path} cannot be read: {error.strerror}.") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line, problem = getattr(error, "lineno", None) or 1, getattr(error, "msg", None) or error
        sentence = f"{path}:{line} is not Python: {problem or type(error).__name__}."
        raise PackagingError(sentence) from error
    there = set(table.get_identifiers())
    # A script with driver_module has the run() of that module; of * nobody knows what it brings.
    there |= {"run"} if "driver_module" in there else set()
    lacking = [each for each in ("init", "run") if each not in there]
    if lacking and b"import *" not in path.read_bytes():
        names = " and no ".join(lacking)
        warn(f"{path.name} binds no {names}: the runtime needs init() and run().")


# --- what is left out -----------------------------------------------------------------------------


def _selection(folder: Path, leave_out: Iterable[Path] = ()) -> _Selection:
    """With the rules of the folder's ignore file, the first of :data:`IGNORE_FILES`."""
    outputs = frozenset(os.path.realpath(each) for each in leave_out)
    top, there = os.path.realpath(folder), (folder / name for name in IGNORE_FILES)
    file = next((each for each in there if os.path.lexists(each)), None)
    if file is None:
        return _Selection(folder, top, outputs)
    try:
        # So that the index of a rule is that of its line, and what is below a folder is not it.
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        rules = _rules([re.sub(r"/\*\*+$", "/*", each) or "#" for each in lines])
    except OSError as error:
        raise PackagingError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PackagingError(
            f"{file} is not UTF-8: byte {error.start} cannot be decoded. Save it as UTF-8."
        ) from error
    except ValueError as error:
        raise PackagingError(f"{file}: {error}.") from error
    return _Selection(folder, top, outputs, file=file, lines=tuple(lines), rules=rules)


def _rules(lines: list[str]) -> GitIgnoreSpec:
    with needing("pathspec", "Ignore files cannot be read, for"):
        from pathspec import GitIgnoreSpec
    return GitIgnoreSpec.from_lines(lines)


def _why_left_out(selection: _Selection, name: str) -> str:
    """Why this path itself is left out, as a clause; empty if it is taken."""
    path = selection.folder / name
    real = os.path.realpath(path)
    for part in dict.fromkeys((path.name, *_inside(selection, real).split("/"))):
        if any(fnmatchcase(part, each) for each in _LEFT_OUT):
            return f"{part} is never taken"
    folder = os.path.isdir(path)
    if folder and (kind := _kind(path)):
        return f"{path} {kind}"
    if real in selection.outputs:
        return f"{path} is what is being made"
    if real in selection.models:
        return f"{path} is packaged as a model"
    return _rule_against(selection, f"{name}/" if folder else name)


def _kind(folder: Path) -> str:
    """What a folder is that nobody wrote, as the rest of a clause; empty for any other."""
    if any(os.path.exists(folder / each) for each in _ENVIRONMENT_SIGNS):
        return "is a virtual environment"
    if os.path.isfile(folder / DOCUMENT):
        return "is a package that was made before"
    if os.path.isfile(f"{str(folder).removesuffix(DEPLOYMENT)}/{DOCUMENT}"):
        return "has the files that deploy a package"
    if folder.suffix == ".scoring" and os.path.isdir(folder.with_suffix("")):
        return f"is what is noted of the models in {folder.with_suffix('')}"
    return ""


def _rule_against(selection: _Selection, name: str) -> str:
    found = selection.rules.check_file(name) if selection.rules else None
    if found is None or not found.include or found.index is None:
        return ""
    return f"line {found.index + 1} of {selection.file} says {selection.lines[found.index]}"


def _inside(selection: _Selection, real: str) -> str:
    """The path below the folder that a link leads to; empty if it leads out."""
    prefix = os.path.join(selection.top, "")
    return real.removeprefix(prefix) if real.startswith(prefix) else ""


# --- the files of a folder ------------------------------------------------------------------------


def _files(selection: _Selection, name: str) -> Iterator[tuple[str, Path]]:
    """This file or the files of this folder, without what is left out; "" is the whole folder."""
    waiting = [name] if all(_is_taken(selection, each) for each in _above(name)) else []
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


def _is_taken(selection: _Selection, name: str) -> bool:
    if _why_left_out(selection, name):
        return False
    check_name(name)
    if name != selection.script and os.path.islink(selection.folder / name):
        _check_link(selection, selection.folder / name)
    return True


def _children(folder: Path, name: str) -> list[str]:
    try:
        return [f"{name}/{child}" if name else child for child in os.listdir(folder)]
    except OSError as error:
        raise PackagingError(f"{folder} cannot be read: {error.strerror}.") from error


def check_name(name: str) -> None:
    """Raise PackagingError for a name that an image cannot hold, or no one could read there."""
    if _NO_TEXT.search(name):
        raise PackagingError(
            f"The file name {name!a} cannot be in an image: it holds a line break, another control "
            "character, or bytes that are not UTF-8. Rename it, or leave it out."
        )


def _check_link(selection: _Selection, path: Path) -> None:
    real = os.path.realpath(path)
    parents = (each for each in path.parents if each.is_relative_to(selection.folder))
    if real in map(os.path.realpath, parents):
        raise selection.refused(f"The link {path} leads to a folder that it is in itself")
    if not _inside(selection, real):
        raise selection.refused(f"The link {path} leads out of {selection.folder}, to {real}")


def _check_file(selection: _Selection, path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise selection.refused(f"{path} is neither a file nor a folder")
        with path.open("rb"):
            return
    except OSError as error:
        problem = "is a link to nothing" if path.is_symlink() else "cannot be read"
        raise selection.refused(f"{path} {problem}: {error.strerror}") from error


# --- secrets --------------------------------------------------------------------------------------


def check_no_secrets(files: Iterable[tuple[str, Path]], advice: str = _TAKE_IT_OUT) -> None:
    """Refuse files that hold a secret, or are one: whoever has the image would have it too.

    ``advice`` is what to do about it, as the end of a sentence.

    Raises:
        PackagingError: the places and the kinds, never the text of a secret; or a file cannot be
            read.
    """
    try:
        found = [each for name, path in files for each in in_file(name, path)]
    except OSError as error:
        raise PackagingError(f"{error.filename} cannot be read: {error.strerror}.") from error
    if found:
        rest = len(found) - _NAMED
        more = f", and {rest} more places do" if rest > 0 else ""
        raise PackagingError(
            f"{'; '.join(found[:_NAMED])}{more}. Whoever has the image would have it too: {advice}"
        )


# --- near misses ----------------------------------------------------------------------------------


def near_misses(path: Path, pattern: str = "*") -> str:
    """``" Did you mean …?"`` with what is called alike there or a folder below, if anything is."""
    folder = path.parent
    while not os.path.isdir(folder):
        folder = folder.parent
    found = [each.name for each in islice(folder.glob(pattern), _LISTED)]
    below = (each for each in folder.glob(f"*/{pattern}") if each.parent.name not in _LEFT_OUT)
    found += [each.relative_to(folder).as_posix() for each in islice(below, _LISTED)]
    return did_you_mean(path.name, found)


def first_missing(path: Path) -> Path:
    """The outermost folder on the way to a path that is not there, or the path itself."""
    return next((each for each in reversed(path.parents) if not os.path.exists(each)), path)
