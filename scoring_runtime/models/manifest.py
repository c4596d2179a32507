"""What is noted of a model when it is registered, and whether its files are still the same.

The metadata of ``<registry>/<name>/<version>`` with the SHA-256 of each file are in
``<registry>.scoring/<name>/<version>.json``, beside the registry: scripts list and glob below
``AZUREML_MODEL_DIR`` and find what was registered, no more. Only where nothing can stand beside it
(a registry that is a mount point, or that lies where one may not write) they are in its hidden
folder ``.scoring``. Registries of earlier releases have ``.scoring-model.json`` in the version's
folder, which is read and compared as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ModelDamaged, RegistrationError, ScoringRuntimeError
from .kinds import SUFFIXES

METADATA_FILE = ".scoring-model.json"
"""Where earlier releases kept the metadata, in the version's own folder."""

SAMPLE_SUFFIXES = (".json", ".csv")
_BESIDE_SCRIPTS = (
    *SUFFIXES, ".ubj", ".model", ".bst", ".xgb", ".lgb", ".cbm",
    ".h5", ".keras", ".pt", ".pth", ".safetensors", ".npy", ".npz",
)  # fmt: skip
_SUFFIX = ".scoring"
_NAMED = 10
_CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]


class FileDigest(NamedTuple):
    """SHA-256 in hexadecimal, and the length in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What is noted of one version of a model; everything is empty for one that nobody noted.

    ``libraries`` are versions by name where it was registered, ``files`` digests by the path below
    the version's folder, with ``/``; ``created`` is an ISO 8601 time in UTC. ``sample`` is the text
    of one input, by its suffix (``.json`` or ``.csv``).
    """

    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    framework: str = ""
    framework_version: str = ""
    created: str = ""
    kind: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    sample: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileDigest] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        files = {name: digest._asdict() for name, digest in self.files.items()}
        return {**asdict(self), "files": files}


_TEXTS = ("description", "framework", "framework_version", "created", "kind")
_TEXTS_BY_NAME = ("tags", "properties", "libraries", "sample")


# --- files ----------------------------------------------------------------------------------------


def files_below(
    folder: Path, error: type[ScoringRuntimeError], *, leave: bool = True
) -> Iterator[tuple[str, Path]]:
    """Every file below the folder as ``(path below it with /, path)``; links are followed.

    Raises:
        error: a link leads to a folder that it is in itself, or, unless links may ``leave`` it,
            out of the folder.
    """
    top = os.path.realpath(folder)
    waiting: list[tuple[Path, str, tuple[str, ...]]] = [(folder, "", (top,))]
    while waiting:
        parent, prefix, parents = waiting.pop()
        for entry in sorted(os.scandir(parent), key=lambda each: each.name):
            real = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if real in parents:
                raise error(f"The link {entry.path} leads to a folder that it is in itself.")
            if real and not leave and os.path.commonpath([top, real]) != top:
                raise error(f"The link {entry.path} leads out of {folder}, to {real}.")
            if os.path.isdir(entry.path):
                below = os.path.join(parents[-1], entry.name)
                name = f"{prefix}{entry.name}/"
                waiting.append((Path(entry.path), name, (*parents, real or below)))
            else:
                yield prefix + entry.name, Path(entry.path)


def copy(
    files: list[tuple[str, Path]], folder: Path, progress: Progress | None
) -> dict[str, FileDigest]:
    """Copy each file to its path below ``folder``; their digests, taken on the way.

    After each chunk ``progress`` is called with the bytes that are done and the bytes of all.
    """
    total = sum(path.stat().st_size for _, path in files)
    done, digests = 0, {}
    for name, path in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, start = hashlib.sha256(), done
        with path.open("rb") as source, target.open("xb") as copy:
            while chunk := source.read(_CHUNK_BYTES):
                copy.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        shutil.copymode(path, target)
        digests[name] = FileDigest(digest.hexdigest(), done - start)
    return digests


