"""pip's requirements as an environment: from files, one by one, and merged with others.

The lines are those of https://pip.pypa.io/en/stable/reference/requirements-file-format/. What this
runtime takes the place of is left out, and a note says so.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit

from ...errors import PackagingError
from ..specification import WHEELS, Environment
from .files import (
    check_no_credentials,
    logical_lines,
    needing,
    read_text,
    shown,
    without_credentials,
)
from .names import BRINGS, MONITORING, RETIRED, canonical, name_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_Each = TypeVar("_Each")
_VALUES = ("--index-url", "--extra-index-url", "--find-links", "--no-binary", "--only-binary")
_KEPT = (*_VALUES, "--trusted-host", "--pre", "--prefer-binary")
_SHORT = {"--index-url": ("-i", "--pypi-url"), "--find-links": ("-f",)}
_ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip", ".tar")
_WHEEL = re.compile(r"(?P<path>.+\.whl)\s*(?P<extras>\[[^\]]*\])?\s*(?:;\s*(?P<marker>.*))?")
_PLATFORM = re.compile(r"any|(many|musl)?linux.*")
_BUILD_A_WHEEL = "build a wheel of it (pip wheel --no-deps …) and name that file"


def from_requirements(path: Path) -> Environment:
    """The environment in a pip requirements file, and in those that it includes.

    Raises:
        PackagingError: it cannot be read, or a line cannot be used; the message names the file and
            the line.
    """
    found = Found()
    _read_file(path, found)
    return environment_of(found)


def from_packages(lines: Iterable[str]) -> Environment:
    """The environment of requirements given one by one; files are looked for in this folder.

    Raises:
        PackagingError: one cannot be used; the message shows it.
    """
    found = Found()
    for number, line in enumerate(lines, 1):
        read_lines(line, f"package {number}", Path(), found)
    return environment_of(found)


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
    seen: dict[str, Path] = {}
    for path in one.wheels:
        other = seen.setdefault(path.name, path)
        if other.resolve() != path.resolve():
            raise PackagingError(
                f"{other} and {path} are two wheels of one name, of which a package holds one: "
                "name only one of them."
            )
    return one


def _unique(first: Iterable[_Each], second: Iterable[_Each]) -> tuple[_Each, ...]:
    return tuple(dict.fromkeys([*first, *second]))


# --- lines ----------------------------------------------------------------------------------------


@dataclass
class Found:
    """What was found so far; ``constraints`` are ``(canonical name, line)``."""

    requirements: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    wheels: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    constraints: list[tuple[str, str]] = field(default_factory=list)
    retired: set[str] = field(default_factory=set)
    hashes: bool = False


def _read_file(
    path: Path, found: Found, parents: tuple[Path, ...] = (), *, constraints: bool = False
) -> None:
    text, real = read_text(path), path.resolve()
    if real in parents:
        raise PackagingError(f"{path} includes itself.")
    for number, line in logical_lines(text):
        where = f"{path}, line {number}"
        read_line(line, where, path.parent, found, (*parents, real), constraints=constraints)


def read_line(
    line: str,
    where: str,
    folder: Path,
    found: Found,
    parents: tuple[Path, ...] = (),
    *,
    constraints: bool = False,
) -> None:
    """Read one line into ``found``; files it names are looked for in ``folder``.

    Raises PackagingError, with ``where`` in its message, if it cannot be used.
    """
    if not line.isprintable():
        raise PackagingError(f"{where}: {shown(line)} has a control character.")
    check_no_credentials(line, where)
    if line.startswith("-"):
        _read_options(line, where, folder, found, parents)
        return
    name, requirement = _requirement(_without_hashes(line, where, found), where, folder, found)
    if constraints:
        found.constraints.append((name, requirement))
    elif name in RETIRED:
        found.retired.add(name)
    else:
        found.requirements.append(requirement)


def read_lines(text: str, where: str, folder: Path, found: Found) -> None:
    """Read the lines of an entry into ``found``, each as :func:`read_line` does."""
    for _, line in logical_lines(entry_text(text, where)):
        read_line(line, where, folder, found)


def entry_text(value: object, where: str) -> str:
    """The entry of a list of packages; raises PackagingError if it is no text."""
    if not isinstance(value, str) or not value.strip():
        raise PackagingError(
            f"{where} is {shown(value)}; a text such as scikit-learn=1.3 is expected."
        )
    return value


# --- options --------------------------------------------------------------------------------------


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _options() -> _Options:
    parser = _Options(add_help=False, allow_abbrev=False)
    for name in _KEPT:
        action = "store_true" if name in ("--pre", "--prefer-binary") else "append"
        parser.add_argument(name, *_SHORT.get(name, ()), action=action)
    parser.add_argument("-r", "--requirement", action="append", default=[])
    parser.add_argument("-c", "--constraint", action="append", default=[])
    parser.add_argument("-e", "--editable", action="append", default=[])
    parser.add_argument("--require-hashes", action="store_true")
    return parser


def _read_options(
    line: str, where: str, folder: Path, found: Found, parents: tuple[Path, ...]
) -> None:
    try:
        said = _options().parse_args(shlex.split(line))
    except ValueError as error:
        raise PackagingError(
            f"{where}: {shown(line)} cannot be used here: {error}. Known are {', '.join(_KEPT)}, "
            "-r and -c."
        ) from error
    for value in said.editable:
        if "://" not in value:
            raise PackagingError(
                f"{where}: -e {shown(value)} installs from a folder, which an image has not: "
                f"{_BUILD_A_WHEEL}."
            )
        read_line(value, where, folder, found)
    for value in said.requirement:
        _read_file(_included("-r", value, where, folder), found, parents)
    for value in said.constraint:
        _read_file(_included("-c", value, where, folder), found, parents, constraints=True)
    found.hashes |= said.require_hashes
    for name in _KEPT:
        value = getattr(said, name[2:].replace("-", "_"))
        found.options += [name] if value is True else _kept(name, value or (), where)


def _included(flag: str, value: str, where: str, folder: Path) -> Path:
    if "://" in value:
        raise PackagingError(
            f"{where}: {flag} names the address {shown(value)}; download it and name the file."
        )
    if not (folder / value).is_file():
        raise PackagingError(f"{where}: {flag} names {folder / value}, which is not there.")
    return folder / value


def _kept(name: str, values: Iterable[str], where: str) -> Iterator[str]:
    for value in values:
        if not value or " " in value:
            raise PackagingError(f"{where}: {name} needs one value, not {shown(value)}.")
        if name.endswith(("-url", "-links")) and not value.startswith(("http://", "https://")):
            raise PackagingError(
                f"{where}: {name} is {shown(value)}; an address that begins with https:// or "
                "http:// is expected, for an image sees no folder of this machine. Name wheels one "
                "by one."
            )
        yield f"{name} {value}"


# --- requirements ---------------------------------------------------------------------------------


def _without_hashes(line: str, where: str, found: Found) -> str:
    text, *options = re.split(r"\s+(?=--?[A-Za-z])", line)
    for option in options:
        if not re.match(r"--hash[=\s]", option):
            raise PackagingError(
                f"{where}: the option {shown(option)} of a requirement cannot be used here; known "
                "is --hash."
            )
        found.hashes = True
    return text.strip()


def _requirement(text: str, where: str, folder: Path, found: Found) -> tuple[str, str]:
    """Canonical name, and the line as it is written."""
    local = _WHEEL.fullmatch(text)
    if local and not re.search(r"://| @ ", text):
        path = folder / local["path"]
        if not path.is_file() and Path(local["path"]).is_file():  # where pip would look for it
            path = Path(local["path"])
        return _wheel(path, local["extras"] or "", local["marker"] or "", where, found)
    if _is_local(text, folder):
        raise _no_folder(text, where)
    parsed = _parsed(_named(text, where), where)
    scheme, _, rest = (parsed.url or "").partition("://")
    if scheme == "file":
        path = Path(unquote(rest))
        if path.suffix != ".whl":
            raise _no_folder(parsed.url, where)
        extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
        return _wheel(path, extras, str(parsed.marker or ""), where, found)
    if scheme.startswith("git+"):
        found.notes.append(
            f"{shown(parsed.url)} is fetched with git, which the usual base images do not have: "
            f"name one that has it with --base-image, or {_BUILD_A_WHEEL}."
        )
    elif scheme not in ("", "http", "https"):
        raise PackagingError(
            f"{where}: the address {shown(parsed.url)} begins with neither https:// nor "
            "git+https://."
        )
    return canonical(parsed.name), str(parsed)


def _no_folder(text: str | None, where: str) -> PackagingError:
    return PackagingError(
        f"{where}: {shown(text)} is a folder or a source archive: {_BUILD_A_WHEEL}."
    )


def _is_local(text: str, folder: Path) -> bool:
    path = text.split(" ;")[0].split("[")[0].strip()
    if "://" in text or " @ " in text:
        return False
    looks = path.startswith((".", "/", "~", "\\")) or path.lower().endswith(_ARCHIVES)
    return looks or (("/" in path or "\\" in path) and (folder / path).exists())


def _named(text: str, where: str) -> str:
    """A bare URL as ``name @ URL``: by the name of its wheel, or its ``#egg=``."""
    if not re.match(r"[A-Za-z+.-]+://", text):
        return text
    url, separator, marker = text.partition(" ;")
    path = unquote(urlsplit(url).path)
    egg = re.search(r"#(?:.*&)?egg=([A-Za-z0-9._-]+)", url)
    name = path.rpartition("/")[2].partition("-")[0] if path.endswith(".whl") else ""
    name = egg[1] if egg else name
    if not name:
        raise PackagingError(
            f"{where}: the address {shown(url)} does not say which package it is: write "
            "name @ address."
        )
    return f"{name} @ {url}{separator}{marker}"


