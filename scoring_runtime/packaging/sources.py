"""Which files of the user's code go into a build context.

With a source folder all of it is taken but caches, virtual environments, version control, local
settings (``.env``, ``local.settings.json``), packages that were made before, and what its ignore
file says: ``.scoringignore``, else ``.amlignore``, else ``.funcignore``. A ``.gitignore`` is not
honoured, for models and data are often kept out of git and yet needed; a link
``.amlignore -> .gitignore`` says that it is meant.
A ``.dockerignore`` is not either: it has another syntax and is about another image. Models that lie
in the source folder are taken like any other file, also if they are packaged as models too: name
them in the ignore file to have them once.

Without a source folder the entry script is taken, and the modules beside it that it imports, and
that those import: a module's file, or a package's whole folder. Data files that a script opens,
which is warned about, and modules that are found by changing ``sys.path`` need a source folder.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import islice
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import TypeVar

from ..errors import PackagingError
from ..models.kinds import ONNX, kind_of, pickles
from ..models.pickled import said, weights
from . import ignore_rules
from .import_statements import Import, imports_of, names_bound, paths_named, places
from .source_folder import Selection, check_name, did_you_mean, files, near_misses, why_left_out
from .specification import PackagedModel, Specification

Warn = Callable[[str], None]
_Found = TypeVar("_Found")
_MODULE_SUFFIXES = (".py", *EXTENSION_SUFFIXES)
_LISTED = 1000
_SAMPLES = ("sample_input.json", "sample_input.csv")


def source_files(
    specification: Specification,
    leave_out: Iterable[Path] = (),
    *,
    warn: Warn = lambda sentence: None,
) -> list[tuple[str, Path]]:
    """The files of the user's code, sorted, as ``(path below source/ with /, path)``.

    Links are followed. Without an entry script there are none.

    Args:
        specification: its ``entry_script`` is meant below its ``source_dir``, else as it stands.
        leave_out: files and folders that are not taken, such as the output.
        warn: called with a sentence for each module whose imports cannot be found out, for a script
            without ``init`` or ``run``, and for each file that is named and not taken.

    Raises:
        PackagingError: the entry script or the folder is not there, or is left out; something is
            no file, cannot be read, has a name that no image can hold, or is a link that leads out
            of the folder or to a folder that it is in; the script is not Python, or not named so.
    """
    if specification.entry_script is None:
        return []
    folder, name = _located(specification)
    selection = _selection(folder, leave_out)
    _check_place(selection)
    _check_taken(selection, name)
    imports = _imports_of_entry(specification, folder / name, warn)
    if specification.source_dir is not None:
        return sorted(files(selection, ""))
    imports += [Import(0, each) for model in specification.models for each in _pickled(model.path)]
    found = _with_imports(selection, name, imports, warn)
    for sentence in _not_taken(selection, found, specification.models):
        warn(sentence)
    return sorted(found.items())


def reached(specification: Specification) -> set[str]:
    """The entry script and the modules that it imports, by their paths below ``source/``."""
    folder, name = _located(specification)
    imports = _imports_of_module(folder / name, _untold)
    return {*_with_imports(_selection(folder), name, imports, _untold)}


def misplaced(specification: Specification, option: str, names: Iterable[str]) -> Iterator[str]:
    """A warning for each file of a model that the script opens beside the folder that it lies in.

    Azure ML kept the folder's name. Nothing is said of scripts that look for the folder themselves.

    Args:
        specification: its entry script is looked at.
        option: the value of ``--model`` that packages the folder's content alone.
        names: the model's files by their paths below the version.
    """
    there, script = {*names}, Path(*_located(specification))
    named = {normpath(text): line for line, text in reversed(_paths_named(script))}
    tops = {each.partition("/")[0] for each in there}
    text = _read(script, lambda content: content.decode(errors="replace"))
    found = "AZUREML_MODEL_DIR" in text and not re.search("get_model_path|listdir|glob|walk", text)
    if not found or len(tops) > 1 or any(top in each.split("/") for each in named for top in tops):
        return
    [top] = tops
    for each in (each for each in named if f"{top}/{each}" in there):
        yield (
            f"{script.name} line {named[each]} names {each}, which lies in the model's folder "
            f"{top}/, as in Azure ML: --model {option} packages what is in it without it."
        )


def beside(model: Path) -> list[tuple[str, Path]]:
    """What a model's file needs of what lies beside it, as ``(path below its folder, path)``.

    Those are the modules that its pickle names, what these import and name, the files that hold
    the weights of an ONNX model, and samples.
    """
    folder, selection = model.parent, _selection(model.parent)
    imports = [Import(0, each) for each in _pickled(model)]
    found = _with_imports(selection, model.name, imports, _untold)
    named = [*_SAMPLES, *(text for name in found for _, text in _paths_named(found[name]))]
    named += weights(model) if kind_of(model) == ONNX else ()
    relative = (normpath(name) for name in named if not name.startswith("/"))
    found |= {name: folder / name for name in relative if _is_left(selection, name, ())}
    return sorted((name, path) for name, path in found.items() if os.path.isfile(path))


def _selection(folder: Path, leave_out: Iterable[Path] = ()) -> Selection:
    outputs = frozenset(os.path.realpath(each) for each in leave_out)
    return Selection(folder, os.path.realpath(folder), ignore_rules.read(folder), outputs)


def _untold(sentence: str) -> None:
    """It is said elsewhere."""


def _pickled(path: Path) -> list[str]:
    return sorted(module for each in pickles(path) for module in said(each).modules)


def entry_script_name(specification: Specification) -> str:
    """The entry script's path below ``source/``, with ``/``; empty without one.

    Raises:
        PackagingError: it is not there, or not in the source folder.
    """
    return _located(specification)[1] if specification.entry_script is not None else ""


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
        raise PackagingError(
            f"The source folder {folder} {problem}."
            + did_you_mean(folder.name, _folders(folder.parent))
        )
    path = _existing([Path(os.path.abspath(each)) for each in (folder / script, script)])
    for top, inside in ((folder, path), (folder.resolve(), path.resolve())):
        if inside.is_relative_to(top):
            return folder, inside.relative_to(top).as_posix()
    raise PackagingError(
        f"The entry script {path} is not in the source folder {folder}: move it there, or name a "
        f"source folder that holds it, such as {os.path.commonpath([folder, path])}."
    )


def _existing(places: list[Path]) -> Path:
    found = next((path for path in places if os.path.isfile(path)), None)
    if found is not None:
        _check_suffix(found)
        return found
    path = places[0]
    if os.path.isdir(path):
        raise PackagingError(f"The entry script {path} is a folder: name the Python file in it.")
    raise PackagingError(f"There is no entry script {path}.{near_misses(path, '*.py')}")


def _check_suffix(path: Path) -> None:
    if path.suffix == ".ipynb":
        raise PackagingError(
            f"The entry script {path} is a notebook: export it with jupyter nbconvert --to script "
            f"{path.name}, and name the Python file."
        )
    if path.suffix != ".py":
        raise PackagingError(
            f"The entry script {path} is no Python file: its name ends not in .py."
        )


def _folders(parent: Path) -> list[str]:
    return [each.name for each in islice(parent.glob("*"), _LISTED) if os.path.isdir(each)]


def _check_place(selection: Selection) -> None:
    """An output that holds the source would be taken into itself, or replaced by itself."""
    for output in selection.outputs:
        if os.path.commonpath([output, selection.top]) == output:
            raise PackagingError(
                f"The source folder {selection.folder} lies in the output {output}: "
                "write the output to another folder."
            )


def _check_taken(selection: Selection, name: str) -> None:
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        reason = why_left_out(selection, "/".join(parts[:end]))
        if reason:
            raise PackagingError(
                f"The entry script {selection.folder / name} would be left out: {reason}."
            )


def _imports_of_entry(specification: Specification, path: Path, warn: Warn) -> list[Import]:
    try:
        bound = _read(path, names_bound)
        _check_bound(path.name, bound, warn)
        return _read(path, imports_of)
    except PackagingError as error:
        if not _is_newer(specification.environment.python):
            raise
        warn(str(error))
        return []


def _check_bound(name: str, bound: frozenset[str], warn: Warn) -> None:
    """A script with ``driver_module`` has the ``run`` of that module."""
    there = {*bound, "run"} if "driver_module" in bound else bound
    lacking = [each for each in ("init", "run") if each not in there]
    if lacking and "*" not in there:
        warn(f"{name} binds no {' and no '.join(lacking)}: the runtime needs init() and run().")


def _is_newer(version: str) -> bool:
    """Whether the image's Python may understand what the one here does not."""
    numbers = version.split(".")[:2]
    return all(map(str.isdecimal, numbers)) and tuple(map(int, numbers)) > sys.version_info[:2]


