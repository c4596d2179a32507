"""What is to be packaged, and what was made of it: plain data that the parts of the packager share.

A build context has the same layout for both targets::

    Dockerfile            the stages ``functions`` and ``standalone``; the packaged one by default
    .dockerignore
    requirements.txt      everything that the image installs
    requirements-*.lock   the same with versions and hashes, of each target; if they were asked for
    host.json             of the Functions host
    function_app.py
    local.settings.json   for ``func start`` in the context
    app-settings.json     the settings in the image, and the names of those to set where it runs
    scoring_runtime/      this package
    source/               the entry script and what belongs to it
    azureml-models/       the models as ``<name>/<version>/…``
    azureml-models.scoring/  their digests, out of the sight of scripts
    wheels/               local wheels that requirements.txt names
    scoring-package.json  what was packaged

The files that deploy it are in a folder beside it, which nobody packages: secrets are there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import PackagingError

DOCUMENT = "scoring-package.json"
FUNCTIONS, STANDALONE = TARGETS = ("functions", "standalone")
ROOTS: Mapping[str, str] = {FUNCTIONS: "/home/site/wwwroot", STANDALONE: "/var/azureml-app"}
"""Where the context lies in the image, by target."""

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
"""Names of environment variables, and so of settings and build arguments."""

RETIRED_IMAGE = re.compile(r"(?i)(mcr\.microsoft\.com/azureml(/|:|$)|viennaglobal\.azurecr\.io/).*")
"""Names of images that have the retired service's own server."""

# https://github.com/distribution/reference
_IMAGE = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?/)?"
    r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)

DEFAULT_PYTHON = "3.11"
"""The Python of images that are not asked for another."""

SOURCE, MODELS, WHEELS = "source", "azureml-models", "wheels"
NOTES = f"{MODELS}.scoring"  # where scoring_runtime.models.manifest looks for it
"""Folders of a build context."""
DEPLOYMENT = "-deployment"
"""What ends the name of the folder beside it."""


@dataclass(frozen=True)
class PackagedModel:
    """One version of a model.

    ``path`` is its file or folder; for a ``registered`` one the folder of its version, which never
    changes. ``kind`` is one of :mod:`scoring_runtime.models.kinds`, ``libraries`` are the versions
    that matter for it. ``folder`` is the name that a folder keeps below the version; empty if its
    content is the version's, or if it is a file.
    """

    name: str
    version: int
    path: Path
    registered: bool = False
    kind: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class Environment:
    """What the image has to hold beside the runtime.

    ``requirements`` are lines of a pip requirements file, ``options`` its option lines
    (``--extra-index-url …``), ``python`` a version such as ``3.11`` (empty: the default),
    ``variables`` environment variables, ``wheels`` local files that a line names as
    ``./wheels/<file name>``, ``notes`` sentences about what was left out or read otherwise.
    """

    requirements: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    python: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    base_image: str = ""
    wheels: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Specification:
    """What is to be packaged; ``triggers`` by their names in ``SCORING_TRIGGERS``.

    ``leave_out`` are files beside the script that are for the deployment, such as its TLS key.
    """

    target: str = FUNCTIONS
    triggers: tuple[str, ...] = ("http",)
    models: tuple[PackagedModel, ...] = ()
    entry_script: Path | None = None
    source_dir: Path | None = None
    environment: Environment = Environment()
    auth_level: str = ""
    input_path: str = ""
    output_path: str = ""
    input_queue: str = ""
    output_queue: str | None = None
    lock: bool = False
    leave_out: tuple[Path, ...] = ()

    def with_variables(self, variables: Mapping[str, str]) -> Specification:
        """The same with these environment variables and no others."""
        return replace(self, environment=replace(self.environment, variables=variables))


@dataclass(frozen=True)
class RequiredSetting:
    """A setting that is not in the image, for it is a secret or differs by place."""

    name: str
    about: str


@dataclass(frozen=True)
class Context:
    """A build context that was made.

    ``settings`` are in the image, ``required`` have to be set where it runs, ``files`` are the
    number of files in ``source/``. ``unchanged`` if it was there already.
    """

    path: Path
    target: str
    triggers: tuple[str, ...]
    models: tuple[str, ...]
    settings: Mapping[str, str]
    required: tuple[RequiredSetting, ...] = ()
    warnings: tuple[str, ...] = ()
    source_files: tuple[str, ...] = ()
    unchanged: bool = False


def deployment_folder(package: Path) -> Path:
    """Where the deployment files of a package are: never in it, so in no image."""
    return package.with_name(f"{package.name}{DEPLOYMENT}")


def moved(settings: Mapping[str, str], root: str, place: str) -> dict[str, str]:
    """The settings with their paths below ``root`` as they are below ``place``."""
    inside = re.compile(rf"\A{re.escape(root)}(?=/|\Z)")
    return {name: inside.sub(lambda _: place, value) for name, value in settings.items()}


def check_image(name: str, what: str) -> None:
    """Refuse a name that no image can have, ``what`` being where it is said.

    Raises:
        PackagingError: it is none; the message says what is allowed.
    """
    if not _IMAGE.fullmatch(name):
        raise PackagingError(
            f"{what} {name!r} is no name for an image: allowed are lower-case letters, "
            "digits and single '.', '_' and '-' between them, parts with '/', and a tag after ':', "
            "such as registry.example/team/net:3."
        )
