"""``requirements.txt`` of a build context: what the runtime, the models and the user need.

The ranges are those of the extras in ``pyproject.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import PackagingError
from ..models.kinds import (
    LIGHTGBM,
    MLFLOW,
    ONNX,
    SKLEARN,
    UNKNOWN,
    XGBOOST,
    candidates,
    mlflow_versions,
    written_with,
)
from .environment.conda import from_conda
from .environment.files import parse_yaml, read_text, shown
from .environment.names import name_of
from .environment.pip import from_requirements, merged
from .specification import (
    DEFAULT_PYTHON,
    FUNCTIONS,
    STANDALONE,
    Environment,
    PackagedModel,
    Specification,
)

_OF_MODELS = ("joblib", "mlflow", "mlflow-skinny", "numpy", "onnxruntime", "pandas", "scikit-learn")
REPLACEABLE = frozenset((*_OF_MODELS, "inference-schema", "redis"))
"""Packages that are here for a model's or a script's sake: the user's own line takes their place.

Beside a line for any other package that the runtime cannot do without, ours stays.
"""

_BASE = ("orjson>=3.10,<4", "prometheus-client>=0.20,<1", "werkzeug>=3,<4", "numpy>=1.26")
_SERVER = (
    "uvicorn>=0.30",
    "httptools>=0.6",
    "uvloop>=0.19; platform_system != 'Windows'",
    "watchfiles>=1.0",
)
_IDENTITY = ("aiohttp>=3.9", "azure-identity>=1.15")
_HOSTS: Mapping[str, tuple[str, ...]] = {
    FUNCTIONS: ("azure-functions>=1.21,<3",),
    STANDALONE: _SERVER,
}
# The Functions host itself reads and writes blobs; standalone does it through the SDK.
_TRIGGERS: Mapping[tuple[str, str], tuple[str, ...]] = {
    (STANDALONE, "blob"): ("azure-storage-blob>=12.26", *_IDENTITY),
    (STANDALONE, "service_bus"): ("azure-servicebus>=7.12.3,<8", *_IDENTITY),
    (FUNCTIONS, "service_bus"): ("azure-servicebus>=7.12.3,<8", *_IDENTITY),
}
_CACHE = ("redis>=5.1",)
_STORAGE = ("azure-storage-blob>=12.26", *_IDENTITY)
_OTEL = ("opentelemetry-sdk>=1.30,<2", "opentelemetry-exporter-otlp-proto-http>=1.30,<2")
_BY_SETTING: Mapping[str, tuple[str, ...]] = {
    "SCORING_ENTRA_TENANT": ("pyjwt[crypto]>=2.14,<3",),
    "SCORING_RECORD": _STORAGE,
    "SCORING_RECORD_CONNECTION": _STORAGE,
    "OTEL_EXPORTER_OTLP_ENDPOINT": _OTEL,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": _OTEL,
}
_SCRIPT = ("inference-schema>=1.7", "joblib>=1.3")
# A model fitted on a table is called with one when no script does it; only loading it would tell.
_TABLES = "tables"
_KINDS: Mapping[str, tuple[str, ...]] = {
    SKLEARN: ("scikit-learn>=1.3", "joblib>=1.3"),
    _TABLES: ("pandas>=2",),
    ONNX: ("onnxruntime>=1.17",),
    XGBOOST: ("xgboost>=1.7", "scikit-learn>=1.3", "pandas>=2"),
    LIGHTGBM: ("lightgbm>=4", "pandas>=2"),
    MLFLOW: ("mlflow-skinny>=3,<4", "pandas>=2"),
}
_PINNED: Mapping[str, tuple[str, ...]] = {
    SKLEARN: ("scikit-learn", "joblib", "numpy"),
    ONNX: ("onnxruntime",),
    UNKNOWN: ("scikit-learn",),
    XGBOOST: ("xgboost",),
    LIGHTGBM: ("lightgbm",),
}
# The first versions whose wheels were built for numpy 2, of packages whose earlier metadata do not
# say that they need numpy 1: https://github.com/numpy/numpy/issues/26191
_FIRST = """
    h5py=3.11 onnxruntime=1.19 opencv-contrib-python=4.10.0.84 opencv-python=4.10.0.84
    opencv-python-headless=4.10.0.84 pandas=2.2.2 pyarrow=16 scikit-image=0.23.1
    scikit-learn=1.4.2 statsmodels=0.14.2 torch=2.3
