"""A package of models: made in the background, as an image or as the folder to build it from."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import PackagingError
from ...packaging.specification import Context, Specification, check_image
from ..exceptions import WebserviceException, as_webservice_exceptions
from .container_registry import ContainerRegistry
from .environment import Environment, kept_in

if TYPE_CHECKING:
    from ...packaging.image import Builder

_REPOSITORY = "package"
_RUNNING, _SUCCEEDED, _FAILED = "Running", "Succeeded", "Failed"

Say = Callable[[str], None]


class ModelPackage:
    """A package that is being made, or was.

    ``create`` is called in a thread of its own with a function that takes the lines of the log;
    what it returns is the location. The interpreter does not end before it has.
    """

    def __init__(
        self,
        workspace: object,
        operation_id: str,
        environment: Environment | None,
        create: Callable[[Say], str],
        *,
        log_path: Path,
        is_folder: bool,
    ) -> None:
        self.workspace, self.operation_id, self.environment = workspace, operation_id, environment
        self._create, self._log_path, self._is_folder = create, log_path, is_folder
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._state = _RUNNING
        self._location: str | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, name=f"package-{operation_id}").start()

    @property
    def state(self) -> str:
        """``Running``, ``Succeeded`` or ``Failed``."""
        return self._state

    @property
    def location(self) -> str | None:
        """The image's name, or the folder of the Dockerfile; None until it is made."""
        return self._location

    @property
    def package_build_log_uri(self) -> str:
        """Where the log is written."""
        return self._log_path.as_uri()

    def get_logs(self) -> str:
        """The log so far."""
        with self._changed:
            return "\n".join(self._lines)

    def wait_for_creation(self, show_output: bool = False) -> None:
        """Wait until it is made; with ``show_output`` print the log as it comes.

        Raises:
            WebserviceException: it cannot be made.
        """
        shown, running = 0, True
        while running:
            with self._changed:
                while self._state == _RUNNING and len(self._lines) == shown:
                    self._changed.wait()
                fresh, running = self._lines[shown:], self._state == _RUNNING
            shown += len(fresh)
            if show_output and fresh:
                print("\n".join(fresh), flush=True)
        if self._error is not None:
            raise self._error
        if show_output:
            print(f"Package creation {self._state}", flush=True)

    def update_creation_state(self) -> None:
        """Nothing to do: ``state`` is always up to date."""

    def pull(self) -> None:
        """Wait for the image, which is on this machine already.

        Raises:
            WebserviceException: it cannot be made, or it is a folder.
        """
        self.wait_for_creation()
        if self._is_folder:
            raise WebserviceException(
                "There is no image to pull, for the package was made with generate_dockerfile=True:"
                " get its files with save."
            )
        print(f"The image {self._location} is on this machine.", flush=True)

    def save(self, output_directory: str | Path) -> None:
        """Copy the files to build the image from.

        Raises:
            WebserviceException: they cannot be made or copied, the folder is not empty, or it is
                an image.
        """
        self.wait_for_creation()
        if not self._is_folder or self._location is None:
            raise WebserviceException(
                "There are no files to save, for the package is an image: make it with "
                "generate_dockerfile=True."
            )
        target = Path(output_directory)
        if target.is_dir() and any(target.iterdir()):
            raise WebserviceException(
                f"{target} is not empty: name a folder that is empty or not there."
            )
        try:
            shutil.copytree(self._location, target, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise WebserviceException(
                f"The package cannot be saved to {target}: {error}"
            ) from error

    def get_container_registry(self) -> ContainerRegistry:
        """An empty one: nothing comes from a registry of the workspace's."""
        return ContainerRegistry()

    def serialize(self) -> dict[str, str | None]:
        """Its id, state, location and log."""
        return {
            "operationId": self.operation_id,
            "state": self._state,
            "location": self._location,
            "packageBuildLogUri": self.package_build_log_uri,
        }

    # --- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        error, location = None, None
        try:
            with as_webservice_exceptions():
                location = self._create(self._say)
        except Exception as problem:  # it is raised where somebody waits for it
            error = problem
            self._say(str(problem))
        with self._changed:
            self._location, self._error = location, error
            self._state = _SUCCEEDED if error is None else _FAILED
            self._changed.notify_all()

    def _say(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()
        with suppress(OSError), self._log_path.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")


def create_package(
    workspace: object,
    specification: Specification,
    environment: Environment | None,
    *,
    generate_dockerfile: bool,
    image_name: str | None = None,
    image_label: str | None = None,
) -> ModelPackage:
    """Begin to make a package in the workspace.

    Without ``generate_dockerfile`` an image is built with docker, podman or buildah, and the folder
    it was built from is removed.

    Raises:
        WebserviceException: the workspace is not a folder, or cannot be written; the image's name
            or label is not allowed; or there is nothing to build an image with.
    """
    label = image_label or datetime.now(UTC).strftime("%Y%m%d%H%M%S%f")
    tag = f"{image_name or _REPOSITORY}:{label}"
    with as_webservice_exceptions():
        check_image(tag, "The image")
    builder = None if generate_dockerfile else _builder()
    folder = _new_folder(kept_in(workspace, "packages"), label)

    def create(say: Say) -> str:
        from ...packaging.image import build

        context = _make_context(specification, folder, say)
        if builder is not None:
            try:
                build(context.path, context.target, tag, builder=builder, output=say)
            finally:
                shutil.rmtree(context.path, ignore_errors=True)
        _say_what_next(context, tag, say)
        return str(context.path) if builder is None else tag

    return ModelPackage(
        workspace,
        folder.name,
        environment,
        create,
        log_path=folder / "log.txt",
        is_folder=generate_dockerfile,
    )


def _new_folder(parent: Path, label: str) -> Path:
    """A folder nobody else has; two packages may have the same label."""
    name, number = label, 1
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):
                (parent / name).mkdir()
                return parent / name
            number += 1
            name = f"{label}-{number}"
    except OSError as error:
        raise WebserviceException(f"{parent} cannot be written: {error.strerror}.") from error


def _make_context(specification: Specification, folder: Path, say: Say) -> Context:
    from ...packaging.context import make

    say(f"Packaging for {specification.target} in {folder}")
    made = make(specification, folder / "context")
    for warning in made.warnings:
        say(f"Warning: {warning}")
    return made


def _builder() -> Builder:
    from ...packaging.image import find_builder

    try:
        return find_builder()
    except PackagingError as error:
        raise WebserviceException(
            f"{error} With generate_dockerfile=True the folder is made that an image is built from."
        ) from error


def _say_what_next(context: Context, tag: str, say: Say) -> None:
    """How to try and to deploy it; what needs the folder only if that is still there."""
    from ...packaging.instructions import sections, text

    gone = not context.path.exists()
    found = sections(context, tag, built=gone)
    kept = [each for each in found if not gone or str(context.path) not in "".join(each.lines)]
    say(text(kept))
