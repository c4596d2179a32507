"""Models in a build context: found, checked, and linked or copied as ``<name>/<version>/…``.

The version of a registry is hard-linked where the file system can: its files never change. Any
other file or folder is copied in chunks, as somebody may write to it again, and gets metadata with
its digests as a registered one has. A folder's content becomes the version's: what ``serve
--model-dir`` is given can be packaged as it is.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .. import manifest, registry
from ..errors import ModelDamaged, ModelNotFound, PackagingError, RegistrationError
from ..manifest import METADATA_FILE, Manifest, Progress
from ..model_kinds import kind_of, libraries
from ..models import is_version_folder
from .specification import MODELS, PackagedModel


class ModelFile(NamedTuple):
    """One file of a model: its path below the context with ``/``, and where it is now."""

    target: str
    path: Path


def from_path(name: str, version: int, path: Path) -> PackagedModel:
    """The model in this file or folder.

    Raises:
        PackagingError: the name or version is not allowed, or there is no model at the path.
    """
    try:
        registry.check_name(name)
    except RegistrationError as error:
        raise PackagingError(str(error)) from error
    if version < 1:
        raise PackagingError(f"The version of the model {name} is {version}: allowed is 1 or more.")
    if not path.exists():
        raise PackagingError(f"There is no model {name} at {path}: no such file or folder.")
    registered = is_version_folder(path) and (path / METADATA_FILE).is_file()
    noted = _noted(path) if registered else None
    kind = noted.kind if noted else kind_of(path)
    versions = noted.libraries if noted else libraries(kind, path)
    return PackagedModel(name, version, path, registered, kind, dict(versions))


def from_registry(root: Path, name: str, version: int | str | None = None) -> PackagedModel:
    """A version of a registered model, the highest unless one is named.

    Raises:
        PackagingError: there is none; the message lists what there is.
    """
    if not root.is_dir():
        raise PackagingError(
            f"There is no model {name}: the registry {root} does not exist. Name the model's file "
            f"or folder ({name}=PATH), or the folder where it is registered."
        )
    try:
        record = registry.details(root, name, version)
    except (ModelNotFound, ModelDamaged) as error:
        raise PackagingError(f"{error}") from error
    noted = record.manifest
    kind = noted.kind or kind_of(record.path)
    return PackagedModel(name, record.version, record.path, True, kind, dict(noted.libraries))


def model_files(model: PackagedModel) -> list[ModelFile]:
    """The files of a model, by path.

    Raises:
        PackagingError: a link leads out of it or into itself, or something in it is no file.
    """
    folder = f"{MODELS}/{model.name}/{model.version}"
    if not model.path.is_dir():
        return [ModelFile(f"{folder}/{model.path.name}", model.path)]
    try:
        below = sorted(manifest.files_below(model.path, PackagingError, leave=model.registered))
    except OSError as error:
        raise PackagingError(f"{error.filename} cannot be read: {error.strerror}.") from error
    below = [(name, path) for name, path in below if "__pycache__" not in name.split("/")]
    if not any(name != METADATA_FILE for name, _ in below):
        raise PackagingError(f"The model {model.name} at {model.path} holds no file.")
    for _, path in below:
        if not path.is_file():
            raise PackagingError(f"{path} of the model {model.name} is no file, or a link to none.")
    return [ModelFile(f"{folder}/{name}", path) for name, path in below]


def is_same(model: PackagedModel, files: Iterable[ModelFile], context: Path) -> bool:
    """Whether the context holds these files already: the same one, or of this length and time."""
    there = context / MODELS / model.name / str(model.version)
    wanted = {file.target for file in files}
    if not model.registered:
        wanted.add(_metadata(model))
    if wanted != set(_below(there, context)):
        return False
    return all(
        _same_file(file.path, context / file.target)
        for file in files
        if model.registered or file.target != _metadata(model)
    )


def place(
    model: PackagedModel,
    files: list[ModelFile],
    context: Path,
    previous: Path | None,
    progress: Progress | None,
) -> None:
    """Put a model into a context: linked from the ``previous`` one, from the registry, or copied.

    ``progress`` is called with the bytes that are done and the bytes of all.

    Raises:
        PackagingError: a registered model is not what was registered.
        OSError: the context cannot be written.
    """
    if previous is not None and is_same(model, files, previous):
        linked = [ModelFile(name, previous / name) for name in _names(model, previous)]
        _link(linked, context)
    elif model.registered:
        _check(model)
        _link(files, context)
    else:
        _copy(model, files, context, progress)


def _check(model: PackagedModel) -> None:
    try:
        manifest.check(model.path)
    except ModelDamaged as error:
        raise PackagingError(str(error)) from error


def _noted(path: Path) -> Manifest | None:
    try:
        return manifest.read(path)
    except ModelDamaged as error:
        raise PackagingError(str(error)) from error


def _metadata(model: PackagedModel) -> str:
    return f"{MODELS}/{model.name}/{model.version}/{METADATA_FILE}"


def _names(model: PackagedModel, context: Path) -> list[str]:
    return list(_below(context / MODELS / model.name / str(model.version), context))


def _below(folder: Path, context: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield (Path(parent) / name).relative_to(context).as_posix()


def _same_file(source: Path, there: Path) -> bool:
    try:
        old, new = there.stat(), source.stat()
    except OSError:
        return False
    if (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino):
        return True
    return (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns)


def _link(files: Iterable[ModelFile], context: Path) -> None:
    for file in files:
        target = context / file.target
        target.parent.mkdir(parents=True, exist_ok=True)
        source = os.path.realpath(file.path)
        try:
            if not os.stat(source).st_mode & stat.S_IROTH:
                raise PermissionError(errno.EACCES, "the user of the image could not read it")
            os.link(source, target)
        except OSError:  # another file system, one without links, or such a file
            shutil.copy2(source, target)
            target.chmod(0o644)


def _copy(
    model: PackagedModel, files: list[ModelFile], context: Path, progress: Progress | None
) -> None:
    folder = context / MODELS / model.name / str(model.version)
    inside = [(file.target.split("/", 3)[3], file.path) for file in files]
    copied = [(name, path) for name, path in inside if name != METADATA_FILE]
    digests = manifest.copy(copied, folder, progress)
    for name, path in copied:
        about = path.stat()
        (folder / name).chmod(0o644)
        os.utime(folder / name, ns=(about.st_atime_ns, about.st_mtime_ns))
    noted = Manifest(kind=model.kind, libraries=model.libraries, files=digests)
    manifest.write(folder, model.name, model.version, noted)
    (folder / METADATA_FILE).chmod(0o644)
