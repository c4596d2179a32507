"""``azureml.core.conda_dependencies``: a conda environment file as an object."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..exceptions import UserErrorException

CONDA_FILE_NAME = "conda_dependencies.yml"
_DEFAULT_PIP_PACKAGE = "azureml-defaults"
_NAME = re.compile(r"^[A-Za-z0-9_.\-:/]+")


class CondaDependencies:
    """The packages of an environment.

    Without a file only ``azureml-defaults`` is in it, which stands for this package. No Python
    version is in it unless one is set: the image then has the packager's default.

    Raises:
        UserErrorException: the file cannot be read, or is no conda environment.
    """

    def __init__(
        self,
        conda_dependencies_file_path: str | os.PathLike[str] | None = None,
        _underlying_structure: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path.cwd()
        """Files that its lines name are looked for here."""
        if _underlying_structure is not None:
            structure: Any = copy.deepcopy(dict(_underlying_structure))
            where = "The conda dependencies"
        elif conda_dependencies_file_path is not None:
            where = os.fspath(conda_dependencies_file_path)
            structure = _read(Path(where))
            self.folder = Path(where).absolute().parent
        else:
            pip = [{"pip": [_DEFAULT_PIP_PACKAGE]}]
            where, structure = "", {"name": "project_environment", "dependencies": pip}
        self._structure = _checked(structure, where)

    @classmethod
    def create(
        cls,
        pip_indexurl: str | None = None,
        pip_packages: Iterable[str] | None = None,
        conda_packages: Iterable[str] | None = None,
        python_version: str | None = None,
        pin_sdk_version: bool = True,
    ) -> CondaDependencies:
        """Those packages; without ``pip_packages`` with ``azureml-defaults``.

        ``pin_sdk_version`` changes nothing: the image gets the version of this package that
        packages it.
        """
        made = cls()
        if pip_packages is not None:
            made.remove_pip_package(_DEFAULT_PIP_PACKAGE)
        for package in pip_packages or ():
            made.add_pip_package(package)
        for package in conda_packages or ():
            made.add_conda_package(package)
        if python_version is not None:
            made.set_python_version(python_version)
        if pip_indexurl is not None:
            made.set_pip_index_url(pip_indexurl)
        return made

    # --- what is in it ----------------------------------------------------------------------------

    @property
    def conda_channels(self) -> Iterator[str]:
        """The channels, first the one that is looked in first."""
        return iter(self._structure.get("channels") or [])

    @property
    def conda_packages(self) -> Iterator[str]:
        """What conda installs, Python left out."""
        return (each for each in self._conda() if _name(each) != "python")

    @property
    def pip_packages(self) -> Iterator[str]:
        """What pip installs."""
        return (each for each in self._pip() if not each.startswith("-"))

    @property
    def pip_options(self) -> Iterator[str]:
        """pip's options, such as ``--index-url …``."""
        return (each for each in self._pip() if each.startswith("-"))

    @property
    def python_version(self) -> str | None:
        """``3.11``; None if none is set."""
        found = (each for each in self._conda() if _name(each) == "python")
        return next((each[len("python") :].lstrip("=<>~! ") or None for each in found), None)

    def get_python_version(self) -> str | None:
        """The same."""
        return self.python_version

    # --- changing it ------------------------------------------------------------------------------

    def add_channel(self, channel: str) -> None:
        """Look in this channel too."""
        self.remove_channel(channel)
        self._structure["channels"].append(channel)

    def remove_channel(self, channel: str) -> None:
        self._structure["channels"] = [each for each in self.conda_channels if each != channel]

    def add_conda_package(self, conda_package: str) -> None:
        """Add a package, in place of the one that has its name."""
        self._replace_conda(_name(conda_package), conda_package)

    def remove_conda_package(self, conda_package: str) -> None:
        """Remove the package of this name, if it is there."""
        self._replace_conda(_name(conda_package), None)

    def add_pip_package(self, pip_package: str) -> None:
        """Add a package, in place of the one that has its name."""
        self._replace_pip(_name(pip_package), pip_package)

    def remove_pip_package(self, pip_package: str) -> None:
        """Remove the package of this name, if it is there."""
        self._replace_pip(_name(pip_package), None)

    def set_pip_option(self, pip_option: str) -> None:
        """Set one of pip's options, in place of the one that has its name."""
        name = pip_option.split()[0]
        kept = [each for each in self._pip() if each.split()[0] != name]
        self._set_pip([pip_option, *kept])

    def remove_pip_option(self, pip_option: str) -> None:
        """Remove an option by its name; nothing changes if it is not there."""
        name = pip_option.split()[0]
        self._set_pip([each for each in self._pip() if each.split()[0] != name])

    def set_pip_index_url(self, index_url: str) -> None:
        """Set pip's ``--index-url``; the address alone or with the option before it."""
        self.set_pip_option(f"--index-url {index_url.split()[-1]}")

    def set_python_version(self, version: str) -> None:
        self._replace_conda("python", None)
        self._structure["dependencies"].insert(0, f"python={version}")

    # --- as a document ----------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """The document that an environment file holds."""
        return copy.deepcopy(self._structure)

    def serialize_to_string(self) -> str:
        """The environment file's text, YAML."""
        import yaml

        text: str = yaml.safe_dump(self._structure, sort_keys=False)
        return text

    def save(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write the file; in a folder by its usual name."""
        place = Path(path or ".")
        if place.is_dir():
            place /= CONDA_FILE_NAME
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(self.serialize_to_string(), encoding="utf-8")
        return str(place)

    def save_to_file(
        self, base_directory: str | os.PathLike[str], conda_file_path: str | None = None
    ) -> str:
        """Write ``conda_file_path`` in ``base_directory``; its path below that folder."""
        name = conda_file_path or CONDA_FILE_NAME
        self.save(Path(base_directory) / name)
        return name

    def _conda(self) -> list[str]:
        return [each for each in self._structure["dependencies"] if isinstance(each, str)]

    def _pip(self) -> list[str]:
        sections = (each for each in self._structure["dependencies"] if isinstance(each, dict))
        return [line for each in sections for line in each.get("pip") or []]

    def _replace_conda(self, name: str, package: str | None) -> None:
        kept = [each for each in self._conda() if _name(each) != name]
        pip = [each for each in self._structure["dependencies"] if not isinstance(each, str)]
        self._structure["dependencies"] = [*kept, *([package] if package else []), *pip]

    def _replace_pip(self, name: str, package: str | None) -> None:
        kept = [each for each in self._pip() if each.startswith("-") or _name(each) != name]
        self._set_pip([*kept, *([package] if package else [])])

    def _set_pip(self, lines: list[str]) -> None:
        section = [{"pip": lines}] if lines else []
        self._structure["dependencies"] = [*self._conda(), *section]


def _name(package: str) -> str:
    """``Scikit_Learn[all]>=1`` → ``scikit-learn``; a channel before it does not count."""
    found = _NAME.match(package.strip())
    name = found[0] if found else package.strip()
    return name.rpartition("::")[2].lower().replace("_", "-")


def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserErrorException(
            f"The conda file {path} cannot be read: {error.strerror}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserErrorException(f"The conda file {path} is not YAML: {error}") from error


def _checked(structure: Any, where: str) -> dict[str, Any]:
    entries = structure.get("dependencies", []) if isinstance(structure, dict) else None
    if not isinstance(entries, list) or not all(_is_dependency(each) for each in entries):
        raise UserErrorException(
            f"{where} is no conda environment: expected is a mapping whose dependencies are a list "
            "of packages, and of pip with the list of its own."
        )
    structure["dependencies"] = entries
    return dict(structure)


def _is_dependency(entry: Any) -> bool:
    if isinstance(entry, str):
        return True
    lines = entry.get("pip", []) if isinstance(entry, dict) else None
    return isinstance(lines, list) and all(isinstance(each, str) and each for each in lines)