def _parsed(text: str, where: str) -> Requirement:
    with needing("packaging", "Requirements cannot be read, for"):
        from packaging.requirements import InvalidRequirement, Requirement
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        said = without_credentials(str(error).partition("\n")[0]).rstrip(".")
        conda = " (pip writes == where conda writes =)" if re.search(r"\w=\w", text) else ""
        raise PackagingError(
            f"{where}: {shown(text)} is no requirement of pip: {said}{conda}."
        ) from error


def _wheel(path: Path, extras: str, marker: str, where: str, found: Found) -> tuple[str, str]:
    """Canonical name and line of a local wheel, the only file of this machine that is packaged."""
    end = f" ; {marker}" if marker else ""
    name = _wheel_name(path, where)
    _parsed(f"{name}{extras}{end}", where)
    found.wheels.append(path)
    return name, f"./{WHEELS}/{path.name}{extras}{end}"


def _wheel_name(path: Path, where: str) -> str:
    """The canonical name of the package in a wheel file for Linux."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    if not path.is_file():
        raise PackagingError(f"{where}: the wheel {path} does not exist.")
    try:
        if not re.fullmatch(r"[\w.+!-]+", path.name, re.ASCII):
            raise InvalidWheelFilename("its name has characters that no wheel has")
        name, _, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise PackagingError(
            f"{where}: {shown(path.name)} is not named as a wheel; a name such as "
            "package-1.0-py3-none-any.whl is expected, as pip wheel and python -m build write it."
        ) from error
    platforms = sorted({tag.platform for tag in tags})
    if not any(_PLATFORM.fullmatch(each) for each in platforms):
        raise PackagingError(
            f"{where}: the wheel {path.name} is for {', '.join(platforms)}, and images run Linux: "
            "build or download it for Linux."
        )
    return name


# --- what was found -------------------------------------------------------------------------------


def environment_of(
    found: Found, python: str = "", variables: Mapping[str, str] | None = None
) -> Environment:
    """What was found, with the constraints on it and notes on what was left out."""
    named = {name_of(each) for each in found.requirements}
    added = [line for name, line in found.constraints if name in named]
    ignored = {name for name, _ in found.constraints if name not in named | RETIRED}
    environment = Environment(
        requirements=(*found.requirements, *added),
        options=tuple(found.options),
        python=python,
        variables=variables or {},
        wheels=tuple(found.wheels),
        notes=(*found.notes, *_notes(found, named, ignored)),
    )
    return merged(environment)


def _notes(found: Found, named: set[str], ignored: set[str]) -> Iterator[str]:
    if found.retired:
        names, are = sorted(found.retired), "are" if len(found.retired) > 1 else "is"
        yield f"{', '.join(names)} {are} left out: this runtime takes the place of that SDK."
    for name in sorted(MONITORING & named):
        yield (
            f"{name} collects nothing here: it sends to an agent of Azure ML's services. Leave it "
            "out, and the runtime answers its import; SCORING_RECORD keeps what it collects."
        )
    if found.hashes:
        yield (
            "The hashes of the requirements are left out: with one, pip asks for a hash of every "
            "package, those of this runtime included. The versions are kept."
        )
    if ignored:
        yield (
            f"Constraints on packages that no requirement names are left out: "
            f"{', '.join(sorted(ignored))}. Name those that matter as requirements."
        )


def provided(requirements: Iterable[str]) -> set[str]:
    """The canonical names of the packages that lines name, and of those they require in turn.

    What is not installed here requires what is known of it.
    """
    waiting = [(name_of(line), _extras(line)) for line in requirements if name_of(line)]
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting.extend(_required(*each))
    return {name for name, _ in found}


def _extras(line: str) -> frozenset[str]:
    inside = line.partition(";")[0].partition("[")[2].partition("]")[0]
    return frozenset(canonical(each.strip()) for each in inside.split(",") if each)


def _required(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        yield from ((each, frozenset()) for each in BRINGS.get(name, ()))
        return
    for each in map(Requirement, lines):
        marker = each.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield canonical(each.name), frozenset(map(canonical, each.extras))