"""
_BUILT_FOR_NUMPY_2 = dict(each.split("=") for each in _FIRST.split())
_OTHER_NAMES = {
    "mlflow": "mlflow-skinny",
    "mlflow-skinny": "mlflow",
    "onnxruntime-gpu": "onnxruntime",
    "onnxruntime-openvino": "onnxruntime",
}
_MLFLOW_LINE = re.compile(r"mlflow(-skinny)?\s*==\s*(\d+)\.(\d+)(.*)")
_FIRST_MLFLOW = (2, 10)
"""The first version of mlflow whose server reads bodies as the runtime asks it to."""
_OWN_CODE = ("mlflow.pyfunc.model", "mlflow.pyfunc.loaders.code_model")
"""Loaders of models that are code, which may import any part of mlflow."""
_PLAIN = re.compile(r"(?P<package>[\w.-]+(?:\[[^]]*\])?)(?P<marker>\s*;.*)?")


def runtime_requirements(
    target: str,
    triggers: Iterable[str],
    *,
    script: bool,
    kinds: Iterable[str] = (),
) -> tuple[str, ...]:
    """What the runtime needs for a target; ``kinds`` are of models without a script."""
    lines = [*_BASE, *_HOSTS[target], *_CACHE]
    for trigger in triggers:
        lines += _TRIGGERS.get((target, trigger), ())
    lines += _SCRIPT if script else ()
    for kind in kinds:
        lines += _KINDS.get(kind, ())
    return tuple(sorted(dict.fromkeys(lines), key=_order))


def requirements_text(specification: Specification) -> str:
    """The whole ``requirements.txt``: the same text for the same requirements in any order.

    A line of the user's without a version or an address is held to the one version that the models
    were written with, if they were: ``scikit-learn`` becomes ``scikit-learn==1.3.2``, with its
    extras and marker, as others may fail to load them. But mlflow loads those of older versions.
    Beside a version that the user says, only what a pickle says of itself is held. A pickle of
    scikit-learn's gets its version whatever else is named, and wheels that were built for numpy 1
    get that.

    Raises:
        PackagingError: models without a script need different versions of one package, or the
            files of an MLflow model cannot be used.
    """
    user = specification.environment
    pinned = {name_of(line) for line in user.requirements if not _PLAIN.fullmatch(line)}
    fitting = tuple(_beside(pinned, each) for each in specification.models)
    specification = replace(specification, models=fitting)
    models, kinds = _of_models(specification)
    own = merged(*(environment for _, environment in models))
    named = _named(user)
    of_models = _by_model(models, named)
    runtime = _of_runtime(specification, specification.target, kinds)
    taken = _with_other_names(named | {name_of(each) for each in of_models})
    needed = [each for each in runtime if name_of(each) not in taken & REPLACEABLE]
    triggers = ", ".join(specification.triggers) or "all"
    held = _held(user.requirements, specification.models)
    parts = {
        "Where pip looks": {*user.options, *own.options},
        f"The runtime: target {specification.target}, triggers {triggers}": needed,
        "The models, by the versions that wrote them": of_models,
        "The environment of the package": held,
        "For wheels that were built for numpy 1": _numpy_1([*of_models, *held]),
    }
    return "\n".join(_parts(parts))


def other_requirements(specification: Specification) -> dict[str, tuple[str, ...]]:
    """What the image of each other target needs beside the text, without markers.

    Raises:
        PackagingError: as :func:`requirements_text`.
    """
    kinds = _of_models(specification)[1]
    own = set(_of_runtime(specification, specification.target, kinds))
    others = (target for target in _HOSTS if target != specification.target)
    return {
        other: tuple(
            line.partition(";")[0].strip()
            for line in _of_runtime(specification, other, kinds)
            if line not in own
        )
        for other in others
    }


def models_environment(specification: Specification) -> Environment:
    """What the MLflow models bring that is no line of the text: wheels, notes, Python.

    Raises:
        PackagingError: their files cannot be used.
    """
    return merged(*(environment for _, environment in _of_models(specification)[0]))


def _of_runtime(specification: Specification, target: str, kinds: Iterable[str]) -> tuple[str, ...]:
    """A standalone image without triggers named takes every one whose connection is set."""
    every = ("http", "blob", "service_bus") if target == STANDALONE else ("http",)
    script = specification.entry_script is not None
    triggers = specification.triggers or every
    lines = runtime_requirements(target, triggers, script=script, kinds=kinds)
    said = dict(specification.environment.variables)
    if "://" not in said.get("SCORING_RECORD", ""):  # in a folder
        said.pop("SCORING_RECORD", None)
    more = [line for name, needed in _BY_SETTING.items() if name in said for line in needed]
    return tuple(dict.fromkeys((*lines, *more)))


def _parts(parts: Mapping[str, Iterable[str]]) -> Iterator[str]:
    yield "# What pip installs into the image.\n"
    for title, lines in parts.items():
        unique = sorted(set(lines), key=_order)
        if unique:
            yield f"# {title}.\n" + "".join(f"{line}\n" for line in unique)


def _order(line: str) -> tuple[str, str]:
    return name_of(line), line


# --- models ---------------------------------------------------------------------------------------

_Models = list[tuple[PackagedModel, Environment]]


def _of_models(specification: Specification) -> tuple[_Models, list[str]]:
    """The models that need packages of their own, with those, and their kinds.

    With a script it is the user's environment that says what the script needs; only where there is
    none is it taken from the models, but for the scikit-learn that wrote a pickle.
    """
    user, script = specification.environment, specification.entry_script is not None
    models: _Models = []
    kinds: list[str] = []
    if script and (user.requirements or user.wheels):
        for each in specification.models:
            written = written_with(each.path)
            lines = (f"scikit-learn=={written}",) if written else ()
            models.append((each, Environment(requirements=lines)))
        return models, kinds
    for model in specification.models:
        environment, kind = _of_model(model, script)
        models.append((model, environment))
        kinds += [kind, _TABLES] if kind == SKLEARN and not script else [kind]
    return models, kinds


def _of_model(model: PackagedModel, script: bool) -> tuple[Environment, str]:
    if model.kind == MLFLOW:
        return _of_mlflow(model.path, script), MLFLOW
    libraries = ((name, model.libraries.get(name)) for name in _PINNED.get(model.kind, ()))
    pins = (f"{name}=={_public(model, name, text)}" for name, text in libraries if text)
    return Environment(requirements=tuple(pins)), model.kind


def _beside(pinned: set[str], model: PackagedModel) -> PackagedModel:
    """The model without what was installed where it comes from, if one of that is pinned."""
    if model.kind == MLFLOW or pinned.isdisjoint(model.libraries):
        return model
    written = written_with(model.path)
    return replace(model, libraries={"scikit-learn": written} if written else {})


def _public(model: PackagedModel, name: str, text: str) -> str:
    """A version without its local part (``1.2+cpu``), which an index does not have."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text).public
    except InvalidVersion as error:
        raise PackagingError(
            f"The model {model.name}:{model.version} says that it was written with {name} "
            f"{shown(text)}, which is no version. Register it again."
        ) from error