# --- the modules that a script imports ------------------------------------------------------------


def _with_imports(
    selection: Selection, name: str, imports: list[Import], warn: Warn
) -> dict[str, Path]:
    """The entry script and the modules that it imports, by their paths."""
    found = {name: selection.folder / name}
    waiting = [(name, imports)]
    while waiting:
        importer, statements = waiting.pop()
        for place in _modules(selection.folder, importer, statements):
            for below, path in files(selection, place):
                if below not in found:
                    found[below] = path
                    waiting.append((below, _imports_of_module(path, warn)))
    return found


def _modules(folder: Path, importer: str, statements: list[Import]) -> list[str]:
    """The files and package folders that are imported, each once."""
    wanted = (
        place
        for each in statements
        for place in places(each, importer)
        if each.level or place[0] not in sys.stdlib_module_names
    )
    return list(dict.fromkeys(found for place in wanted if (found := _module(folder, place))))


def _module(folder: Path, place: tuple[str, ...]) -> str:
    """The outermost package or module on the way to a place; empty if there is none."""
    for end in range(1, len(place) + 1):
        name = "/".join(place[:end])
        if os.path.isfile(folder / name / "__init__.py"):
            return name
        for suffix in _MODULE_SUFFIXES:
            if os.path.isfile(folder / f"{name}{suffix}"):
                return f"{name}{suffix}"
    return ""


