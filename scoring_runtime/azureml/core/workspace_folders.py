"""Where a workspace keeps what is no model: in ``.azureml`` beside the models.

The packager takes no such folder out of a source folder that the workspace is in.
"""

from __future__ import annotations

from pathlib import Path

from ...models import model
from ..exceptions import as_webservice_exceptions

_HIDDEN = ".azureml"


def environments_folder(workspace: object) -> Path:
    """Of registered environments, as ``<name>/<version>``.

    Raises:
        WebserviceException: the workspace is not a folder.
    """
    return _folder(workspace) / _HIDDEN / "environments"


def packages_folder(workspace: object) -> Path:
    """Of build contexts and the logs of their builds.

    Raises:
        WebserviceException: the workspace is not a folder.
    """
    return _folder(workspace) / _HIDDEN / "packages"


def version_folders(folder: Path) -> list[Path]:
    """The folders that are called by a number, by it; none if the folder is not there."""
    if not folder.is_dir():
        return []
    return sorted((each for each in folder.iterdir() if each.name.isdecimal()), key=_number)


def _number(folder: Path) -> int:
    return int(folder.name)


def _folder(workspace: object) -> Path:
    with as_webservice_exceptions():
        return model.folder_of(workspace).absolute()
