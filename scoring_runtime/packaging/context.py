"""Making a build context: whole or not at all, and the same bytes for the same inputs.

It is made in a hidden folder beside its place and then renamed to it. ``scoring-package.json``
holds what was packaged, with the SHA-256 of each file but those of the models; from it a later run
knows whether anything changed, here or there.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import PackagingError
from ..models.kinds import MLFLOW, UNKNOWN, pickles
from ..models.manifest import Progress
from ..models.pickled import compares_text, said
from ..release import VERSION
from ..settings.kinds import TRIGGERS
from . import resolution
from .app_settings import image_settings, required_settings, settings_of, unknown_settings
from .dockerfile import (
    FUNCTION_APP,
    app_settings,
    dockerfile,
    dockerignore,
    host_json,
    local_settings,
)
from .imports import uncovered
from .lock import lock_name, locked
from .model_files import (
    ModelFile,
    check_place,
    digest_of,
    files_below,
    is_same,
    model_files,
    place,
)
from .requirements import models_environment, other_requirements, requirements_text
from .source import beside, check_no_secrets, entry_script_name, source_files
from .specification import (
    DEFAULT_PYTHON,
    DOCUMENT,
    MODELS,
    NOTES,
    ROOTS,
    SOURCE,
    TARGETS,
    WHEELS,
    Context,
    Environment,
    PackagedModel,
    RequiredSetting,
    Specification,
    deployment_folder,
)

try:
    import fcntl
except ModuleNotFoundError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_FORMAT = 1
# 1980-01-01, the first time that zip files can hold: a build makes layers of equal digests.
_TIME = 315532800
_STALE_SECONDS = 24 * 60 * 60
_NAMED = 5

Models = list[tuple[PackagedModel, list[ModelFile]]]
Source = list[tuple[str, Path]]


@dataclass(frozen=True)
class Document:
    """What was packaged; ``files`` are SHA-256 digests in hexadecimal by path with ``/``.

    ``executables`` are those of the files that can be run. ``resolved`` if pip was asked whether
    the requirements can be installed, ``warnings`` is what it could not tell.
    """

    runtime: str = ""
    target: str = ""
    triggers: tuple[str, ...] = ()
    python: str = ""
    entry_script: str = ""
    models: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    executables: tuple[str, ...] = ()
    resolved: bool = False

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class _Contents:
    """The ``files`` of a context by path with ``/``, and what was found out about it.

    ``missing`` says what a model or the script cannot do without and nothing provides.
    """

    files: Mapping[str, bytes | Path]
    document: Document
    made: Context
    wheels: tuple[Path, ...]
    missing: tuple[str, ...] = ()


def make(
    specification: Specification,
    output: Path,
    *,
    progress: Progress | None = None,
    resolve: bool = True,
    overwrite: bool = False,
    allow_missing: bool = True,
) -> Context:
    """Make the build context of a package in the folder ``output``: not there, empty, or one.

    A context that is there already is replaced, unless nothing changed. ``progress`` is called with
    the bytes of models that are done and those of all. Without ``resolve`` pip is not asked whether
    the requirements can be installed; ``overwrite`` loses changes by hand; with ``allow_missing``
    there is only a warning of modules that the script or a model needs and nothing provides.

    Raises:
        PackagingError: an input is wrong, the folder holds something else, the requirements cannot
            be installed or do not suffice, or it cannot be written; ``output`` is as it was before.
    """
    output = Path(os.path.realpath(output))
    with alone(output.parent):
        previous = _previous(output, overwrite)
        content = _contents(specification, output)
        if content.missing and not allow_missing:
            advice = "If they are there all the same where the image runs: --allow-missing."
            raise PackagingError(" ".join([*content.missing, advice]))
        for model in specification.models:
            check_place(model, output)
        models = [(model, _files_of(specification, model)) for model in specification.models]
        made = content.made
        changed = previous is None or (overwrite and changed_by_hand(output, previous))
        old = None if changed else previous
        if old is not None and _is_up_to_date(old, content, models, output, resolve):
            return replace(made, warnings=made.warnings + old.warnings, unchanged=True)
    document = _resolved(content, previous, resolve)
    with _translated(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with _translated(output), alone(output.parent), _temporary(output) as folder:
        reused = output if _previous(output, overwrite) is not None else None
        _write(folder, content)
        (folder / DOCUMENT).write_text(document.text(), encoding="utf-8")
        _place(models, folder, reused, progress)
        _finish(folder)
        _publish(folder, output)
    return replace(made, warnings=made.warnings + document.warnings)


# --- what it holds --------------------------------------------------------------------------------


def _contents(specification: Specification, output: Path) -> _Contents:
    """What the context of a package holds beside its models."""
    _check(specification)
    specification = replace(specification, environment=_environment(specification))
    environment, notes = specification.environment, list[str]()
    temporary = f".{output.name}.tmp-"  # what another run makes at this moment
    apart = [output, deployment_folder(output), *specification.leave_out]
    source = source_files(specification, apart, warn=notes.append)
    source = [(name, path) for name, path in source if temporary not in name]
    check_no_secrets(source)
    _check_model_texts(specification)
    requirements = requirements_text(specification)
    settings = image_settings(specification, ROOTS[specification.target])
    required = required_settings(specification)
    files: dict[str, bytes | Path] = {
        **_generated(specification, settings, required, requirements, bool(source)),
        **{f"{SOURCE}/{name}": path for name, path in source},
        **{f"{WHEELS}/{path.name}": path for path in environment.wheels},
        **_runtime_files(),
    }
    if specification.lock:
        files |= _locks(specification, requirements, output)
    try:
        document = _document(specification, settings, required, files)
    except OSError as error:
        raise PackagingError(f"{error.filename} cannot be read: {error.strerror}.") from error
    notes += unknown_settings(specification)
    missing, rest = _missing(specification, source, requirements.splitlines())
    made = Context(
        path=output,
        target=specification.target,
        triggers=specification.triggers,
        models=document.models,
        settings=settings,
        required=required,
        warnings=(*environment.notes, *notes, *missing, *rest),
        source_files=tuple(name for name, _ in source),
    )
    return _Contents(files, document, made, environment.wheels, missing)


def _files_of(specification: Specification, model: PackagedModel) -> list[ModelFile]:
    """Those of a model; without a script also what its one file needs of what lies beside it."""
    own = model_files(model)
    if specification.entry_script is not None or os.path.isdir(model.path):
        return own
    place = own[0].target.removesuffix(model.path.name)
    more = [ModelFile(f"{place}{name}", path) for name, path in beside(model.path)]
    return [*own, *(each for each in more if each.target != own[0].target)]


def _missing(
    specification: Specification, source: Source, requirements: list[str]
) -> tuple[tuple[str, ...], list[str]]:
    """What the script or a model cannot do without, and what only other files import.

    What a base image of the user's has nobody knows.
    """
    script, models = specification.entry_script, specification.models
    pickled = {
        f"The model {model.name} ({each.name})": sorted(said(each).modules)
        for model in models
        for each in pickles(model.path)
    }
    files, roots, folders = [*source], [entry_script_name(specification)], list[Path]()
    if script is None:
        for model in (each for each in models if each.kind != MLFLOW):
            own = [(file.below, file.path) for file in _files_of(specification, model)]
            files += own
            roots += [name for name, _ in own if not os.path.isdir(model.path)]
    else:
        paths = (*(model.path for model in models), script)
        folders = [Path(os.path.abspath(each)).parent for each in paths]
        folders.append(specification.source_dir or Path())
    found = uncovered(files, requirements, roots=roots, pickled=pickled, folders=folders)
    fatal = [each for each in found if each.needed and not specification.environment.base_image]
    missing = tuple(each.sentence for each in fatal)
    return missing, [each.sentence for each in found if each not in fatal]


def _environment(specification: Specification) -> Environment:
    """The user's, with the wheels and notes that MLflow models bring, and their Python."""
    said, own = specification.environment, models_environment(specification)
    return replace(
        said,
        python=said.python or own.python,
        wheels=tuple(dict.fromkeys((*said.wheels, *own.wheels))),
        notes=(*said.notes, *own.notes),
    )


