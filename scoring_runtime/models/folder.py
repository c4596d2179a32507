"""The folder of registered models that images have, and how a script finds a file in it.

``AZUREML_MODEL_DIR`` is ``…/azureml-models/<name>/<version>`` for one model and
``…/azureml-models`` for several; any other folder is taken as one model without name or version.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from ..errors import ModelNotFound

TREE_LINES = 200
_root: Path | None = None
_in_force: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class RegisteredModel:
    """One version of one model; ``version`` counts from 1."""

    name: str
    version: int
    path: Path


def use_model_dir(
    folder: str | Path | None, in_force: Mapping[str, int] = MappingProxyType({})
) -> None:
    """Set the folder that :func:`model_path` looks in, and the version of each model that is meant
    where none is named, if not the highest; the runtime does it before ``init()``."""
    global _root, _in_force
    _root, _in_force = Path(folder) if folder else None, in_force


def registered(root: Path) -> list[RegisteredModel]:
    """The models below ``root`` in either layout, by name and version; empty for a plain folder.

    A version's folder may have leading zeros. What starts with a dot is no model.
    """
    if is_version_folder(root):
        return [RegisteredModel(root.parent.name, int(root.name), root)]
    found = [model for name in _visible(root) for model in versions_of(name)]
    return sorted(found, key=lambda model: model.name)


def versions_of(name: Path) -> list[RegisteredModel]:
    """The versions in the folder of one model, the highest last."""
    found = [
        RegisteredModel(name.name, int(path.name), path)
        for path in _visible(name)
        if path.name.isdecimal() and path.is_dir()
    ]
    return sorted(found, key=lambda model: (model.version, model.path.name))


def is_version_folder(folder: Path) -> bool:
    """Whether the folder is ``…/<name>/<version>``, one model."""
    return folder.name.isdecimal() and bool(folder.parent.name)


def is_registry(folder: Path) -> bool:
    """Whether the folder is one of several models, or can become it: it is empty or not there."""
    if is_version_folder(folder):
        return False
    if not folder.is_dir():
        return not folder.exists()
    return bool(registered(folder)) or not _visible(folder)


def registered_model(
    root: Path, name: str | None = None, version: int | str | None = None
) -> RegisteredModel:
    """The highest version of ``name`` unless one is named; the only model unless that is named.

    Raises:
        ModelNotFound: no such model or version; the message lists what there is.
    """
    models = registered(root)
    name = _the_only_name(models) if name is None else name
    found = _fitting(models, name, version)
    if not found:
        raise _no_model(root, models, name, version)
    return found[-1]


def model_path(
    name: str | None = None,
    version: int | str | None = None,
    file: str | None = None,
    *,
    root: str | Path | None = None,
) -> Path:
    """Where a model is: the highest version of ``name`` unless one is named.

    Without ``name`` the only model is meant. With ``file`` the path of that file in it; without,
    the model's only file or folder, or its folder when it has several.

    Raises:
        ModelNotFound: no such model, version or file; the message lists what there is.
    """
    return entry_of(model_folder(name, version, root=root), file)


def model_folder(
    name: str | None = None,
    version: int | str | None = None,
    *,
    root: str | Path | None = None,
) -> Path:
    """The folder of the version that :func:`model_path` finds its file in.

    Raises:
        ModelNotFound: no such model or version; the message lists what there is.
    """
    folder = Path(root) if root else _root
    if folder is None:
        raise ModelNotFound(
            "The model folder is not known: set AZUREML_MODEL_DIR (--model-dir), or pass root=."
        )
    return _folder_of(folder, name, version, MappingProxyType({}) if root else _in_force)


def entry_of(model: Path, file: str | None = None) -> Path:
    """The file of this name in a model's folder; without one its only file or folder, or itself.

    It may be in the only folder of the model's.

    Raises:
        ModelNotFound: no such file; the message lists what there is.
    """
    if file is not None:
        for folder in (model, entry_of(model)):  # a folder that was registered keeps its name
            if (folder / file).exists():
                return folder / file
        raise ModelNotFound(
            f"There is no {file} in {model}.{did_you_mean(file, _files(model))}\n" + _shown(model)
        )
    if not model.is_dir():
        return model
    children = _visible(model)
    return children[0] if len(children) == 1 else model


def tree(folder: Path, limit: int = TREE_LINES) -> list[str]:
    """The folder's content, indented, at most ``limit`` lines and one that says it was cut."""
    lines = list(islice(_walk(folder, 0), limit + 1))
    if len(lines) <= limit:
        return lines
    return [*lines[:limit], f"Output Truncated. First {limit} lines shown."]


