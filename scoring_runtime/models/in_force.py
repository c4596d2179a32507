"""Which version of each model is in force, and which was before it.

Where nothing is noted it is the highest, and all versions that are there are served. What a change
of the model has decided is noted beside the registry, with the metadata, so that it survives a
restart; ``scoring-runtime models use`` notes what is to be in force.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..errors import ModelDamaged, ModelNotFound
from . import folder as models
from . import manifest
from .folder import RegisteredModel

_FILE = ".in-force.json"


class Choice(NamedTuple):
    """The ``versions`` of a model that are served, the one in force last; none: it is not served.

    ``before`` was in force before it, 0 if none was. ``pinned``: a newer version does not take its
    place by itself.
    """

    versions: tuple[int, ...]
    before: int = 0
    pinned: bool = False

    @property
    def version(self) -> int:
        """The one in force; 0 if none is."""
        return self.versions[-1] if self.versions else 0

    def turned_to(self, version: int, pinned: bool) -> Choice:
        """The same with another version in force, which takes the place of the last."""
        if version == self.version:
            return self._replace(pinned=pinned)
        others = tuple(each for each in self.versions[:-1] if each != version)
        return Choice((*others, version), self.version or self.before, pinned)


Choices: TypeAlias = Mapping[str, Choice]


def registry_of(model_dir: str | Path) -> Path | None:
    """The registry that ``AZUREML_MODEL_DIR`` is, or is a version in; None for a plain folder."""
    folder = Path(model_dir)
    if not model_dir or not folder.is_dir():
        return None
    if models.is_version_folder(folder):
        return folder.parent.parent
    return folder if models.registered(folder) else None


def versions_there(model_dir: str | Path) -> dict[str, list[RegisteredModel]]:
    """The versions of each model that the folder is about, the highest last."""
    folder, found = Path(model_dir), dict[str, list[RegisteredModel]]()
    one = models.is_version_folder(folder)
    every = models.versions_of(folder.parent) if one else models.registered(folder)
    for each in every:
        found.setdefault(each.name, []).append(each)
    return found


def served(folder: Path, chosen: Mapping[str, tuple[int, ...]]) -> list[RegisteredModel]:
    """The versions in a registry that are served, of each model the one in force last.

    Args:
        folder: of the registry, or of one version, which is then the only one.
        chosen: versions by name; of a model that is not named, and where nothing is chosen at all
            of one for which nothing is noted, all of them.
    """
    there = models.registered(folder)
    if models.is_version_folder(folder):
        return there
    chosen = chosen or {name: choice.versions for name, choice in read(folder).items()}
    found = [each for each in there if each.version in chosen.get(each.name, (each.version,))]
    return sorted(
        found or there, key=lambda each: (each.name, _rank(each, chosen.get(each.name, ())))
    )


def _rank(model: RegisteredModel, versions: tuple[int, ...]) -> int:
    return versions.index(model.version) if model.version in versions else model.version


def at_start(model_dir: str | Path) -> dict[str, Choice]:
    """What is in force when a service starts; nothing for a plain folder.

    Raises:
        ModelDamaged: what is noted cannot be read.
    """
    registry, folder = registry_of(model_dir), Path(model_dir)
    if registry is None:
        return {}
    noted, found = read(registry), dict[str, Choice]()
    for name, there in versions_there(folder).items():
        numbers = tuple(each.version for each in there)
        known = noted.get(name)
        if known is not None and (known.version in numbers or not known.versions):
            versions = tuple(each for each in known.versions if each in numbers)
            found[name] = known._replace(versions=versions)
        else:
            one = models.is_version_folder(folder)
            found[name] = Choice((int(folder.name),) if one else numbers)
    return found


def folder_in_force(model_dir: str, choices: Choices) -> str:
    """``AZUREML_MODEL_DIR`` with the version in force, where it is the folder of one version."""
    folder = Path(model_dir)
    if not model_dir or not models.is_version_folder(folder) or folder.parent.name not in choices:
        return model_dir
    version = choices[folder.parent.name].version
    there = versions_there(folder)[folder.parent.name]
    return str(next((each.path for each in there if each.version == version), folder))


# --- what is to be in force next ------------------------------------------------------------------


def reloaded(model_dir: str, current: Choices) -> dict[str, Choice]:
    """The newest version of each model, but of one that is pinned that which is noted.

    Raises:
        ModelDamaged: what is noted cannot be read.
    """
    registry = registry_of(model_dir)
    noted = read(registry) if registry is not None else {}
    found = {}
    for name, there in versions_there(model_dir).items():
        numbers = [each.version for each in there]
        known = current.get(name, Choice(tuple(numbers)))
        if not known.versions:  # unloaded
            found[name] = known
            continue
        said, known = noted.get(name, known), _still_there(known, numbers)
        is_pinned = said.pinned and said.version in numbers
        found[name] = known.turned_to(said.version if is_pinned else numbers[-1], is_pinned)
    return found


def used(model_dir: str, current: Choices, name: str, version: str) -> dict[str, Choice]:
    """The same models with this version of one in force; without one its newest.

    Raises:
        ModelNotFound: no such model or version; the message lists what there is.
    """
    there = [each.version for each in _versions(model_dir, name)]
    if version and (not version.isdecimal() or int(version) not in there):
        listed = ", ".join(map(str, there))
        raise ModelNotFound(f"There is no version {version[:50]!r} of {name}. It has: {listed}.")
    known = _still_there(current.get(name, Choice(())), there)
    return {**current, name: known.turned_to(int(version or there[-1]), bool(version))}


def rolled_back(model_dir: str, current: Choices, name: str) -> dict[str, Choice]:
    """The same models with the version of one in force that was before; it is pinned.

    Raises:
        ModelNotFound: no such model, or no version was in force before, or it is gone.
    """
    there = [each.version for each in _versions(model_dir, name)]
    before = current[name].before if name in current else 0
    if not before:
        raise ModelNotFound(f"No version of {name} was in force before this one.")
    if before not in there:
        raise ModelNotFound(f"The version {before} of {name}, in force before, is not there.")
    return {**current, name: _still_there(current[name], there).turned_to(before, True)}


def unloaded(current: Choices, name: str) -> dict[str, Choice]:
    """The same models without one.

    Raises:
        ModelNotFound: no such model is served, or it is the only one.
    """
    if not current.get(name, Choice(())).versions:
        raise ModelNotFound(f"There is no model {name[:100]!r} that is served.")
    if sum(bool(each.versions) for each in current.values()) == 1:
        raise ModelNotFound(f"{name} is the only model that is served.")
    return {**current, name: Choice((), current[name].version, True)}


def _versions(model_dir: str, name: str) -> list[RegisteredModel]:
    if registry_of(model_dir) is None:
        raise ModelNotFound(
            f"{model_dir or 'AZUREML_MODEL_DIR'} is no registry of models by name and version: "
            "there is nothing to choose from."
        )
    there = versions_there(model_dir)
    if name not in there:
        raise ModelNotFound(f"There is no model {name[:100]!r}. There are: {', '.join(there)}.")
    return there[name]


def _still_there(choice: Choice, numbers: list[int]) -> Choice:
    last = choice.versions[-1:]
    others = (each for each in choice.versions[:-1] if each in numbers)
    return choice._replace(versions=(*others, *last))


# --- what is noted --------------------------------------------------------------------------------


def read(registry: Path) -> dict[str, Choice]:
    """What is noted of a registry's models.

    Raises:
        ModelDamaged: it is not what :func:`write` writes.
    """
    path = manifest.notes_folder(registry) / _FILE
    try:
        document = json.loads(path.read_bytes())
        return {name: _choice(**each) for name, each in document.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelDamaged(
            f"{path}, which says what version of each model is in force, cannot be read: {error}. "
            "Without it the highest is."
        ) from error


def _choice(versions: Any, before: Any, pinned: Any) -> Choice:
    if not all(type(each) is int and each >= 0 for each in (*versions, before)):
        raise ValueError("a version is no number")
    return Choice(tuple(versions), before, bool(pinned))


def write(registry: Path, choices: Choices) -> None:
    """Note what is in force, whole or not at all; other models keep what is noted of them.

    Raises:
        OSError: it cannot be written.
        ModelDamaged: what is noted cannot be read.
    """
    folder = manifest.notes_folder(registry)
    folder.mkdir(parents=True, exist_ok=True)
    document = {name: each._asdict() for name, each in {**read(registry), **choices}.items()}
    temporary = folder / f"{_FILE}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / _FILE)
    finally:
        temporary.unlink(missing_ok=True)


# --- whether files have changed -------------------------------------------------------------------


def seen(folders: list[Path], code: list[Path]) -> frozenset[tuple[str, int, int, int]]:
    """The files below folders of models, and the Python files in ``code``, as a listing shows them:
    path, length, time of the last change in nanoseconds, number of the file."""
    found = set()
    for path in _files(folders, code):
        with contextlib.suppress(OSError):  # gone meanwhile
            about = path.stat()
            found.add((str(path), about.st_size, about.st_mtime_ns, about.st_ino))
    return frozenset(found)


def _files(folders: list[Path], code: list[Path]) -> Iterator[Path]:
    for folder in folders:
        with contextlib.suppress(OSError, ModelDamaged):
            yield from (path for _, path in manifest.files_below(folder, ModelDamaged))
    for place in code:
        yield from manifest.python_files(place)