def _check_model_texts(specification: Specification) -> None:
    """Text files of models, such as config.json, may hold a secret too."""
    for model in specification.models:
        again = ", and register it again" if model.registered else ""
        advice = f"take it out of the model, {model.path}{again}."
        check_no_secrets(_files_of(specification, model), advice)


def _check(specification: Specification) -> None:
    _check_known("target", specification.target, TARGETS)
    for trigger in specification.triggers:
        _check_known("trigger", trigger, TRIGGERS)
    identities = _identities(specification)
    for identity in identities:
        if identities.count(identity) > 1:
            raise PackagingError(f"The model {identity} is given twice.")
    if specification.entry_script is None:
        _check_models_alone(specification)


def _check_known(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise PackagingError(f"There is no {what} {name!r}. Allowed: {', '.join(known)}.")


def _check_models_alone(specification: Specification) -> None:
    if not specification.models:
        raise PackagingError(
            "There is nothing to package: give an entry script (--entry-script score.py), a model "
            "(--model NAME=PATH), or both."
        )
    if specification.source_dir is not None:
        raise PackagingError(
            f"The source folder {specification.source_dir} needs an entry script in it: add "
            "--entry-script."
        )
    for model in specification.models:
        if model.kind in ("", UNKNOWN):
            raise PackagingError(
                f"The model {model.name} at {model.path} is none that scores without a script: "
                "that is one scikit-learn file (.pkl, .joblib …), one .onnx file or one MLflow "
                "folder. Add --entry-script score.py."
            )


def _system_packages(specification: Specification, requirements: str) -> list[str]:
    """Packages of Debian without which one of Python's, or a model, does not load."""
    found = ["libgomp1"] if re.search(r"(?mi)^lightgbm\b", requirements) else []
    files = (each.path for m in specification.models for each in _files_of(specification, m))
    onnx = (path for path in files if path.suffix.lower() == ".onnx")
    return [*found, "locales"] if any(map(compares_text, onnx)) else found


def _generated(
    specification: Specification,
    settings: Mapping[str, str],
    required: Iterable[RequiredSetting],
    requirements: str,
    source: bool,
) -> dict[str, bytes | Path]:
    environment = specification.environment
    inside = {"source": source, "models": bool(specification.models)}
    inside["wheels"] = bool(environment.wheels)
    identities = _identities(specification)
    texts = {
        "Dockerfile": dockerfile(
            specification.target,
            python=environment.python,
            base_image=environment.base_image,
            settings=settings,
            labels={"scoring-runtime.models": ",".join(identities)} if identities else {},
            more=other_requirements(specification),
            lock=specification.lock,
            system=_system_packages(specification, requirements),
            **inside,
        ),
        ".dockerignore": dockerignore(),
        "requirements.txt": requirements,
        "host.json": host_json(settings_of(specification)),
        "function_app.py": FUNCTION_APP,
        "local.settings.json": local_settings(image_settings(specification, ""), required),
        "app-settings.json": app_settings(settings, required),
    }
    return {name: text.encode() for name, text in texts.items()}


def _locks(
    specification: Specification, requirements: str, output: Path
) -> dict[str, bytes | Path]:
    """The lock file of each target; that of the output if nothing else is asked for than there."""
    environment = specification.environment
    python = environment.python or DEFAULT_PYTHON
    there = read_document(output)
    same = there is not None and there.python == python
    same = same and _bytes_of(output / "requirements.txt") == requirements.encode()
    found: dict[str, bytes | Path] = {}
    for target, more in {specification.target: (), **other_requirements(specification)}.items():
        previous = _bytes_of(output / lock_name(target)) if there is not None else b""
        if not (same and previous):
            wanted = "".join(f"{line}\n" for line in (requirements, *more))
            previous = locked(wanted, python, environment.wheels, previous)
        found[lock_name(target)] = previous
    return found


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _identities(specification: Specification) -> tuple[str, ...]:
    return tuple(f"{model.name}:{model.version}" for model in specification.models)


def _runtime_files() -> dict[str, bytes | Path]:
    folder = Path(__file__).parent.parent
    suffixes = (".py", ".typed", ".html", ".css", ".js")
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in suffixes]
    return {f"scoring_runtime/{path.relative_to(folder).as_posix()}": path for path in found}