def _by_model(models: _Models, named: set[str]) -> list[str]:
    """The lines of all models, less the packages that the user names."""
    wanted: dict[str, dict[str, PackagedModel]] = {}
    for model, environment in models:
        for line in environment.requirements:
            wanted.setdefault(name_of(line), {}).setdefault(line, model)
    lines = {name: by_line for name, by_line in wanted.items() if name not in named}
    for name, by_line in lines.items():
        exact = {line: model for line, model in by_line.items() if _is_exact(line)}
        if len(exact) > 1:
            raise _conflict(name, exact)
    return [line for by_line in lines.values() for line in by_line]


def _numpy_1(lines: list[str]) -> list[str]:
    """``numpy<2`` if a line asks for a version that was built for numpy 1, and none decides it."""
    decided = any(name_of(line) == "numpy" and re.search("[=~<]=|<|@", line) for line in lines)
    return ["numpy<2"] if not decided and any(map(_is_for_numpy_1, lines)) else []


def _is_for_numpy_1(line: str) -> bool:
    from packaging.version import Version

    first = _BUILT_FOR_NUMPY_2.get(name_of(line), "")
    found = re.search(r"(==|<=?)\s*(\d+(?:\.\d+)*)", line.partition(";")[0]) if first else None
    if found is None:
        return False
    highest, known = Version(found[2]), Version(first)
    return highest < known or (highest == known and found[1] == "<")


def _is_exact(line: str) -> bool:
    return "==" in line and not any(each in line for each in (";", "*", ",", "@"))


def _conflict(name: str, exact: Mapping[str, PackagedModel]) -> PackagingError:
    said = ", ".join(
        f"{model.name}:{model.version} was written with {line}" for line, model in exact.items()
    )
    return PackagingError(
        f"The models need different versions of {name}, of which an image has one: {said}. Package "
        f"them apart, save them again with one version, or decide for one: --pip-package {name}==…"
    )


