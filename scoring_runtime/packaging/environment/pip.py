"""pip's requirements as an environment: from files, one by one, and merged with others.

The lines are those of https://pip.pypa.io/en/stable/reference/requirements-file-format/. What this
runtime takes the place of is left out, and a note says so.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from ...errors import PackagingError
from ..specification import WHEELS, Environment
from .files import (
    INSTALL,
    check_no_credentials,
    logical_lines,
    read_text,
    shown,
    without_credentials,
)
from .names import BRINGS, MONITORING, RETIRED, canonical, name_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_Each = TypeVar("_Each")
_KEPT = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--pypi-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "-f": "--find-links",
    "--find-links": "--find-links",
    "--no-binary": "--no-binary",
    "--only-binary": "--only-binary",
    "--trusted-host": "--trusted-host",
}
_FLAGS = ("--pre", "--prefer-binary")
_FILES = {"-r": "-r", "--requirement": "-r", "-c": "-c", "--constraint": "-c"}
_EDITABLE = ("-e", "--editable")
_KNOWN = (*dict.fromkeys(_KEPT.values()), *_FLAGS, "-r", "-c")
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
    read_file(path, found)
    return environment_of(found)


def from_packages(lines: Iterable[str]) -> Environment:
    """The environment of requirements given one by one; files are looked for in this folder.

    Raises:
        PackagingError: one cannot be used; the message shows it.
    """
    found = Found()
    for number, line in enumerate(lines, 1):
        place = f"package {number}"
        read_lines(line, place, Path(), found)
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


def read_file(
    path: Path, found: Found, parents: tuple[Path, ...] = (), *, flag: str = "-r"
) -> None:
    """Read a requirements file, or with ``flag`` ``-c`` one of constraints, into ``found``.

    Raises:
        PackagingError: it cannot be read or a line cannot be used; the message names both.
    """
    text, real = read_text(path), path.resolve()
    if real in parents:
        raise PackagingError(f"{path} includes itself.")
    for number, line in logical_lines(text):
        where = f"{path}, line {number}"
        read_line(line, where, path.parent, found, parents=(*parents, real), flag=flag)


def read_line(
    line: str,
    where: str,
    folder: Path,
    found: Found,
    *,
    parents: tuple[Path, ...] = (),
    flag: str = "-r",
) -> None:
    """Read one line into ``found``; files it names are looked for in ``folder``.

    Raises:
        PackagingError: it cannot be used; the message begins with ``where``.
    """
    if not line.isprintable():
        raise PackagingError(f"{where}: {shown(line)} has a control character.")
    check_no_credentials(line, where)
    if line.startswith("-"):
        _read_options(line, where, folder, found, parents)
        return
    text = _without_options(line, where, found)
    name, requirement = _requirement(text, where, folder, found)
    if flag == "-c":
        found.constraints.append((name, requirement))
    elif name in RETIRED:
        found.retired.add(name)
    else:
        found.requirements.append(requirement)


def read_lines(text: str, where: str, folder: Path, found: Found) -> None:
    """Read the lines of an entry into ``found``.

    Raises:
        PackagingError: it is no text, or a line of it cannot be used.
    """
    for _, line in logical_lines(entry_text(text, where)):
        read_line(line, where, folder, found)


def entry_text(value: object, where: str) -> str:
    """An entry of a list of packages.

    Raises:
        PackagingError: it is no text.
    """
    if not isinstance(value, str) or not value.strip():
        raise PackagingError(
            f"{where} is {shown(value)}; a text such as scikit-learn=1.3 is expected."
        )
    return value


# --- options --------------------------------------------------------------------------------------


def _read_options(
    line: str, where: str, folder: Path, found: Found, parents: tuple[Path, ...]
) -> None:
    words = _words(line, where)
    while words:
        name, _, value = words.pop(0).partition("=")
        if not name.startswith("--") and len(name) > 2:
            name, value = name[:2], name[2:] + (f"={value}" if value else "")
        if name in (*_KEPT, *_FILES, *_EDITABLE) and not value:
            value = words.pop(0) if words else ""
        if name in _FILES:
            file = _included(name, value, where, folder)
            read_file(file, found, parents, flag=_FILES[name])
        elif name in _EDITABLE and "://" in value:
            read_line(value, where, folder, found)
        else:
            found.options += _option(name, value, where, found)


def _words(line: str, where: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise PackagingError(f"{where}: {shown(line)} has a quote that does not end.") from error


def _included(name: str, value: str, where: str, folder: Path) -> Path:
    if not value:
        raise PackagingError(f"{where}: {name} needs the name of a file.")
    if "://" in value:
        raise PackagingError(
            f"{where}: {name} names the address {shown(value)}; download it and name the file."
        )
    path = folder / value
    if not path.is_file():
        raise PackagingError(f"{where}: {name} names {path}, which is not there.")
    return path


def _option(name: str, value: str, where: str, found: Found) -> list[str]:
    if name in _FLAGS:
        return [name]
    if name == "--require-hashes":
        found.hashes = True
        return []
    if name in _EDITABLE:
        raise PackagingError(
            f"{where}: {name} {shown(value)} installs from a folder, which an image has not: "
            f"{_BUILD_A_WHEEL}."
        )
    if name not in _KEPT:
        raise PackagingError(
            f"{where}: the option {shown(name)} cannot be used here; known are {', '.join(_KNOWN)}."
        )
    return [_kept(_KEPT[name], value, where)]


def _kept(name: str, value: str, where: str) -> str:
    if not value or " " in value:
        raise PackagingError(f"{where}: {name} needs one value, not {shown(value)}.")
    if name.endswith(("-url", "-links")) and not value.startswith(("http://", "https://")):
        raise PackagingError(
            f"{where}: {name} is {shown(value)}; an address that begins with https:// or http:// "
            "is expected, for an image sees no folder of this machine. Name wheels one by one."
        )
    return f"{name} {value}"


# --- requirements ---------------------------------------------------------------------------------


def _without_options(line: str, where: str, found: Found) -> str:
    """The line without its ``--hash`` options."""
    text, *options = re.split(r"\s+(?=--?[A-Za-z])", line)
    for option in options:
        name = re.split(r"[=\s]", option)[0]
        if name != "--hash":
            raise PackagingError(
                f"{where}: the option {shown(name)} of a requirement cannot be used here; known is "
                "--hash."
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
        raise PackagingError(
            f"{where}: {shown(text)} is a folder or a source archive: {_BUILD_A_WHEEL}."
        )
    parsed = _parsed(_named(text, where), where)
    url = parsed.url or ""
    if url.startswith("file:"):
        return _file_url(parsed, where, found)
    if url:
        _check_url(url, where, found)
    return canonical(parsed.name), str(parsed)


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
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError as error:
        raise PackagingError(
            f"Requirements cannot be read, for packaging is not installed: {INSTALL}"
        ) from error
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise PackagingError(
            f"{where}: {shown(text)} is no requirement of pip: {_said(text, error)}."
        ) from error


def _said(text: str, error: Exception) -> str:
    """What ``packaging`` says of it, or of conda's single ``=`` what pip's form is."""
    conda = re.fullmatch(r"([\w.-]+)\s*=\s*([\w.*]+)", text)
    if conda:
        return f"it has one =, as conda writes it; pip writes {conda[1]}=={conda[2]}"
    return without_credentials(str(error).partition("\n")[0]).rstrip(".")


def _check_url(url: str, where: str, found: Found) -> None:
    scheme = url.partition("://")[0]
    if scheme.startswith("git+"):
        found.notes.append(
            f"{shown(url)} is fetched with git, which the usual base images do not have: name one "
            f"that has it with --base-image, or {_BUILD_A_WHEEL}."
        )
    elif scheme not in ("http", "https"):
        raise PackagingError(
            f"{where}: the address {shown(url)} begins with neither https:// nor git+https://."
        )


def _file_url(parsed: Requirement, where: str, found: Found) -> tuple[str, str]:
    path = Path(unquote(urlsplit(parsed.url or "").path))
    if path.suffix != ".whl":
        raise PackagingError(
            f"{where}: {shown(parsed.url)} is a folder or a source archive: {_BUILD_A_WHEEL}."
        )
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    return _wheel(path, extras, str(parsed.marker or ""), where, found)


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
