"""A conda environment file as pip would say it.

Images have pip and no conda: what a conda environment names is asked of pip, and what cannot be is
left out, with a note. The forms of a dependency are those of conda's match specifications
(https://docs.conda.io/projects/conda-build/en/stable/resources/package-spec.html):
``channel::name=1.3=build``, ``name>=1.0,<2``, ``name 1.3``, ``name[version='>=1.0']``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import PackagingError
from ..specification import Environment
from .files import check_no_credentials, mapping, parse_yaml, read_text, shown, variables
from .names import PIP_NAMES, canonical, is_python
from .pip import Found, entry_text, environment_of, read_line, read_lines

PYTHONS = ("3.11", "3.12", "3.13")
"""Versions of Python that the runtime works with; images are there for each."""

_KEYS = ("name", "channels", "dependencies", "variables", "prefix")
_FORM = re.compile(
    r"(?:\S+::)?(?P<name>[A-Za-z0-9_][\w.-]*)(?P<rest>[\s=<>!~*|,\d.\[].*)?", re.ASCII
)
_BRACKETS = re.compile(r"\[(?:[^\]]*\bversion\s*=\s*(['\"]?)(?P<version>[^'\"\]]+)\1)?[^\]]*\]")
_OPERATOR = re.compile(r"(?P<operator>===|==|~=|!=|>=|<=|>|<|=)?\s*(?P<version>[^\s=<>!~]+)")
# The build of a package for no Python is a hash alone; others name the Python they are for.
_BUILD_WITHOUT_PYTHON = re.compile(r"h[0-9a-f]{7}_\d+")


def from_conda(path: Path) -> Environment:
    """The environment in a conda file (``environment.yml``, ``conda.yaml``).

    Raises:
        PackagingError: it cannot be read, or something in it cannot be used; the message names the
            file and the entry.
    """
    document = parse_yaml(read_text(path), str(path))
    return from_conda_document(document, str(path), folder=path.parent)


def from_conda_document(document: object, where: str, *, folder: Path = Path()) -> Environment:
    """The environment in a parsed conda document, which messages call ``where``.

    Files that its pip requirements name are looked for in ``folder``. Its channels are not used:
    packages come from the index that pip is set to.

    Raises:
        PackagingError: something in it cannot be used; the message names the entry.
    """
    found, left_out, python = Found(), set[str](), ""
    content = mapping(document, where)
    unknown = [key for key in content if key not in _KEYS]
    if unknown and "dependencies" not in content:  # beside those conda passes over them
        raise PackagingError(
            f"{where} has the unknown key {shown(unknown[0])}; known are {', '.join(_KEYS)}."
        )
    for number, entry in enumerate(_listed(content.get("dependencies"), f"{where}: dependencies")):
        place = f"{where}: dependencies[{number}]"
        if isinstance(entry, dict):
            _read_pip(entry, f"{place}.pip", folder, found)
            continue
        python = _read_dependency(entry_text(entry, place), place, found, left_out) or python
    if left_out:
        found.notes.append(
            f"Left out, for they are no Python packages: {', '.join(sorted(left_out))}. What the "
            "model needs of them has to be in the base image: name one with --base-image."
        )
    said = variables(content.get("variables"), f"{where}: variables")
    return environment_of(found, python=python, variables=said)


def _listed(value: object, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise PackagingError(f"{where} is {shown(value)}; a list is expected.")
    return value or []


def _read_pip(entry: Mapping[Any, Any], where: str, folder: Path, found: Found) -> None:
    for number, line in enumerate(_listed(entry.get("pip"), where)):
        read_lines(line, f"{where}[{number}]", folder, found)


def _read_dependency(text: str, where: str, found: Found, left_out: set[str]) -> str:
    """Read one dependency into ``found`` or ``left_out``; the Python to take, if it is that.

    Raises:
        PackagingError: it is no match specification, or one that pip has no words for.
    """
    check_no_credentials(text, where)
    form = _FORM.fullmatch(re.sub(r"(^|\s)#.*$", "", text).strip())
    if form is None or not text.isprintable():
        raise PackagingError(
            f"{where}: {shown(text)} is no conda dependency, such as scikit-learn=1.3."
        )
    conda, rest = form["name"].lower(), (form["rest"] or "").strip()
    version, build = _version_and_build(_BRACKETS.sub(lambda each: each["version"] or "", rest))
    name = canonical(conda)
    if not is_python(name) or (name != "python" and _BUILD_WITHOUT_PYTHON.fullmatch(build)):
        left_out.add(conda)
        return ""
    specifier = _specifier(version, exact=bool(build))
    _check(specifier, text, where)
    if conda == "python":
        python, note = python_version(specifier)
        found.notes += [note] if note else []
        return python
    if conda != "pip":  # the image has its own
        read_line(f"{PIP_NAMES.get(name, conda)}{specifier}", where, Path(), found)
    return ""


def _version_and_build(rest: str) -> tuple[str, str]:
    """``=1.3=py_0`` → ``("=1.3", "py_0")``, ``1.3 py_0`` → ``("1.3", "py_0")``."""
    compact = re.sub(r"\s*([<>=!~,|]+)\s*", r"\1", rest)
    before, _, after = compact.partition(" ")
    if after:
        return before, after.strip()
    found = re.fullmatch(r"(={1,2}[^=<>!~,|]+)=([^=<>!~,|]*)", compact)
    return (found[1], found[2] or "*") if found else (compact, "")


def _specifier(version: str, *, exact: bool) -> str:
    parts = [_one(each, exact) for each in version.split(",") if each]
    return ",".join(part for part in parts if part)


def _one(text: str, exact: bool) -> str:
    """One condition: ``=1.3`` allows every 1.3.x, ``1.3`` and ``==1.3`` are exact."""
    found = _OPERATOR.fullmatch(text)
    if found is None:
        return text
    operator, version = found["operator"] or "==", found["version"]
    if version == "*":
        return ""
    stem = re.sub(r"\.?\*$", "", version)
    if operator in (">=", "<=", ">", "<", "~="):
        return operator + stem
    fuzzy = stem != version or (operator == "=" and not exact)
    return ("!=" if operator == "!=" else "==") + stem + (".*" if fuzzy else "")


def _check(specifier: str, text: str, where: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(specifier)
    except InvalidSpecifier as error:
        raise PackagingError(
            f"{where}: {shown(text)} has a version that no Python package can have, and that pip "
            "cannot be asked for: write it as in scikit-learn=1.3 or scikit-learn>=1.0,<2, or "
            "leave it out if it is no Python package."
        ) from error


def python_version(specifier: str) -> tuple[str, str]:
    """The version of Python to take, and a note if it is not the one that was asked for.

    Any is ``""``: the default. The first of :data:`PYTHONS` that is allowed is taken, else the
    nearest one.
    """
    from packaging.specifiers import SpecifierSet

    if not specifier:
        return "", ""
    wanted = SpecifierSet(specifier)
    for each in PYTHONS:
        if any(wanted.contains(f"{each}.{micro}") for micro in range(100)):
            return each, ""
    numbers = [tuple(map(int, each)) for each in re.findall(r"(\d+)\.(\d+)", specifier)]
    nearest = PYTHONS[-1] if any(each > (3, 13) for each in numbers) else PYTHONS[0]
    said = specifier.removeprefix("==").removesuffix(".*")
    return nearest, (
        f"Python {said} is asked for, and this runtime needs one of {', '.join(PYTHONS)}: "
        f"{nearest} is taken."
    )