def _walk(path: Path, depth: int) -> Iterator[str]:
    indent = "    " * depth
    if not path.is_dir():
        yield f"{indent}{path.name}"
        return
    yield f"{indent}{path.name}/"
    try:
        children = sorted(path.iterdir())
    except OSError as error:
        yield f"{indent}    ({error.strerror})"
        return
    for child in children:
        yield from _walk(child, depth + 1)


def _folder_of(
    root: Path, name: str | None, version: int | str | None, in_force: Mapping[str, int]
) -> Path:
    models = registered(root)
    if not models and name in (None, root.name) and version is None:
        return root
    name = _the_only_name(models) if name is None else name
    found = _fitting(models, name, in_force.get(name or "") if version is None else version)
    if found:
        return found[-1].path
    if name is not None and version is None and (root / name).exists():
        return root / name
    raise _no_model(root, models, name, version)


def _the_only_name(models: list[RegisteredModel]) -> str | None:
    names = {model.name for model in models}
    return names.pop() if len(names) == 1 else None


def _fitting(
    models: list[RegisteredModel], name: str | None, version: int | str | None
) -> list[RegisteredModel]:
    """Those of this name and version; a folder that is called just as the version comes alone."""
    wanted = None if version is None else _number(version)
    found = [m for m in models if m.name == name and (version is None or m.version == wanted)]
    exact = [model for model in found if model.path.name == str(version)]
    return exact or found


def _number(version: int | str) -> int | None:
    text = str(version)
    return int(text) if text.isdecimal() else None


def _visible(folder: Path) -> list[Path]:
    """What is in the folder and not hidden; nothing if it is gone, or is no folder."""
    try:
        return [each for each in folder.iterdir() if not each.name.startswith(".")]
    except OSError:
        return []


def _files(model: Path) -> list[str]:
    return [str(path.relative_to(model)) for path in islice(model.rglob("*"), 1000)]


def _no_model(
    root: Path, models: list[RegisteredModel], name: str | None, version: int | str | None
) -> ModelNotFound:
    names = sorted({model.name for model in models})
    if name is None and not models:
        wanted = f"There is no version {version}: this folder holds no registered models."
    elif name is None:
        wanted = f"Several models are registered, name one of: {', '.join(names) or 'none'}."
    else:
        wanted = f"There is no model {name}" + (f" version {version}." if version else ".")
        versions = [str(model.version) for model in models if model.name == name]
        near = did_you_mean(name, names) or _unregistered(root, name)
        wanted += f" It has version {', '.join(versions)}." if versions else near
    named = [f"{model.name}:{model.version}" for model in models]
    hidden = root.is_dir() and not _visible(root)
    there = named[:TREE_LINES] or (["(no models)"] if hidden else [_shown(root)])
    return ModelNotFound("\n".join([f"{wanted} The model folder is {root}:", *there]))


def _unregistered(root: Path, name: str) -> str:
    """What to do with a file or folder of this name that lies there by itself."""
    lying = next((each for each in _visible(root) if each.stem == name != each.name), None)
    if lying is None:
        return ""
    return (
        f" {lying.name} lies there, but not as a registered model, whose layout is "
        f"azureml-models/{name}/1/{lying.name}: scoring-runtime models register -n {name} "
        f"-p {lying}"
    )


def did_you_mean(wanted: str, there: list[str]) -> str:
    """``" Did you mean …?"`` with those whose last part is similar; empty if none is."""
    by_name = {Path(path).name: path for path in there}
    close = [path for path in there if Path(path).name == Path(wanted).name]
    close += [by_name[each] for each in difflib.get_close_matches(Path(wanted).name, by_name)]
    unique = list(dict.fromkeys(close))
    return f" Did you mean {' or '.join(unique)}?" if unique else ""


def _shown(folder: Path) -> str:
    return "\n".join(tree(folder)) if folder.exists() else f"{folder} does not exist"