def _document(
    specification: Specification,
    settings: Mapping[str, str],
    required: Iterable[RequiredSetting],
    files: Mapping[str, bytes | Path],
) -> Document:
    return Document(
        runtime=VERSION,
        target=specification.target,
        triggers=specification.triggers,
        python=specification.environment.python or DEFAULT_PYTHON,
        entry_script=entry_script_name(specification) if specification.entry_script else "",
        models=_identities(specification),
        settings=settings,
        required={each.name: each.about for each in required},
        files={name: digest_of(content) for name, content in files.items()},
        executables=tuple(name for name, content in files.items() if _is_executable(content)),
    )


def _is_executable(content: bytes | Path) -> bool:
    """By the owner's bit, as in git: the same for whoever packages."""
    return isinstance(content, Path) and bool(os.stat(content).st_mode & stat.S_IXUSR)


# --- what is there already ------------------------------------------------------------------------


def _previous(output: Path, overwrite: bool) -> Document | None:
    """The document of the context that is there; None for a folder that is empty or not there."""
    try:
        there = sorted(os.listdir(output))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PackagingError(f"{output} cannot be the output: {error.strerror}.") from error
    if not there:
        return None
    document = read_document(output)
    if document is None:
        raise PackagingError(
            f"The output folder {output} is not empty and holds no package: it has "
            f"{', '.join(there[:_NAMED])}{' …' if len(there) > _NAMED else ''}. "
            "Name a folder that is empty or not there."
        )
    changed = [] if overwrite else changed_by_hand(output, document)
    if changed:
        raise PackagingError(
            f"{output} was changed after it was made: {', '.join(changed[:_NAMED])}"
            f"{' …' if len(changed) > _NAMED else ''}. Name another output folder, or --overwrite "
            "it and lose the changes."
        )
    return document


