"""The registry: a folder ``<registry>/<name>/<version>/…`` as images have it.

A version is copied to a hidden folder beside the registry and then renamed to its place, so it is
there whole or not at all, and of several registrations at once each gets a version of its own.
Versions count up from 1. None is given twice, even after it was deleted: the empty file
``<registry>.scoring/<name>/<version>``, beside its metadata, marks one that was given. What a
killed registration left is removed by the next one a day later.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ModelDamaged, ModelNotFound, RegistrationError
from . import manifest
from .folder import RegisteredModel, is_version_folder, registered, registered_model
from .kinds import kind_of, libraries
from .manifest import Manifest, Progress, check

__all__ = [
    "Record", "check", "check_name", "delete", "details", "listing", "note", "register",
    "to_delete",
]  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_. -]{0,253}[A-Za-z0-9_.-])?")
_TEMPORARY = ".tmp-"
_GIVEN = ".versions"  # where earlier releases marked the versions that were given
_STALE_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Record(RegisteredModel):
    """One version of one model and what is noted of it; ``damage`` says why nothing could be."""

    manifest: Manifest = field(default_factory=Manifest)
    damage: str = ""

    @property
    def id(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"

    def document(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        place = {"id": self.id, "name": self.name, "version": self.version, "path": str(self.path)}
        damage = {"damage": self.damage} if self.damage else {}
        return {**place, **self.manifest.document(), **damage}


def register(
    root: str | Path,
    name: str,
    path: str | Path,
    *,
    tags: Mapping[str, str] | None = None,
    description: str = "",
    properties: Mapping[str, str] | None = None,
    framework: str = "",
    framework_version: str = "",
    sample: str | Path | None = None,
    progress: Progress | None = None,
) -> Record:
    """Copy a file or a folder into the registry, as the next version of the model ``name``.

    It stands in the version's folder under its own name. Links in a folder are followed, and
    copied as what they lead to; empty folders are left out.

    Args:
        root: the registry; it is made if it does not exist.
        name: letters, digits, ``-``, ``_`` and ``.``, and spaces between them as in Azure ML.
        path: the model's file or folder.
        tags: texts by name; so are ``properties``.
        description: for people, as are ``framework`` and ``framework_version``.
        sample: a file of JSON or CSV that shows what the model takes; see ``no_code.sample``.
        progress: called with the bytes that are done and the bytes of all, after each chunk.

    Raises:
        RegistrationError: the name is not allowed, the path cannot be copied, a link in it leads
            out of it or into itself, the sample is none, or the registry cannot be written.
    """
    folder, source = Path(root), Path(os.path.abspath(path))
    check_name(name)
    _check_registry(folder)
    files = _files_of(source, folder)
    noted = Manifest(
        description,
        _texts(tags),
        _texts(properties),
        framework,
        framework_version,
        _now(),
        sample=_sample(Path(sample)) if sample is not None else {},
    )
    with _translated(f"{name} cannot be registered in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        with _temporary(folder) as temporary:
            digests = manifest.copy(files, temporary, progress)
            kind = kind_of(temporary)
            versions = libraries(kind, temporary)
            noted = replace(noted, kind=kind, libraries=versions, files=digests)
            return _publish(folder, name, temporary, noted)


def listing(root: str | Path) -> list[Record]:
    """Every version in the registry by name and version, also those without metadata.

    One whose metadata cannot be read says so in its ``damage``.
    """
    return [_record(model) for model in registered(Path(root))]


def details(root: str | Path, name: str | None = None, version: int | str | None = None) -> Record:
    """What is noted of one version, the highest unless one is named.

    Raises:
        ModelNotFound: no such model or version; the message lists what there is.
        ModelDamaged: its metadata cannot be read.
    """
    record = _record(registered_model(Path(root), name, version))
    if record.damage:
        raise ModelDamaged(record.damage)
    return record


def delete(
    root: str | Path, name: str, version: int | str | None = None, *, all_versions: bool = False
) -> list[RegisteredModel]:
    """Delete one version of a model, or all; what was deleted.

    Each is gone at once: it is renamed to a hidden folder before its files are removed.

    Raises:
        ModelNotFound: no such model or version; the message lists what there is.
        RegistrationError: several versions and none is named, or the registry cannot be written.
    """
    chosen = to_delete(root, name, version, all_versions=all_versions)
    for model in chosen:
        with _translated(f"{name} version {model.version} cannot be deleted from {root}"):
            _delete(Path(root), model)
    return chosen


def note(record: Record, **said: Any) -> Record:
    """Note tags, properties or a description of a version anew; None stays as it was.

    Raises:
        ModelNotFound: it is gone.
        ModelDamaged: what is noted of it cannot be read.
        RegistrationError: nothing was noted of it, or the registry cannot be written.
    """
    new: dict[str, Any] = {
        name: _texts(each) if isinstance(each, Mapping) else each
        for name, each in said.items()
        if each is not None
    }
    with _translated(f"{record.id} cannot be changed"):
        if not record.path.exists():
            raise ModelNotFound(f"{record.id} is not there any more.")
        now = manifest.read(record.path)
        if now is None:
            raise RegistrationError(f"{record.path} was not registered: register it anew.")
        manifest.write(record.path, record.name, record.version, replace(now, **new))
    return _record(record)


def to_delete(
    root: str | Path, name: str, version: int | str | None = None, *, all_versions: bool = False
) -> list[RegisteredModel]:
    """What :func:`delete` would delete; it raises the same."""
    folder = Path(root)
    _check_registry(folder)
    chosen = registered_model(folder, name, version)
    found = [each for each in registered(folder) if each.name == name]
    if version is None and len(found) > 1 and not all_versions:
        numbers = ", ".join(str(each.version) for each in found)
        raise RegistrationError(
            f"{name} has the versions {numbers}: say which one to delete, or that all are meant."
        )
    return found if version is None else [chosen]


# --- what may be registered -----------------------------------------------------------------------


def check_name(name: str) -> None:
    """Raise RegistrationError, which says what is allowed, for what cannot be a model's name."""
    if not _NAME.fullmatch(name) or name.isdecimal():
        raise RegistrationError(
            f"{name!r} is not a name for a model: allowed are at most 255 letters (a-z, A-Z), "
            "digits, '-', '_' and '.', the first a letter, digit or '_', spaces between them, and "
            "not digits alone."
        )


