"""``azureml.core.model.Model`` over a folder: what registration and entry scripts use of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import ModelNotFound, RegistrationError
from . import folder as models
from . import registry
from .manifest import METADATA_FILE, check

_SAMPLE_ROWS = 10


class Model:
    """One version of a registered model.

    The workspace is the registry's folder: a path, or an object whose ``folder`` or ``path`` is.

    Raises:
        ModelNotFound: no such model or version; the message lists what there is.
        ModelDamaged: its metadata cannot be read.
        RegistrationError: the workspace is not a folder.
    """

    class Framework:
        """Names for ``model_framework``."""

        SCIKITLEARN = "ScikitLearn"
        ONNX = "Onnx"
        TENSORFLOW = "TensorFlow"
        CUSTOM = "Custom"
        MULTI = "Multi"

    def __init__(
        self,
        workspace: object,
        name: str | None = None,
        version: int | str | None = None,
        *,
        id: str | None = None,
        tags: Iterable[str | Sequence[str]] | None = None,
    ) -> None:
        if id is not None:
            name, _, of_id = id.partition(":")
            version = of_id or version
        root = folder_of(workspace)
        if tags and version is None:
            found = self.list(workspace, name, tags)
            if not found:
                raise ModelNotFound(f"No model{f' {name}' if name else ''} has the tags {tags!r}.")
            name, version = found[-1].name, found[-1].version
        self._set(root, registry.details(root, name, version))

    def _set(self, root: Path, record: registry.Record) -> None:
        noted = record.manifest
        self._root, self._record = root, record
        self.name, self.version, self.id = record.name, record.version, record.id
        self.description = noted.description
        self.tags, self.properties = dict(noted.tags), dict(noted.properties)
        self.model_framework = noted.framework or None
        self.model_framework_version = noted.framework_version or None
        self.created_time = datetime.fromisoformat(noted.created) if noted.created else None

    @classmethod
    def _of(cls, root: Path, record: registry.Record) -> Model:
        model = cls.__new__(cls)
        model._set(root, record)
        return model

    @classmethod
    def register(
        cls,
        workspace: object,
        model_path: str | Path,
        model_name: str,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        description: str | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        datasets: object = None,
        sample_input_dataset: object = None,
        sample_output_dataset: object = None,
        resource_configuration: object = None,
    ) -> Model:
        """Copy a file or folder into the registry as the next version of ``model_name``.

        A ``sample_input_dataset`` shows what the model takes where there is no script: a file of
        JSON or CSV, a data frame, or a dataset that has ``to_pandas_dataframe()``. What a folder
        has no use for (datasets, resource configuration) is accepted and not kept.

        Raises:
            RegistrationError: as :func:`scoring_runtime.models.registry.register`, or the
                workspace is not a folder.
        """
        root = folder_of(workspace)
        with _sample_file(sample_input_dataset) as sample:
            record = registry.register(
                root,
                model_name,
                model_path,
                tags=tags,
                properties=properties,
                description=description or "",
                framework=model_framework or "",
                framework_version=model_framework_version or "",
                sample=sample,
            )
        return cls._of(root, record)

    @classmethod
    def list(
        cls,
        workspace: object,
        name: str | None = None,
        tags: Iterable[str | Sequence[str]] | None = None,
        latest: bool = False,
    ) -> list[Model]:
        """The registered models by name and version: only those of this ``name``, that have each
        of these ``tags`` (its name, or its name and value), or the ``latest`` of each name.

        Raises:
            RegistrationError: the workspace is not a folder.
        """
        root = folder_of(workspace)
        found = [cls._of(root, record) for record in registry.listing(root)]
        found = [model for model in found if name in (None, model.name)]
        found = [model for model in found if all(model._has(tag) for tag in tags or ())]
        return list({model.name: model for model in found}.values()) if latest else found

    @staticmethod
    def get_model_path(
        model_name: str, version: int | None = None, _workspace: object = None
    ) -> str:
        """The path of a model's file or folder, as text; see ``scoring_runtime.model_path``.

        It is looked for in the workspace if that is a folder, else in the runtime's model folder;
        what is not registered, in the working directory, as azureml-core did.
        """
        try:
            return str(models.model_path(model_name, version, root=_folder_or_none(_workspace)))
        except ModelNotFound:
            if version is None and _workspace is None and Path(model_name).exists():
                return model_name
            raise

    @property
    def path(self) -> Path:
        """The model's file or folder in the registry."""
        return models.entry_of(self._record.path)

    def download(self, target_dir: str | Path = ".", exist_ok: bool = False) -> str:
        """Copy the model's file or folder into ``target_dir``; the path of the copy.

        Raises:
            ModelDamaged: its files are not those that were registered.
            RegistrationError: it is there already, or the copy cannot be written.
        """
        check(self._record.path)
        source = self.path
        target = Path(target_dir) / (self.name if source == self._record.path else source.name)
        if target.exists() and not exist_ok:
            raise RegistrationError(f"{target} exists already: pass exist_ok=True to replace it.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, target)
        except OSError as error:
            raise RegistrationError(f"{self.id} cannot be copied to {target}: {error}.") from error
        return str(target)

    def delete(self) -> None:
        """Delete this version from the registry; ModelNotFound if it is gone already."""
        registry.delete(self._root, self.name, self.version)

    def update(
        self, tags: Mapping[str, object] | None = None, description: str | None = None
    ) -> None:
        """Note these tags in place of those before, and this description."""
        self._set(self._root, registry.note(self._record, tags=tags, description=description))

    def add_tags(self, tags: Mapping[str, object]) -> None:
        """Note these tags beside those that are there."""
        self.update(tags={**self.tags, **tags})

    def remove_tags(self, tags: str | Iterable[str]) -> None:
        """Forget these tags."""
        gone = [tags] if isinstance(tags, str) else [*tags]
        self.update(tags={name: value for name, value in self.tags.items() if name not in gone})

    def add_properties(self, properties: Mapping[str, object]) -> None:
        """Note these properties beside those that are there."""
        said = {**self.properties, **properties}
        self._set(self._root, registry.note(self._record, properties=said))

    def __repr__(self) -> str:
        return f"Model(workspace={str(self._root)!r}, name={self.name!r}, version={self.version})"

    def _has(self, tag: str | Sequence[str]) -> bool:
        if isinstance(tag, str):
            return tag in self.tags
        key, *value = tag
        return key in self.tags and value in ([], [self.tags[key]])


def folder_of(workspace: object) -> Path:
    """The registry's folder that a workspace stands for.

    Raises:
        RegistrationError: it is neither a path nor has one as ``folder`` or ``path``.
    """
    folder = _folder_or_none(workspace)
    if folder is None:
        raise RegistrationError(
            f"{type(workspace).__name__} is no workspace here: expected is the registry's folder, "
            "a text or a path, or an object whose attribute folder or path it is."
        )
    return folder


def _folder_or_none(workspace: object) -> Path | None:
    places = (workspace, getattr(workspace, "folder", None), getattr(workspace, "path", None))
    found = (place for place in places if isinstance(place, (str, os.PathLike)) and str(place))
    return next((Path(place) for place in found), None)


@contextmanager
def _sample_file(dataset: Any) -> Iterator[Path | None]:
    """A dataset's first rows, with the types of its columns, in a file for as long as it takes."""
    if isinstance(dataset, str | os.PathLike):
        yield Path(dataset)
        return
    if hasattr(dataset, "to_pandas_dataframe"):
        dataset = dataset.to_pandas_dataframe()
    if not hasattr(dataset, "to_json"):
        yield None
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, "sample_input.json")
        dataset.head(_SAMPLE_ROWS).to_json(path, orient="table", index=False, double_precision=15)
        yield path


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns(METADATA_FILE)
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
    else:
        shutil.copyfile(source, target)