def _is_up_to_date(
    previous: Document, content: _Contents, models: Models, output: Path, resolve: bool
) -> bool:
    """Whether a run would make what its document says is there; its warnings may be others."""
    asked = previous.resolved or resolve
    wanted = replace(content.document, resolved=asked, warnings=previous.warnings)
    return wanted == previous and all(is_same(model, files, output) for model, files in models)


def read_document(folder: Path) -> Document | None:
    """The document in a folder; None if there is none, or it is not what :meth:`text` writes."""
    if not os.path.isfile(folder / DOCUMENT):
        return None
    try:
        said = json.loads((folder / DOCUMENT).read_bytes())
        if said.pop("format") != _FORMAT:
            return None
        lists = {name: tuple(each) for name, each in said.items() if isinstance(each, list)}
        found = Document(**{**said, **lists})
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    kinds = vars(Document()).items()
    return found if all(type(getattr(found, name)) is type(each) for name, each in kinds) else None


def changed_by_hand(folder: Path, document: Document) -> list[str]:
    """The files of a context that are not those of its document, each with what is wrong."""
    there = set(files_below(folder, MODELS, NOTES)) - {DOCUMENT}
    files = document.files
    changed = [
        name for name in sorted(there & set(files)) if not _is(f"{folder}/{name}", files[name])
    ]
    missing = [f"{name} (missing)" for name in sorted(set(files) - there)]
    return changed + missing + [f"{name} (new)" for name in sorted(there - set(files))]