def _check_registry(folder: Path) -> None:
    if is_version_folder(folder):
        raise RegistrationError(
            f"{folder} is one version of a model, not a registry: name the folder that holds the "
            f"models, such as {folder.parent.parent}."
        )


def _files_of(source: Path, registry: Path) -> list[tuple[str, Path]]:
    if Path(os.path.realpath(registry)).is_relative_to(os.path.realpath(source)):
        raise RegistrationError(f"{source} cannot be registered: it holds the registry {registry}.")
    with _translated(f"{source} cannot be registered"):
        return manifest.files_of(source)


def _sample(path: Path) -> dict[str, str]:
    suffix = path.suffix.lower()
    if suffix not in manifest.SAMPLE_SUFFIXES or not path.is_file():
        raise RegistrationError(f"The sample {path} is no file that ends in .json or .csv.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if suffix == ".json":
            json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise RegistrationError(f"The sample {path} cannot be read: {error}.") from error
    return {suffix: text}


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(key): str(value) for key, value in (values or {}).items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- making a version -----------------------------------------------------------------------------


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the file system's errors into one that says what could not be done."""
    try:
        yield
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        raise RegistrationError(f"{what}{place}: {error.strerror or error}.") from error


@contextmanager
def _temporary(root: Path) -> Iterator[Path]:
    folder = _new_temporary(root)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_temporary(root: Path) -> Path:
    return manifest.notes_folder(root) / f"{_TEMPORARY}{uuid.uuid4().hex}"


def _publish(root: Path, name: str, temporary: Path, noted: Manifest) -> Record:
    """Rename the folder to the next version; somebody may make that by hand just before."""
    while True:
        version = _claimed_version(root, name)
        target = root / name / str(version)
        manifest.write(target, name, version, noted)
        if _moved(temporary, target):
            return Record(name, version, target, noted)
        manifest.notes_file(target).unlink()


def _claimed_version(root: Path, name: str) -> int:
    """The next version, which nobody else can get from now on."""
    while True:
        given = (root, root / _GIVEN, manifest.notes_folder(root))
        version = 1 + max((each for top in given for each in _versions(top / name)), default=0)
        with suppress(FileExistsError):
            _mark_path(root, name, version).touch(exist_ok=False)
            return version


def _versions(folder: Path) -> list[int]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return [int(each) for each in os.listdir(folder) if each.isdecimal()]
    return []


def _mark_path(root: Path, name: str, version: int) -> Path:
    folder = manifest.notes_folder(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / str(version)


def _moved(source: Path, target: Path) -> bool:
    """Rename a folder; whether the target was not there yet."""
    while True:
        with suppress(FileExistsError):
            target.parent.mkdir()
        try:
            source.rename(target)
            return True
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            # The last version of the name may have been deleted after mkdir(), and the name too.
            if error.errno != errno.ENOENT or not source.exists():
                raise


# --- removing -------------------------------------------------------------------------------------


def _delete(root: Path, model: RegisteredModel) -> None:
    _mark_path(root, model.name, model.version).touch()
    hidden, notes = _new_temporary(root), manifest.notes_file(root / model.name / model.path.name)
    model.path.rename(hidden)
    notes.unlink(missing_ok=True)
    _remove(hidden)
    with suppress(OSError):  # it holds other versions, or one is being registered
        model.path.parent.rmdir()


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    oldest = time.time() - _STALE_SECONDS
    places = (root, manifest.notes_folder(root))
    for folder in (each for place in places for each in place.glob(f"{_TEMPORARY}*")):
        with suppress(OSError):
            times = [each.lstat().st_mtime for each in (folder, *folder.rglob("*"))]
            if max(times) < oldest:
                _remove(folder)


def _record(model: RegisteredModel) -> Record:
    place = (model.name, model.version, model.path)
    try:
        noted = manifest.read(model.path)
    except ModelDamaged as error:
        return Record(*place, Manifest(kind=kind_of(model.path)), str(error))
    return Record(*place, noted or Manifest(kind=kind_of(model.path)))
