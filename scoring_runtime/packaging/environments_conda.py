"""One dependency of a conda environment as pip would say it.

The forms are those of conda's match specifications
(https://docs.conda.io/projects/conda-build/en/stable/resources/package-spec.html):
``channel::name=1.3=build``, ``name>=1.0,<2``, ``name 1.3``, ``name[version='>=1.0']``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import PackagingError
from .environments_files import shown
from .environments_names import PIP_NAMES, canonical, is_python

PYTHONS = ("3.11", "3.12", "3.13")
"""Versions of Python that the runtime works with; images are there for each."""

_FORM = re.compile(
    r"(?:(?P<channel>\S+)::)?(?P<name>[A-Za-z0-9_][\w.-]*)(?P<rest>[\s=<>!~*|,\d.\[].*)?", re.ASCII
)
_BRACKETS = re.compile(r"\[(?P<inner>[^\]]*)\]")
_VERSION_KEY = re.compile(r"\bversion\s*=\s*(?P<quote>['\"]?)(?P<version>[^'\"\]]+)(?P=quote)")
_OPERATOR = re.compile(r"(?P<operator>===|==|~=|!=|>=|<=|>|<|=)?\s*(?P<version>[^\s=<>!~]+)")
# The build of a package for no Python is a hash alone; others name the Python they are for.
_BUILD_WITHOUT_PYTHON = re.compile(r"h[0-9a-f]{7}_\d+")


class Dependency(NamedTuple):
    """A dependency: its name in PyPI and pip's version specifiers.

    ``name`` is empty if it is no Python package; ``conda`` is its name in conda.
    """

    conda: str
    name: str
    specifier: str


def dependency(text: str, where: str) -> Dependency:
    """One entry of ``dependencies``.

    Raises:
        PackagingError: it is no match specification, or one that pip has no words for.
    """
    plain = re.sub(r"(^|\s)#.*$", "", text).strip()
    found = _FORM.fullmatch(plain)
    if found is None or not plain.isprintable():
        raise PackagingError(
            f"{where}: {shown(text)} is no conda dependency, such as scikit-learn=1.3."
        )
    conda, rest = found["name"].lower(), _unbracketed((found["rest"] or "").strip())
    version, build = _version_and_build(rest)
    name = canonical(conda)
    if not is_python(name) or (name != "python" and _BUILD_WITHOUT_PYTHON.fullmatch(build)):
        return Dependency(conda, "", "")
    specifier = _specifier(version, exact=bool(build))
    _check(specifier, text, where)
    return Dependency(conda, PIP_NAMES.get(name, conda), specifier)


def _unbracketed(rest: str) -> str:
    """``[version='>=1.0', build=…]`` as what it says of the version; else the text itself."""
    brackets = _BRACKETS.search(rest)
    if brackets is None:
        return rest
    version = _VERSION_KEY.search(brackets["inner"])
    return version["version"] if version else rest[: brackets.start()]


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
