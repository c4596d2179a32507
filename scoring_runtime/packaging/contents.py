"""Everything of a build context but its models, as bytes or as paths to copy."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PackagingError
from ..models.kinds import MLFLOW, UNKNOWN, pickles
from ..models.pickled import compares_text, said
from ..release import VERSION
from . import host_files, resolution, secret_texts
from .app_settings import image_settings, required_settings, settings_of, unknown_settings
from .dockerfile import dockerfile, dockerignore
from .document import Document, digest_of
from .imported_modules import uncovered
from .model_files import ModelFile, model_files
from .requirements import models_environment, other_requirements, requirements_text
from .sources import beside, entry_script_name, misplaced, reached, source_files
from .specification import (
    DEFAULT_PYTHON,
    ROOTS,
    SOURCE,
    TARGETS,
    WHEELS,
    Environment,
    PackagedModel,
    RequiredSetting,
    Specification,
)

RUNTIME = "scoring_runtime"
_TRIGGERS = ("http", "blob", "service_bus")


@dataclass(frozen=True)
class Contents:
    """The ``files`` of a context by path with ``/``, and what was found out about it.

    ``about`` are the fields of a :class:`Context` but its path, ``missing`` says what a model or
    the script cannot do without and nothing provides.
    """

    files: Mapping[str, bytes | Path]
    document: Document
    about: Mapping[str, Any]
    requirements: str
    python: str
    wheels: tuple[Path, ...]
    warnings: tuple[str, ...]
    missing: tuple[str, ...] = ()


def files_of(specification: Specification, model: PackagedModel) -> list[ModelFile]:
    """The files of a model; without a script also what its one file needs of what lies beside it.

    Raises:
        PackagingError: as :func:`.model_files.model_files`, of which they are.
    """
    own = model_files(model)
    if specification.entry_script is not None or os.path.isdir(model.path):
        return own
    place = own[0].target.removesuffix(model.path.name)
    more = [ModelFile(f"{place}{name}", path) for name, path in beside(model.path)]
    return [*own, *(each for each in more if each.target != own[0].target)]


def contents(specification: Specification, *, leave_out: Collection[Path] = ()) -> Contents:
    """What the context of a package holds beside its models.

    Args:
        specification: what is to be packaged.
        leave_out: folders that are not taken from the source folder: the output itself. Nor is
            what is made beside them for them, ``.<name>.tmp-…``.

    Raises:
        PackagingError: an input is wrong; the message says which and what is allowed.
    """
    _check(specification)
    specification = replace(specification, environment=_environment(specification))
    environment = specification.environment
    notes: list[str] = []
    script = specification.entry_script
    source = source_files(specification, leave_out, warn=notes.append) if script else []
    source = [(name, path) for name, path in source if not _is_temporary(name, leave_out)]
    secret_texts.check(source)
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
    try:
        document = _document(specification, settings, required, files)
    except OSError as error:
        raise PackagingError(f"{error.filename} cannot be read: {error.strerror}.") from error
    about = {
        "target": specification.target,
        "triggers": specification.triggers,
        "models": document.models,
        "settings": settings,
        "required": required,
        "source_files": tuple(name for name, _ in source),
    }
    missing, rest = _missing(specification, source, requirements.splitlines())
    warnings = (
        *environment.notes,
        *notes,
        *unknown_settings(specification),
        *_packaged_twice(specification, source),
        *_misplaced(specification),
        *missing,
        *rest,
    )
    python, wheels = document.python, environment.wheels
    return Contents(files, document, about, requirements, python, wheels, warnings, missing)


def _missing(
    specification: Specification, source: list[tuple[str, Path]], requirements: list[str]
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
    files, needed, folders = [*source], {*pickled}, list[Path]()
    if script is None:
        for model in (each for each in models if each.kind != MLFLOW):
            own = [(f.target.split("/", 3)[3], f.path) for f in files_of(specification, model)]
            files += own
            needed |= set() if os.path.isdir(model.path) else {name for name, _ in own}
    else:
        needed |= reached(specification)
        folders = [
            Path(os.path.abspath(each)).parent for each in (*(m.path for m in models), script)
        ]
        folders.append(specification.source_dir or Path())
    found = uncovered(files, requirements, pickled=pickled, folders=folders)
    if specification.environment.base_image:
        needed = set()
    missing = tuple(sentence for sentence, name in found.items() if name in needed)
    return missing, [sentence for sentence in found if sentence not in missing]


def _environment(specification: Specification) -> Environment:
    """The user's, with the wheels and notes that MLflow models bring, and their Python."""
    said, own = specification.environment, models_environment(specification)
    return replace(
        said,
        python=said.python or own.python,
        wheels=tuple(dict.fromkeys((*said.wheels, *own.wheels))),
        notes=(*said.notes, *own.notes),
    )