def _is(path: str, digest: str) -> bool:
    try:
        return os.path.isfile(path) and digest_of(Path(path)) == digest
    except OSError:
        return False


# --- what pip says --------------------------------------------------------------------------------


def _resolved(content: _Contents, previous: Document | None, resolve: bool) -> Document:
    """The document with what pip says; it is not asked twice about the same requirements."""
    document = content.document
    known = previous if previous and _asked(previous) == _asked(document) else Document()
    if resolve and (not known.resolved or known.warnings):
        requirements = content.files["requirements.txt"]
        assert isinstance(requirements, bytes)
        found = resolution.check(requirements.decode(), document.python, content.wheels)
        return replace(document, resolved=True, warnings=found)
    return replace(document, resolved=known.resolved, warnings=known.warnings)


def _asked(document: Document) -> tuple[str, dict[str, str]]:
    names = ("requirements.txt", f"{WHEELS}/")
    files = {name: each for name, each in document.files.items() if name.startswith(names)}
    return document.python, files


# --- writing --------------------------------------------------------------------------------------


@contextmanager
def _translated(output: Path) -> Iterator[None]:
    """Turn the file system's errors into one that says what could not be done."""
    try:
        yield
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        free = "" if error.errno != errno.ENOSPC else " Free some space, or name another disk."
        reason = error.strerror or str(error)
        raise PackagingError(f"{output} cannot be made{place}: {reason}.{free}") from error


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """One run at a time goes on with a folder or a file, where they can be locked; the kernel frees
    the lock of one that ends."""
    descriptor = None
    try:
        with suppress(OSError):
            descriptor = os.open(place, os.O_RDONLY)
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """A hidden folder beside ``output``; those of killed runs go a day later."""
    oldest = time.time() - _STALE_SECONDS
    for stale in output.parent.glob(f".{glob.escape(output.name)}.tmp-*"):
        with suppress(OSError):
            if stale.stat().st_mtime < oldest:
                shutil.rmtree(stale, ignore_errors=True)
    folder = output.parent / f".{output.name}.tmp-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        yield folder
    finally:
        _remove(folder)
        if output.exists():
            _remove(_replaced(folder))


def _replaced(folder: Path) -> Path:
    """Where the old context is while the new one takes its place."""
    return folder.with_name(f"{folder.name}-old")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, content: _Contents) -> None:
    for name, source in content.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
            continue
        shutil.copyfile(source, target)
        if digest_of(target) != content.document.files[name]:
            raise PackagingError(
                f"{source} changed while it was packaged: package it again when it is written."
            )
        target.chmod(0o755 if name in content.document.executables else 0o644)


def _place(models: Models, folder: Path, previous: Path | None, progress: Progress | None) -> None:
    total = sum(file.path.stat().st_size for _, files in models for file in files)
    before = 0

    def of_all(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, total)

    for model, files in models:
        place(model, files, folder, previous, of_all)
        before += sum(file.path.stat().st_size for file in files)
        of_all(0, total)


def _finish(folder: Path) -> None:
    """Equal modes and times whatever this machine's umask and clock; the models keep theirs."""
    for name in files_below(folder, MODELS):
        path = folder / name
        if not path.stat().st_mode & 0o100:
            path.chmod(0o644)
        os.utime(path, (_TIME, _TIME))
    for parent, _, _ in os.walk(folder, topdown=False):
        Path(parent).chmod(0o755)
        if Path(parent) != folder:  # by its time a killed run's is removed
            os.utime(parent, (_TIME, _TIME))


def _publish(folder: Path, output: Path) -> None:
    """Rename the folder to its place; what was there is removed afterwards."""
    replaced = _replaced(folder)
    try:
        if output.exists():
            output.rename(replaced)
        folder.rename(output)
    except BaseException:
        with suppress(OSError):  # there was none, or the new one is there
            replaced.rename(output)
        raise
