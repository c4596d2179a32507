"""``azureml.core.workspace``: a workspace is a folder, found by a small file as the old one was.

``config.json`` or ``.azureml/config.json`` names it: ``{"folder": "…"}``, relative to the project's
folder, or the three keys of the old file. The latter stand for ``.azureml/<workspace_name>`` in the
project's folder, the one that holds ``config.json`` or ``.azureml``. In the workspace's folder lie
the models, as in the registry, and a hidden one for environments and packages.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import UserErrorException, WorkspaceException

if TYPE_CHECKING:
    from ...models.model import Model
    from .datastore import Datastore
    from .environment import Environment
    from .webservice import Webservice

_NAME = re.compile(r"[^./\\][^/\\]*")
_CONFIG_FOLDERS = (".azureml", "aml_config")
_CONFIG_NAME = "config.json"
_OLD_KEYS = ("subscription_id", "resource_group", "workspace_name")


class Workspace:
    """A folder with models, environments and services.

    Args:
        subscription_id: kept, as is ``resource_group``, and used for nothing.
        workspace_name: the folder ``.azureml/<workspace_name>`` in the working folder.
        folder: the folder itself.
        auth: for nothing; so is everything else that the old constructor takes.

    Raises:
        WorkspaceException: the name cannot be a folder's.
    """

    def __init__(
        self,
        subscription_id: str = "",
        resource_group: str = "",
        workspace_name: str = "",
        auth: object = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        **unused: object,
    ) -> None:
        self.subscription_id, self.resource_group = subscription_id, resource_group
        self.folder = _folder(Path.cwd(), workspace_name, folder)
        self.name = workspace_name or self.folder.name
        self.location = "local"

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str] | None = None,
        auth: object = None,
        _logger: object = None,
        _file_name: str | None = None,
    ) -> Workspace:
        """The workspace of a project: the file at ``path``, or the first one from that folder, or
        the working folder, upwards.

        Raises:
            UserErrorException: there is no such file, or it names no workspace.
        """
        start = Path(os.path.abspath(path or "."))
        name = _file_name or _CONFIG_NAME
        found = start if start.is_file() else next(_config_files(start, name), None)
        if found is None:
            raise UserErrorException(
                f"There is no {name} and no .azureml/{name} in {start} or a folder above it: write "
                'one with {"folder": "<the models\' folder>"}, or with subscription_id, '
                "resource_group and workspace_name."
            )
        return cls._from(found)

    @classmethod
    def _from(cls, where: Path) -> Workspace:
        document, project = _document(where), _project(where)
        if not document.get("folder") and not document.get("workspace_name"):
            raise UserErrorException(
                f'{where} names no workspace: expected is {{"folder": "…"}}, or subscription_id, '
                "resource_group and workspace_name."
            )
        folder = _folder(project, document.get("workspace_name", ""), document.get("folder"))
        said = {key: document.get(key, "") for key in _OLD_KEYS}
        return cls(**said, folder=folder)

    @classmethod
    def get(
        cls,
        name: str,
        auth: object = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        **unused: object,
    ) -> Workspace:
        """The workspace of this name in the working folder; WorkspaceException if none is."""
        workspace = cls(subscription_id or "", resource_group or "", name)
        if not workspace.folder.is_dir():
            raise WorkspaceException(
                f"There is no workspace {name} here: {workspace.folder} does not exist. Make it "
                "with Workspace.create."
            )
        return workspace

    @classmethod
    def create(
        cls,
        name: str,
        auth: object = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        location: str | None = None,
        *,
        exist_ok: bool = False,
        **unused: object,
    ) -> Workspace:
        """Make the folder ``.azureml/<name>`` in the working folder.

        Raises:
            WorkspaceException: it is there already, unless ``exist_ok``, or cannot be made.
        """
        workspace = cls(subscription_id or "", resource_group or "", name)
        try:
            workspace.folder.mkdir(parents=True, exist_ok=exist_ok)
        except FileExistsError as error:
            raise WorkspaceException(
                f"The workspace {name} exists already in {workspace.folder}: pass exist_ok=True to "
                "take it as it is."
            ) from error
        except OSError as error:
            raise WorkspaceException(
                f"The workspace {name} cannot be made in {workspace.folder}: {error.strerror}."
            ) from error
        return workspace

    def write_config(
        self, path: str | os.PathLike[str] | None = None, file_name: str | None = None
    ) -> None:
        """Write ``.azureml/config.json`` in ``path``, or in the working folder."""
        project = Path(os.path.abspath(path or "."))
        values = (self.subscription_id, self.resource_group, self.name)
        document = dict(zip(_OLD_KEYS, values, strict=True))
        if self.folder != _folder(project, self.name, None):
            document["folder"] = str(self.folder)
        place = project / _CONFIG_FOLDERS[0] / (file_name or _CONFIG_NAME)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")

    def get_details(self) -> dict[str, Any]:
        """What is known of it: its names and its folder."""
        return {
            "id": str(self.folder),
            "name": self.name,
            "location": self.location,
            "subscriptionId": self.subscription_id,
            "resourceGroup": self.resource_group,
            "folder": str(self.folder),
        }

    @property
    def models(self) -> dict[str, Model]:
        """The highest version of each registered model, by its name."""
        from . import model

        return {each.name: each for each in model.Model.list(self, latest=True)}

    @property
    def environments(self) -> dict[str, Environment]:
        """The highest version of each registered environment, by its name."""
        from .environment import Environment

        return Environment.list(self)

    @property
    def webservices(self) -> dict[str, Webservice]:
        """The services that were deployed, by name."""
        from .webservice import Webservice

        return {each.name: each for each in Webservice.list(self)}

    @property
    def datastores(self) -> dict[str, Datastore]:
        """The only datastore, a folder of the workspace, by its name."""
        store = self.get_default_datastore()
        return {store.name: store}

    def get_default_datastore(self) -> Datastore:
        """The only one."""
        from .datastore import Datastore

        return Datastore(self)

    def get_mlflow_tracking_uri(self) -> str:
        """Where MLflow keeps its runs: a database in the workspace's folder."""
        place = self.folder.absolute() / ".azureml" / "mlflow.db"
        place.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{place}"

    @property
    def experiments(self) -> dict[str, Any]:
        """None: MLflow keeps those of programs that log to :meth:`get_mlflow_tracking_uri`."""
        return {}

    @property
    def compute_targets(self) -> dict[str, Any]:
        """None: there are no clusters here."""
        return {}

    def __repr__(self) -> str:
        return f"Workspace(name={self.name!r}, folder={str(self.folder)!r})"


def _folder(project: Path, name: str, folder: str | os.PathLike[str] | None) -> Path:
    if folder:
        return Path(os.path.abspath(project / Path(folder).expanduser()))
    if name.isdecimal() or not _NAME.fullmatch(name):
        raise WorkspaceException(
            f"{name!r} is not a name for a workspace: it becomes a folder's, so expected is a text "
            "without slashes that does not begin with a dot and is not digits alone."
        )
    return project / _CONFIG_FOLDERS[0] / name


def _config_files(start: Path, name: str) -> Iterator[Path]:
    for folder in (start, *start.parents):
        places = (*(folder / each / name for each in _CONFIG_FOLDERS), folder / name)
        yield from (each for each in places if each.is_file())


def _project(config: Path) -> Path:
    return config.parent.parent if config.parent.name in _CONFIG_FOLDERS else config.parent


def _document(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserErrorException(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserErrorException(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise UserErrorException(f"{path} is not what is expected: one JSON object of texts.")
    return content
