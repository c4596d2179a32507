"""Models in a build context: found, checked, and linked or copied as ``<name>/<version>/…``.

The version of a registry is hard-linked where the file system can: its files never change, or their
digests tell. Any other file or folder is copied in chunks, as somebody may write to it again, and
gets metadata with its digests as a registered one has. A folder keeps its own name below the
version, as Azure ML registered it, unless it is the content of a version already.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..errors import ModelDamaged, ModelNotFound, PackagingError, RegistrationError
from ..models import manifest, registry
from ..models.folder import is_version_folder
from ..models.kinds import agreeing, kind_of, libraries
from ..models.manifest import METADATA_FILE, FileDigest, Manifest, Progress, sha256_of
from .source import check_name, first_missing, near_misses
from .specification import DOCUMENT, MODELS, PackagedModel

_COMPARED_BYTES = 64 << 20
"""Models of up to this many bytes are compared to the byte, larger ones by length and time."""


class ModelFile(NamedTuple):
    """One file of a model: its path below the context with ``/``, and where it is now."""

    target: str
    path: Path

    @property
    def below(self) -> str:
        """Its path below the version of the model."""
        return self.target.split("/", 3)[3]


def from_path(name: str, version: int, path: Path, *, content: bool = False) -> PackagedModel:
    """The model in this file or folder; with ``content`` a folder does not keep its name.

    Raises:
        PackagingError: the name or version is not allowed, or there is no model at the path.
    """
    with _problem_named():
        registry.check_name(name)
    if version < 1:
        raise PackagingError(f"The version of the model {name} is {version}: allowed is 1 or more.")
    _check_path(name, path)
    real = Path(os.path.abspath(path))
    registered = is_version_folder(real) and manifest.is_noted(path)
    noted = _noted(path) if registered else None
    kind = (noted.kind if noted else "") or kind_of(path)
    versions = agreeing(noted.libraries, path) if noted else libraries(kind, path)
    plain = content or is_version_folder(real) or not os.path.isdir(path)
    if not plain and real.name.startswith("."):
        raise PackagingError(
            f"The model {name} at {path} is a hidden folder, which would not be found again: name "
            f"its content, {path}/."
        )
    folder = "" if plain else real.name
    return PackagedModel(name, version, path, registered, kind, versions, folder)


def from_registry(root: Path, name: str, version: int | str | None = None) -> PackagedModel:
    """A version of a registered model, the highest unless one is named.

    Raises:
        PackagingError: there is none; the message lists what there is. It is a path.
    """
    if "/" in name or (os.path.exists(name) and not os.path.isdir(root / name)):
        near = "" if os.path.exists(name) else near_misses(first_missing(Path(name)))
        raise PackagingError(f"--model {name} is a path without a name: write NAME={name}.{near}")
    if not os.path.isdir(root):
        raise PackagingError(
            f"There is no model {name}: the registry {root} does not exist. Name the model's file "
            f"or folder ({name}=PATH), or the folder where it is registered."
        )
    with _problem_named():
        registry.check_name(name)
        record = registry.details(root, name, version)
    return from_path(name, record.version, record.path)


def _check_path(name: str, path: Path) -> None:
    """A pipe would be waited for, and a hidden file be taken for metadata or not be found."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        reason = f"There is no model {name} at {path}: no such file or folder."
        raise PackagingError(reason + near_misses(first_missing(path))) from error
    except OSError as error:
        reason = f"The model {name} at {path} cannot be read: {error.strerror}."
        raise PackagingError(reason) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise PackagingError(f"The model {name} at {path} is neither a file nor a folder.")
    if stat.S_ISREG(mode) and path.name.startswith("."):
        raise PackagingError(
            f"The model {name} at {path} is a hidden file: its name has to begin with something "
            "but a dot, or it would not be found again."
        )


def check_place(model: PackagedModel, output: Path) -> None:
    """Refuse an ``output``, a real path, that would be put into the model or in its place.

    Raises:
        PackagingError: it lies in the model's folder or among its versions, or holds the model.
    """
    path = Path(os.path.realpath(model.path))
    versions = path.parent if model.registered else path
    if os.path.isdir(path) and output.is_relative_to(versions):
        raise PackagingError(
            f"The output {output} lies in the folder of the model {model.name}, {versions}: write "
            "the output to another folder."
        )
    if output in path.parents:
        raise PackagingError(
            f"The model {model.name} at {model.path} lies in the output {output}, which is "
            "replaced as a whole: write the output to another folder."
        )


def model_files(model: PackagedModel) -> list[ModelFile]:
    """The files of a model, by path.

    Raises:
        PackagingError: a link leads out of it or into itself, something in it is no file or cannot
            be read, or has a name that no image can hold.
    """
    folder = f"{MODELS}/{model.name}/{model.version}"
    below = _files_of(model) if os.path.isdir(model.path) else [(model.path.name, model.path)]
    if model.folder:
        below = [(f"{model.folder}/{name}", path) for name, path in below]
    for name, path in below:
        check_name(name)
        if not os.path.isfile(path):
            raise PackagingError(f"{path} of the model {model.name} is no file, or a link to none.")
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PackagingError(
                f"{path} of the model {model.name} cannot be read: Permission denied."
            )
    return [ModelFile(f"{folder}/{name}", path) for name, path in below]