# --- models of mlflow -----------------------------------------------------------------------------


def _of_mlflow(path: Path, script: bool) -> Environment:
    """What the model in a file or folder needs: the packages that mlflow names beside ``MLmodel``
    (https://mlflow.org/docs/latest/ml/model/#model-customization).

    mlflow itself is named without what only its tracking server needs, where the model is of one of
    its flavours; an mlflow that is too old for the runtime is left out for a newer one, which loads
    the same models. For an entry ``script`` it is the one that the folder names.

    Raises:
        PackagingError: one of its files cannot be read, or a line of them cannot be used.
    """
    folder = next((each for kind, each in candidates(path) if kind == MLFLOW), path)
    mlmodel = _mlmodel(folder / "MLmodel")
    named = _named_in(folder)
    if script:
        return named
    return replace(named, requirements=tuple(_fitting(named.requirements, _is_code(mlmodel))))


def _fitting(lines: tuple[str, ...], is_code: bool) -> Iterator[str]:
    for line in lines:
        found = _MLFLOW_LINE.fullmatch(line)
        if found is None:
            yield line
        elif (int(found[2]), int(found[3])) >= _FIRST_MLFLOW:
            # Before 3 its server needed packages that mlflow-skinny does not bring.
            is_light = int(found[2]) >= 3 and not is_code
            yield line.replace("mlflow", "mlflow-skinny", 1) if is_light and not found[1] else line


def _is_code(mlmodel: Mapping[str, Any]) -> bool:
    flavours = mlmodel.get("flavors")
    conf = flavours.get("python_function") if isinstance(flavours, dict) else None
    if not isinstance(conf, dict):
        return True
    return bool(conf.get("code")) or conf.get("loader_module") in _OWN_CODE


def _mlmodel(path: Path) -> Mapping[str, Any]:
    document = parse_yaml(read_text(path), str(path))
    if not isinstance(document, dict):
        raise PackagingError(f"{path} is no MLmodel file, as mlflow writes it.")
    return document


def _named_in(folder: Path) -> Environment:
    """The packages in its files; without files, those whose versions are in MLmodel."""
    requirements, conda = folder / "requirements.txt", folder / "conda.yaml"
    of_conda = from_conda(conda) if conda.is_file() else Environment()
    if requirements.is_file():
        return replace(from_requirements(requirements), python=of_conda.python)
    if conda.is_file():
        return of_conda
    versions = mlflow_versions(folder).items()
    return Environment(requirements=tuple(f"{name}=={version}" for name, version in versions))


# --- the user -------------------------------------------------------------------------------------


def _named(user: Environment) -> set[str]:
    """The packages that the user's lines ask for in the image; other builds of one count as it."""
    python = user.python or DEFAULT_PYTHON
    return _with_other_names(
        {name_of(line) for line in user.requirements if _applies(line, python)}
    )


def _with_other_names(names: set[str]) -> set[str]:
    return names | {_OTHER_NAMES[name] for name in names if name in _OTHER_NAMES}


def _held(lines: Sequence[str], models: Sequence[PackagedModel]) -> list[str]:
    """The lines, those without a version held to the one that the models were written with."""
    names = [name_of(line) for line in lines]
    return [
        _held_line(line, _written_with(name, models)) if names.count(name) == 1 else line
        for name, line in zip(names, lines, strict=True)
    ]


def _held_line(line: str, versions: set[str]) -> str:
    plain = _PLAIN.fullmatch(line)
    if plain is None or len(versions) != 1:
        return line
    return f"{plain['package']}=={versions.pop()}{plain['marker'] or ''}"


def _written_with(name: str, models: Iterable[PackagedModel]) -> set[str]:
    return {
        _public(model, name, model.libraries[name])
        for model in models
        if name in _PINNED.get(model.kind, model.libraries.keys() - {"mlflow"})
        and model.libraries.get(name)
    }


def _applies(line: str, python: str) -> bool:
    """Whether the line's marker is true in the image: Linux, and its version of Python."""
    from packaging.markers import InvalidMarker, Marker

    marker = line.partition(" ; " if "@" in line or line.startswith("./") else ";")[2]
    place = {"python_version": python, "python_full_version": f"{python}.0", "os_name": "posix"}
    linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    try:
        return not marker or Marker(marker).evaluate({**place, **linux})
    except InvalidMarker:
        return True
