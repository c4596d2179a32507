"""The Python environment of a package, from conda's and pip's files.

Images have pip and no conda: what a conda environment names is asked of pip. What cannot be, and
what this runtime takes the place of, is left out, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import PackagingError
from .environments_conda import dependency, python_version
from .environments_files import (
    check_no_credentials,
    fields,
    logical_lines,
    parse_yaml,
    read_text,
    shown,
    variables,
)
from .environments_lines import Found, read_file, read_line
from .environments_names import MONITORING, RETIRED, canonical
from .specification import WHEELS, Environment

_CONDA_KEYS = ("name", "channels", "dependencies", "variables", "prefix")
_USUAL_CHANNELS = {
    "anaconda",
    "bioconda",
    "conda-forge",
    "defaults",
    "main",
    "msys2",
    "nodefaults",
    "nvidia",
    "pkgs/main",
    "pytorch",
    "r",
}
_Each = TypeVar("_Each")


def from_conda(path: Path) -> Environment:
    """The environment in a conda file (``environment.yml``, ``conda.yaml``).

    Raises:
        PackagingError: it cannot be read, or something in it cannot be used; the message names the
            file and the entry.
    """
    document = parse_yaml(read_text(path), str(path))
    return from_conda_document(document, str(path), folder=path.parent)


def from_conda_document(document: object, where: str, *, folder: Path = Path()) -> Environment:
    """The environment in a parsed conda document.

    Args:
        where: what messages call it.
        folder: files that its pip requirements name are looked for here.

    Raises:
        PackagingError: something in it cannot be used; the message names the entry.
    """
    found, left_out, python = Found(), list[str](), ""
    if isinstance(document, dict) and "dependencies" in document:  # conda passes over the others
        unknown = [each for each in document if each not in _CONDA_KEYS]
        found.notes += [f"{where}: the key {shown(each)} is not used." for each in unknown]
        document = {key: each for key, each in document.items() if key in _CONDA_KEYS}
    content = fields(document, _CONDA_KEYS, where)
    for number, entry in enumerate(_listed(content.get("dependencies"), f"{where}: dependencies")):
        place = f"{where}: dependencies[{number}]"
        if isinstance(entry, dict):
            _read_pip(entry, place, folder, found)
            continue
        python = _read_dependency(_text(entry, place), place, found, left_out) or python
    found.notes += _not_python(left_out) + _of_channels(content.get("channels"), where)
    return _environment(
        found, python=python, variables=variables(content.get("variables"), f"{where}: variables")
    )


def from_requirements(path: Path) -> Environment:
    """The environment in a pip requirements file, and in those that it includes.

    Raises:
        PackagingError: it cannot be read, or a line cannot be used; the message names the file and
            the line.
    """
    found = Found()
    read_file(path, found)
    return _environment(found)


def from_packages(lines: Iterable[str]) -> Environment:
    """The environment of requirements given one by one; files are looked for in this folder.

    Raises:
        PackagingError: one cannot be used; the message shows it.
    """
    found = Found()
    for number, line in enumerate(lines, 1):
        place = f"package {number}"
        _read_text(_text(line, place), place, Path(), found)
    return _environment(found)


def merged(*environments: Environment) -> Environment:
    """One environment of several: of Python, base image and variables the later ones win.

    Requirements, options, wheels and notes are all kept, each once.

    Raises:
        PackagingError: two different wheels have the same file name.
    """
    one = Environment()
    for each in environments:
        one = Environment(
            requirements=_unique(one.requirements, each.requirements),
            options=_unique(one.options, each.options),
            python=each.python or one.python,
            variables={**one.variables, **each.variables},
            base_image=each.base_image or one.base_image,
            wheels=_unique(one.wheels, each.wheels),
            notes=_unique(one.notes, each.notes),
        )
    _check_wheels(one.wheels)
    return one


def _unique(first: Iterable[_Each], second: Iterable[_Each]) -> tuple[_Each, ...]:
    return tuple(dict.fromkeys([*first, *second]))


def _check_wheels(wheels: Iterable[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in wheels:
        other = seen.setdefault(path.name, path)
        if other.resolve() != path.resolve():
            raise PackagingError(
                f"{other} and {path} are two wheels of one name, of which a package holds one: "
                "name only one of them."
            )


def name_of(line: str) -> str:
    """The canonical name of the package in a line of requirements as it is written here."""
    wheel = line.removeprefix(f"./{WHEELS}/")
    found = re.match(r"[\w.]+" if wheel != line else r"[\w.-]+", wheel)
    return canonical(found[0]) if found else ""


# --- conda ----------------------------------------------------------------------------------------


def _listed(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise PackagingError(f"{where} is {shown(value)}; a list is expected.")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PackagingError(
            f"{where} is {shown(value)}; a text such as scikit-learn=1.3 is expected."
        )
    return value


def _read_dependency(text: str, where: str, found: Found, left_out: list[str]) -> str:
    """Read one dependency into ``found`` or ``left_out``; the Python to take, if it is that."""
    check_no_credentials(text, where)
    conda, name, specifier = dependency(text, where)
    if conda == "python":
        version, note = python_version(specifier)
        found.notes += [note] if note else []
        return version
    if conda == "pip":
        found.notes += [f"pip{specifier} is left out: the image has its own."] if specifier else []
    elif not name:
        left_out.append(conda)
    else:
        read_line(f"{name}{specifier}", where, Path(), found)
    return ""


def _read_pip(entry: Mapping[Any, Any], where: str, folder: Path, found: Found) -> None:
    lines = fields(entry, ("pip",), where)["pip"] if entry else None
    for number, line in enumerate(_listed(lines, f"{where}.pip")):
        place = f"{where}.pip[{number}]"
        _read_text(_text(line, place), place, folder, found)


def _read_text(text: str, where: str, folder: Path, found: Found) -> None:
    for _, line in logical_lines(text):
        read_line(line, where, folder, found)


def _not_python(names: Iterable[str]) -> list[str]:
    if not names:
        return []
    return [
        f"Left out, for they are no Python packages: {', '.join(sorted(set(names)))}. What the "
        "model needs of them has to be in the base image: name one with --base-image."
    ]


def _of_channels(value: object, where: str) -> list[str]:
    place = f"{where}: channels"
    channels = [_text(each, place) for each in _listed(value, place)]
    if all(each.lower() in _USUAL_CHANNELS for each in channels):
        return []
    return [
        f"The channels of {where} are not used: packages come from the index that pip is set to."
    ]


# --- what was found -------------------------------------------------------------------------------


def _environment(
    found: Found, python: str = "", variables: Mapping[str, str] | None = None
) -> Environment:
    named = {name_of(each) for each in found.requirements}
    added = [line for name, line in found.constraints if name in named]
    ignored = {name for name, _ in found.constraints if name not in named | RETIRED}
    environment = Environment(
        requirements=(*found.requirements, *added),
        options=tuple(found.options),
        python=python,
        variables=variables or {},
        wheels=tuple(found.wheels),
        notes=(*found.notes, *_notes(found, ignored)),
    )
    return merged(environment)


def _notes(found: Found, ignored: set[str]) -> Iterator[str]:
    if found.retired:
        names, are = sorted(found.retired), "are" if len(found.retired) > 1 else "is"
        yield f"{', '.join(names)} {are} left out: this runtime takes the place of that SDK."
    for name in sorted(MONITORING.intersection(map(name_of, found.requirements))):
        yield (
            f"{name} collects nothing here: it sends to an agent of Azure ML's services. Leave it "
            "out, and the runtime answers its import."
        )
    if found.hashes:
        yield (
            "The hashes of the requirements are left out: with one, pip asks for a hash of every "
            "package, those of this runtime included. The versions are kept."
        )
    if ignored:
        some = ", ".join(sorted(ignored)[:5]) + (", …" if len(ignored) > 5 else "")
        yield (
            f"Constraints on packages that no requirement names are left out: {some}. Name those "
            "that matter as requirements."
        )