def _packaged_twice(
    specification: Specification, source: Iterable[tuple[str, Path]]
) -> Iterator[str]:
    """A warning for each model in the source folder: the script may open it there, or not.

    In a model's folder that holds the script too, there is nothing to leave out.
    """
    if not specification.models or not source:
        return
    taken, script = (
        {_identity(path): name for name, path in source},
        entry_script_name(specification),
    )
    for model in specification.models:
        files = files_of(specification, model)
        twice = [taken[each] for file in files if (each := _identity(file.path)) in taken]
        if twice and script not in twice:
            yield (
                f"The model {model.name} at {model.path} is in the source folder too, so it is "
                "packaged twice: name it in .scoringignore unless the script opens it there."
            )


def _misplaced(specification: Specification) -> Iterator[str]:
    for each in specification.models if specification.entry_script else ():
        names = [file.target.split("/", 3)[3] for file in model_files(each)]
        folder = each.path if each.folder else each.path / names[0].partition("/")[0]
        yield from misplaced(specification, f"{each.name}={folder}/.", names)


def _identity(path: Path) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_dev, about.st_ino


def _is_temporary(name: str, outputs: Iterable[Path]) -> bool:
    """Whether it is what another run makes at this moment, for one of these outputs."""
    return any(f".{output.name}.tmp-" in name for output in outputs)


def _check_model_texts(specification: Specification) -> None:
    """Text files of models, such as config.json, may hold a secret too."""
    for model in specification.models:
        again = ", and register it again" if model.registered else ""
        advice = f"take it out of the model, {model.path}{again}."
        secret_texts.check(files_of(specification, model), advice)


def resolved(content: Contents, previous: Document | None, resolve: bool) -> Document:
    """The document with what pip says; it is not asked twice about the same requirements.

    Args:
        content: what is to be packaged.
        previous: the document of the context that is there.
        resolve: ask pip unless it is known what it says.

    Raises:
        PackagingError: the requirements cannot be installed; the message says why.
    """
    known = previous if previous is not None and _asks_the_same(previous, content) else None
    if resolve and (known is None or not known.resolved or known.warnings):
        found = resolution.check(content.requirements, content.python, content.wheels)
        return replace(content.document, resolved=True, warnings=found)
    if known is not None:
        return replace(content.document, resolved=known.resolved, warnings=known.warnings)
    return content.document


def _asks_the_same(previous: Document, content: Contents) -> bool:
    return _asked(previous) == _asked(content.document)


def _asked(document: Document) -> tuple[str, dict[str, str]]:
    names = ("requirements.txt", f"{WHEELS}/")
    files = {name: each for name, each in document.files.items() if name.startswith(names)}
    return document.python, files


def _check(specification: Specification) -> None:
    if specification.target not in TARGETS:
        raise PackagingError(
            f"There is no target {specification.target!r}. Allowed: {', '.join(TARGETS)}."
        )
    for trigger in specification.triggers:
        if trigger not in _TRIGGERS:
            raise PackagingError(
                f"There is no trigger {trigger!r}. Allowed: {', '.join(_TRIGGERS)}."
            )
    identities = _identities(specification)
    for identity in identities:
        if identities.count(identity) > 1:
            raise PackagingError(f"The model {identity} is given twice.")
    if specification.entry_script is None:
        _check_models_alone(specification)


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
    files = (each.path for m in specification.models for each in files_of(specification, m))
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
            system=_system_packages(specification, requirements),
            **inside,
        ),
        ".dockerignore": dockerignore(),
        "requirements.txt": requirements,
        "host.json": host_files.host_json(settings_of(specification)),
        "function_app.py": host_files.FUNCTION_APP,
        "local.settings.json": host_files.local_settings(
            image_settings(specification, ""), required
        ),
        "app-settings.json": host_files.app_settings(settings, required),
    }
    return {name: text.encode() for name, text in texts.items()}


def _identities(specification: Specification) -> tuple[str, ...]:
    return tuple(f"{model.name}:{model.version}" for model in specification.models)


def _runtime_files() -> dict[str, bytes | Path]:
    folder = Path(__file__).parent.parent
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".typed")]
    return {f"{RUNTIME}/{path.relative_to(folder).as_posix()}": path for path in found}


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