def _imports_of_module(path: Path, warn: Warn) -> list[Import]:
    try:
        return _read(path, imports_of) if path.suffix == ".py" else []
    except PackagingError as error:
        warn(str(error))
        return []


def _read(path: Path, what: Callable[[bytes], _Found]) -> _Found:
    try:
        return what(path.read_bytes())
    except OSError as error:
        raise PackagingError(f"{path} cannot be read: {error.strerror}.") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        problem = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise PackagingError(f"{path}:{line} is not Python: {problem}.") from error


# --- the files that a script names ----------------------------------------------------------------


def _not_taken(
    selection: Selection, found: Mapping[str, Path], models: Iterable[PackagedModel]
) -> Iterator[str]:
    """A warning for each file or folder beside the script that the code names and that is left."""
    seen = {place for name in found for place in (*map(str, PurePosixPath(name).parents), name)}
    for name in sorted(found):
        for line, text in _paths_named(found[name]):
            place = normpath(text)
            if place not in seen and _is_left(selection, place, models):
                seen.add(place)
                yield (
                    f"{name} line {line} names {place}, which is not packaged: add --source-dir "
                    "FOLDER to take its folder whole."
                )


def _paths_named(path: Path) -> list[tuple[int, str]]:
    try:
        return _read(path, paths_named) if path.suffix == ".py" else []
    except PackagingError:  # its imports could not be found out either, which was said
        return []


def _is_left(selection: Selection, place: str, models: Iterable[PackagedModel]) -> bool:
    parts = place.split("/")
    if parts[0] == ".." or not os.path.exists(selection.folder / place):
        return False
    ways = ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
    if any(why_left_out(selection, way) for way in ways):
        return False
    return not any(_is_of_model(selection.folder / place, place, each) for each in models)


def _is_of_model(path: Path, place: str, model: PackagedModel) -> bool:
    """Whether it is the model, holds it or lies in it, or has the name of a file of it."""
    here, there = Path(os.path.realpath(path)), Path(os.path.realpath(model.path))
    if here.is_relative_to(there) or there.is_relative_to(here):
        return True
    return place in (model.name, model.path.name) or os.path.exists(model.path / place)