def _files_of(model: PackagedModel) -> list[tuple[str, Path]]:
    try:
        below = sorted(manifest.files_below(model.path, PackagingError, leave=model.registered))
    except OSError as error:
        raise PackagingError(
            f"{error.filename} of the model {model.name} cannot be read: {error.strerror}."
        ) from error
    below = [
        (name, path)
        for name, path in below
        if name != METADATA_FILE and "__pycache__" not in name.split("/")
    ]
    if not below:
        raise PackagingError(f"The model {model.name} at {model.path} holds no file.")
    return below


def digest_of(content: bytes | Path) -> str:
    """The SHA-256 of bytes or of a file, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    found = hashlib.sha256(content).digest() if isinstance(content, bytes) else sha256_of(content)
    return found.hex()


def files_below(folder: Path, *leave: str) -> Iterator[str]:
    """Every file of a context but those in its folders ``leave`` and Python's own, with ``/``."""
    for parent, folders, names in os.walk(folder):
        below = parent[len(str(folder)) :].lstrip(os.sep)
        folders[:] = [
            name for name in folders if name != "__pycache__" and (below or name not in leave)
        ]
        for name in names:
            yield os.path.join(below, name).replace(os.sep, "/")


# --- in a context ---------------------------------------------------------------------------------


def is_same(model: PackagedModel, files: Iterable[ModelFile], context: Path) -> bool:
    """Whether the context holds these files already.

    Copies of models of up to 64 MiB are compared to the byte, those of larger ones by length and
    time, as rsync does. A file that is linked is the same unless it was written to after the
    context was made; then the digests of its registration decide.
    """
    there, files = _place_of(model, context), list(files)
    try:
        noted = manifest.read(there)
        if noted is None or noted != _noted_of(model, noted.files):
            return False
        if {file.target for file in files} != set(_below(there, context)):
            return False
        small = sum(os.stat(file.path).st_size for file in files) <= _COMPARED_BYTES
        if not all(_is_same_file(file.path, context / file.target, small=small) for file in files):
            return False
        made = os.stat(context / DOCUMENT).st_ctime_ns
        if model.registered and any(os.stat(file.path).st_mtime_ns >= made for file in files):
            manifest.check(model.path)
        return True
    except (OSError, ModelDamaged):
        return False


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
    digests: Mapping[str, FileDigest] = {}
    if previous is not None and is_same(model, files, previous):
        there = _place_of(model, previous)
        noted = manifest.read(there)
        digests = noted.files if noted else {}
        _link((ModelFile(name, previous / name) for name in _below(there, previous)), context)
    elif model.registered:
        with _problem_named():
            manifest.check(model.path)
        _link(files, context)
    else:
        digests = _copy(model, files, context, progress)
    noted = _noted_of(model, digests)
    manifest.write(_place_of(model, context), model.name, model.version, noted)


def _noted(path: Path) -> Manifest | None:
    with _problem_named():
        return manifest.read(path)


@contextmanager
def _problem_named() -> Iterator[None]:
    try:
        yield
    except (ModelNotFound, ModelDamaged, RegistrationError) as error:
        raise PackagingError(str(error)) from error


def _place_of(model: PackagedModel, context: Path) -> Path:
    return context / MODELS / model.name / str(model.version)


def _below(folder: Path, context: Path) -> Iterator[str]:
    return (f"{folder.relative_to(context).as_posix()}/{name}" for name in files_below(folder))


def _is_same_file(source: Path, there: Path, *, small: bool) -> bool:
    old, new = there.stat(), source.stat()
    if os.path.samestat(old, new):
        return True
    if small:
        return old.st_size == new.st_size and digest_of(source) == digest_of(there)
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
) -> dict[str, FileDigest]:
    folder = _place_of(model, context)
    copied = [(file.below, file.path) for file in files]
    before = {name: path.stat() for name, path in copied}
    digests = manifest.copy(copied, folder, progress)
    for name, path in copied:
        known, now = before[name], path.stat()
        same = (now.st_ino, digests[name].bytes, now.st_mtime_ns)
        if same != (known.st_ino, known.st_size, known.st_mtime_ns):
            raise PackagingError(
                f"{path} changed while it was packaged: package it again when it is written."
            )
        (folder / name).chmod(0o644)
        os.utime(folder / name, ns=(known.st_mtime_ns, known.st_mtime_ns))
    return digests


def _noted_of(model: PackagedModel, digests: Mapping[str, FileDigest]) -> Manifest:
    """What the package notes of it: of a registered one all that the registry does."""
    noted = _noted(model.path) if model.registered else None
    return noted or Manifest(kind=model.kind, libraries=model.libraries, files=digests)
