"""``azureml.core.datastore``: a folder of the workspace that files are copied to and from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..exceptions import UserErrorException
from .environment import kept_in

DEFAULT = "workspaceblobstore"
_Path = str | os.PathLike[str]


class Datastore:
    """The only one of a workspace; UserErrorException for another name."""

    def __init__(self, workspace: object, name: str = DEFAULT) -> None:
        if name != DEFAULT:
            raise UserErrorException(
                f"There is no datastore {name!r} here; the only one is {DEFAULT!r}."
            )
        self.workspace, self.name = workspace, name
        self.folder = kept_in(workspace, "datastores") / name

    def upload(
        self, src_dir: _Path, target_path: _Path = "", overwrite: bool = False, **unused: object
    ) -> None:
        """Copy what is in a folder; a file that is there already stays unless ``overwrite``."""
        files = (each for each in Path(src_dir).rglob("*") if each.is_file())
        self.upload_files(files, src_dir, target_path, overwrite)

    def upload_files(
        self,
        files: Iterable[_Path],
        relative_root: _Path | None = None,
        target_path: _Path = "",
        overwrite: bool = False,
        **unused: object,
    ) -> None:
        """Copy files, by their names or by their paths below ``relative_root``."""
        for each in map(Path, files):
            name = each.relative_to(relative_root) if relative_root else each.name
            _copy(each, self.folder / target_path / name, overwrite)

    def download(
        self, target_path: _Path, prefix: str = "", overwrite: bool = False, **unused: object
    ) -> int:
        """Copy everything, or what is below ``prefix``, to a folder; how many files."""
        found = [each for each in (self.folder / prefix).rglob("*") if each.is_file()]
        for each in found:
            _copy(each, Path(target_path) / each.relative_to(self.folder), overwrite)
        return len(found)


def _copy(source: Path, target: Path, overwrite: bool) -> None:
    if overwrite or not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