def files_of(source: Path) -> list[tuple[str, Path]]:
    """The files of a model that is a file or a folder, as ``(path below its version, path)``.

    Raises:
        RegistrationError: it is not there, hidden or empty, a link in it leads out of it or into
            itself, or something in it is no file.
    """
    if source.name.startswith("."):
        raise RegistrationError(
            f"{source} cannot be registered: its name has to begin with something but a dot, or it "
            "would not be found again."
        )
    if not source.exists():
        raise RegistrationError(f"{source} cannot be registered: it does not exist.")
    if not source.is_dir():
        return _only_files(source, [(source.name, source)])
    files = _only_files(source, sorted(files_below(source, RegistrationError, leave=False)))
    if not files:
        raise RegistrationError(f"{source} cannot be registered: it holds no file.")
    return [(f"{source.name}/{name}", path) for name, path in files]


def _only_files(source: Path, files: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    for _, path in files:
        if not path.is_file():
            problem = "a link to nothing" if path.is_symlink() else "neither a file nor a folder"
            raise RegistrationError(f"{source} cannot be registered: {path} is {problem}.")
    return files


def notes_folder(registry: Path) -> Path:
    """Where the metadata of a registry are, or would be."""
    real = Path(os.path.realpath(registry))
    beside, inside = real.parent / f"{real.name}{_SUFFIX}", real / _SUFFIX
    if os.path.isdir(beside):
        return beside
    alone = os.path.ismount(real) or (os.path.exists(real) and not os.access(real.parent, os.W_OK))
    return inside if alone or os.path.isdir(inside) else beside


def notes_file(folder: Path) -> Path:
    """The file with the metadata of a version's folder; it may not be there."""
    real = Path(os.path.realpath(folder))
    return notes_folder(real.parent.parent) / real.parent.name / f"{real.name}.json"


def _noted_in(folder: Path) -> Path:
    """The file that the metadata are read from."""
    old = folder / METADATA_FILE
    new = notes_file(folder)
    return old if os.path.lexists(old) and not os.path.lexists(new) else new


def is_noted(folder: Path) -> bool:
    """Whether there are metadata of a version's folder."""
    return os.path.lexists(_noted_in(folder))


def noted_folder(path: Path) -> Path:
    """The version's folder that a model is in: the nearest one with metadata, else itself."""
    return next((each for each in (path, *path.parents) if is_noted(each)), path)


def check(path: Path) -> None:
    """Compare the files of a version with what was registered.

    ``path`` is its folder or what is in it; without metadata nothing is compared. Every registered
    file has to be there, the same to the byte, and no other one that a loader could pick up: what
    starts with a dot, and Python's ``__pycache__``, may be there.

    Raises:
        ModelDamaged: the message names the files.
    """
    folder = noted_folder(path)
    manifest = read(folder)
    if manifest is None:
        return
    try:
        there = dict(files_below(folder, ModelDamaged))
    except OSError as error:
        raise _damaged(folder, [f"{error.filename} cannot be read: {error.strerror}"]) from error
    problems = [f"{name} is missing" for name in manifest.files if name not in there]
    problems += [
        f"{name} was not registered"
        for name in there
        if name not in manifest.files and not _may_be_there(name)
    ]
    problems += [
        f"{name} has changed"
        for name, digest in manifest.files.items()
        if name in there and not _is(there[name], digest)
    ]
    if problems:
        raise _damaged(folder, problems)


def digest(folder: Path) -> str:
    """SHA-256 in hexadecimal over the names and bytes of a model's files, wherever it lies.

    Of a version that is registered it is taken over the digests that were noted then.

    Raises:
        OSError, ModelDamaged: as :func:`fingerprint`.
    """
    noted = read(folder)
    files = {name: each.sha256 for name, each in (noted.files if noted else {}).items()}
    if not files:
        below = files_below(folder, ModelDamaged)
        files = {name: sha256_of(path).hex() for name, path in below}
    lines = (f"{each}  {name}\n" for name, each in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def fingerprint(model_dir: str, code: list[Path], *, has_script: bool = False) -> bytes:
    """A digest of every file of the model and of the Python files in ``code`` and below; and of
    the models beside a script, which it may load itself.

    It changes with any name or byte of them. Hidden folders, caches and virtual environments in
    ``code`` are left out.

    Raises:
        OSError, ModelDamaged: a file cannot be read; a link leads to a folder that it is in itself.
    """
    digest = hashlib.sha256()
    suffixes = (".py", *_BESIDE_SCRIPTS) if has_script else (".py",)
    files = [Path(model_dir)]
    if os.path.isdir(model_dir):
        files = sorted(path for _, path in files_below(files[0], ModelDamaged))
    beside = {each for folder in code for each in python_files(folder, suffixes)}
    for path in [*files, *sorted(beside)]:
        if path.is_file():
            name = str(path).encode("utf-8", "surrogateescape")
            digest.update(len(name).to_bytes(8, "big") + name + sha256_of(path))
    return digest.digest()


def sha256_of(path: Path) -> bytes:
    """The digest of a file's bytes; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def python_files(folder: Path, suffixes: tuple[str, ...] = (".py",)) -> Iterator[Path]:
    """The Python files in a folder and below, or those of ``suffixes``, or that file; without
    caches, hidden folders and virtual environments."""
    if folder.is_file():
        yield folder
        return
    for parent, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith((".", "__pycache__"))]
        if "pyvenv.cfg" in names or "site-packages" in folders or "node_modules" in folders:
            folders.clear()
        yield from (Path(parent, name) for name in names if name.endswith(suffixes))


def _may_be_there(name: str) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))


def _is(path: Path, digest: FileDigest) -> bool:
    """Whether the file has this digest; its length alone may tell that it has not."""
    try:
        return path.stat().st_size == digest.bytes and sha256_of(path).hex() == digest.sha256
    except OSError:
        return False


def _damaged(folder: Path, problems: list[str]) -> ModelDamaged:
    more = f", and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return ModelDamaged(
        f"The model in {folder} is not what was registered: {', '.join(problems[:_NAMED])}{more}. "
        f"Put the files back or register the model again; without {_noted_in(folder)} nothing is "
        "compared."
    )


def sample_of(path: Path) -> tuple[str, str] | None:
    """Suffix and text of the sample registered with the version that ``path`` is or is in."""
    noted = read(noted_folder(path))
    return next(iter(noted.sample.items()), None) if noted else None


# --- metadata -------------------------------------------------------------------------------------


def write(folder: Path, name: str, version: int, manifest: Manifest) -> None:
    """Write the metadata of a version's folder to their place."""
    document = {"name": name, "version": version, **manifest.document()}
    place = notes_file(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{os.getpid()}")  # as who reads it may do so now
    beside.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, place)


def read(folder: Path) -> Manifest | None:
    """A version's metadata; None if it has none.

    Raises:
        ModelDamaged: they are not what :func:`write` writes.
    """
    path = _noted_in(folder)
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"is not JSON: {error}") from error
    wrong = _wrong_entry(document)
    if wrong:
        raise _unreadable(path, wrong)
    files = {name: FileDigest(**digest) for name, digest in document["files"].items()}
    known = {key: document[key] for key in (*_TEXTS, *_TEXTS_BY_NAME) if key in document}
    return Manifest(**known, files=files)


def _unreadable(path: Path, problem: str) -> ModelDamaged:
    return ModelDamaged(
        f"{path} {problem}. Put it back or register the model again; "
        "without it nothing is compared."
    )


def _wrong_entry(document: Any) -> str:
    """What is wrong with the metadata, as the rest of a sentence; empty if nothing is."""
    if not isinstance(document, dict):
        return "is not a JSON object"
    texts = (key for key in _TEXTS if not isinstance(document.get(key, ""), str))
    maps = (key for key in _TEXTS_BY_NAME if not _is_texts_by_name(document.get(key, {})))
    for key in texts:
        return f'has a "{key}" that is not a text'
    for key in maps:
        return f'has "{key}" that are not texts by name'
    files = document.get("files")
    if not isinstance(files, dict) or not all(_is_digest(each) for each in files.values()):
        return 'has no "files" with the "sha256" and "bytes" of each'
    return ""


def _is_texts_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_digest(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"sha256", "bytes"}
        and isinstance(value["sha256"], str)
        and type(value["bytes"]) is int
    )
