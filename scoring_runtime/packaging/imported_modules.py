"""What Python files import and pickles name, and which of it an image would lack."""

from __future__ import annotations

import re
import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from ..script import import_aliases
from .environments_names import RETIRED
from .environments_names import canonical as _normal
from .import_statements import Import, imports_of

# Top-level modules whose distribution has another name.
_OTHER_NAMES = """
    Crypto=pycryptodome MySQLdb=mysqlclient OpenSSL=pyopenssl PIL=pillow attr=attrs
    bs4=beautifulsoup4 bson=pymongo cv2=opencv-python-headless dateutil=python-dateutil
    docx=python-docx dotenv=python-dotenv faiss=faiss-cpu fitz=pymupdf git=gitpython grpc=grpcio
    imblearn=imbalanced-learn jwt=pyjwt kafka=kafka-python magic=python-magic
    pkg_resources=setuptools psycopg2=psycopg2-binary pythonjsonlogger=python-json-logger
    pywt=pywavelets serial=pyserial skimage=scikit-image sklearn=scikit-learn
    skopt=scikit-optimize umap=umap-learn win32api=pywin32 yaml=pyyaml zmq=pyzmq
"""
_DISTRIBUTIONS = dict(each.split("=") for each in _OTHER_NAMES.split())
# Other distributions that bring the same module.
_ALSO = {
    "cv2": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "faiss": ("faiss-gpu",),
    "mlflow": ("mlflow-skinny",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "psycopg2": ("psycopg2",),
    "tensorflow": ("tensorflow-cpu", "tensorflow-gpu", "intel-tensorflow"),
    "tflite_runtime": ("tflite-runtime",),
    "xgboost": ("xgboost-cpu",),
}
# What these bring, for the case that they are not installed where the image is made.
_BROUGHT = """
    catboost: numpy pandas scipy
    inference-schema: numpy pandas python-dateutil pytz wrapt
    keras opencv-python opencv-python-headless scipy: numpy
    lightgbm xgboost: numpy scipy
    mlflow: numpy pandas pyyaml requests scikit-learn scipy
    onnx onnxruntime: numpy protobuf
    pandas: numpy python-dateutil pytz
    scikit-image: numpy scipy pillow networkx
    scikit-learn: numpy scipy joblib threadpoolctl
    spacy: numpy requests
    statsmodels: numpy scipy pandas patsy
    tensorflow tensorflow-cpu: numpy keras protobuf requests
    torchvision: torch numpy pillow
    transformers: numpy pyyaml requests tqdm huggingface-hub
"""
_BRINGS = {
    name: line.partition(":")[2].split()
    for line in _BROUGHT.strip().splitlines()
    for name in line.partition(":")[0].split()
}
# Folders of many distributions, each of which is named like its module, and how long that is.
_NAMESPACES = {"azure": 3, "google": 3, "azureml": 2, "mpl_toolkits": 1}
_NAMESPACE_DISTRIBUTIONS = {
    "azure.functions": "azure-functions",
    "azure.identity": "azure-identity",
    "azure.core": "azure-core",
    "azure.servicebus": "azure-servicebus",
    "azure.eventhub": "azure-eventhub",
    "azure.cosmos": "azure-cosmos",
    "azureml.ai.monitoring": "azureml-ai-monitoring",
    "azureml.data": "azureml-core",
    "google.protobuf": "protobuf",
    "google.auth": "google-auth",
    "google.oauth2": "google-auth",
    "mpl_toolkits": "matplotlib",
}
_OF_THE_IMAGE = {"scoring_runtime", "entry_module", "__main__"}
_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)\s*(?:\[([^]]*)\])?\s*(?=$|[\s;@=<>!~(,])")
_FILE_NAME = re.compile(r"(?:^|/)([A-Za-z0-9][\w.-]*?)-\d[^/]*\.(?:whl|tar\.gz|zip)(?=$|[\s#;?])")
_EGG = re.compile(r"#(?:[^\s]*&)?egg=([\w.-]+)")
_REPOSITORY = re.compile(r"/([\w.-]+?)(?:\.git)?(?:@[^/\s]*)?(?:#\S*)?\s*$")


def uncovered(
    files: Iterable[tuple[str, Path]],
    requirements: Iterable[str],
    *,
    pickled: Mapping[str, Iterable[str]] = MappingProxyType({}),
    folders: Iterable[Path] = (),
) -> dict[str, str]:
    """A sentence for each module that the image would lack, with the file or pickle that needs it.

    Each is the first place of a module that is not of the standard library, not among the files,
    not answered by :mod:`scoring_runtime.script.import_aliases` and not brought by a requirement,
    or by what that requires in turn, as far as it is known here. A file that cannot be parsed is
    passed over.

    Args:
        files: ``(path below the source folder with /, path)``.
        requirements: lines of a pip requirements file.
        pickled: the modules that pickles name, by what messages call those.
        folders: where modules of the user's own may lie that are not among the files.
    """
    ordered = sorted(files)
    local = _local_modules(name for name, _ in ordered)
    provided, places = _provided(requirements), list(folders)
    wanted = [
        (name, f"line {each.line} imports", module)
        for name, path in ordered
        for each in _imports_of_file(name, path)
        for module in _absolute(each)
    ]
    wanted += [(name, "needs", each) for name, modules in pickled.items() for each in modules]
    found: dict[str, tuple[str, str]] = {}
    for name, verb, module in wanted:
        if module.partition(".")[0] in local or _is_known(module) or _is_provided(module, provided):
            continue
        package = _distribution(module)
        advice = _advice(module, package, places)
        found.setdefault(package, (f"{name} {verb} {_shown(module)}, {advice}", name))
    return dict(found.values())


def _advice(module: str, package: str, folders: Iterable[Path]) -> str:
    """What somebody else has registered under the name of an own module is never named."""
    top = module.partition(".")[0]
    own = (f for f in folders if (f / f"{top}.py").is_file() or any((f / top).glob("*.py")))
    if folder := next(own, None):
        return (
            f"which lies in {folder} and is not packaged: take it along with --source-dir, or put "
            "it beside the entry script."
        )
    if package in RETIRED:
        return f"a part of {package} that this runtime does not have: do without it."
    return f"which no requirement provides: add --pip-package {package}."


def _imports_of_file(name: str, path: Path) -> list[Import]:
    if not name.endswith(".py"):
        return []
    try:
        return imports_of(path.read_bytes(), name)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []


# --- modules --------------------------------------------------------------------------------------


def _local_modules(names: Iterable[str]) -> set[str]:
    """Every file and folder of code, at any depth: files extend ``sys.path`` as they like."""
    code = (name for name in names if name.endswith((".py", ".so", ".pyd")))
    return {part.partition(".")[0] for name in code for part in name.split("/")}


def _absolute(each: Import) -> list[str]:
    """The modules a file cannot do without, by their full names; for most the first part counts."""
    if each.level or each.guarded:
        return []
    if each.module.partition(".")[0] not in _NAMESPACES:
        return [each.module]
    of_azureml = each.module.startswith("azureml")  # of others a class is no module
    names = [name for name in each.names if name.islower() or (of_azureml and name != "*")]
    return [f"{each.module}.{name}" for name in names] or [each.module]


def _is_known(module: str) -> bool:
    top = module.partition(".")[0]
    standard = top in sys.stdlib_module_names or top in IMPORT_MAPPING
    return standard or top in _OF_THE_IMAGE or import_aliases.answers(module)


def _prefixes(module: str) -> list[str]:
    """``a.b.c``, ``a.b``, ``a``."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _is_provided(module: str, provided: set[str]) -> bool:
    top = module.partition(".")[0]
    if top in _NAMESPACES:
        return not provided.isdisjoint({*map(_normal, _prefixes(module)), _distribution(module)})
    usual = {_normal(top), _distribution(module), *_ALSO.get(top, ())}
    return not provided.isdisjoint(usual) or not provided.isdisjoint(_installed().get(top, ()))


def _distribution(module: str) -> str:
    """The package to install for a module."""
    top = module.partition(".")[0]
    if top not in _NAMESPACES:
        installed = sorted(_installed().get(top, ()))
        return _DISTRIBUTIONS.get(top) or (installed[0] if len(installed) == 1 else _normal(top))
    listed = (each for each in _prefixes(module) if each in _NAMESPACE_DISTRIBUTIONS)
    return _NAMESPACE_DISTRIBUTIONS.get(next(listed, ""), _normal(_shown(module)))


def _shown(module: str) -> str:
    parts = module.split(".")
    listed = (each for each in _prefixes(module) if each in _NAMESPACE_DISTRIBUTIONS)
    return next(listed, ".".join(parts[: _NAMESPACES.get(parts[0], 1)]))


@cache
def _installed() -> Mapping[str, frozenset[str]]:
    """Top-level modules that are installed here, and the distributions that bring them."""
    found = metadata.packages_distributions()
    return {module: frozenset(map(_normal, names)) for module, names in found.items()}


# --- requirements ---------------------------------------------------------------------------------


def _provided(requirements: Iterable[str]) -> set[str]:
    """The distributions that are named, and those they require in turn."""
    waiting = [named for line in requirements if (named := _named(line))]
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting.extend(_required(*each))
    return {name for name, _ in found}


def _required(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        yield from ((each, frozenset()) for each in _BRINGS.get(name, ()))
        return
    for line in lines:
        wanted = re.findall(r"""extra\s*==\s*["']([^"']+)""", line.partition(";")[2])
        named = _named(line)
        if named and (not wanted or not extras.isdisjoint(map(_normal, wanted))):
            yield named


def _named(line: str) -> tuple[str, frozenset[str]] | None:
    """The distribution that a line of a requirements file names, and its extras."""
    text = re.sub(r"(^|\s)#.*", "", re.sub(r"^\s*(-e|--editable)[\s=]+", "", line)).strip()
    if match := _REQUIREMENT.match(text):
        return _normal(match[1]), frozenset(
            _normal(each.strip()) for each in (match[2] or "").split(",")
        )
    if not text or text.startswith("-"):
        return None
    place = _FILE_NAME.search(text) or _EGG.search(text) or _REPOSITORY.search(text)
    return (_normal(place[1]), frozenset()) if place else None
