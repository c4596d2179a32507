"""Services on this machine: a package served by the standalone host in a process of its own.

No docker is needed: the build context of the target ``standalone`` is made in a folder, and the
host runs from there with this Python, so with the packages that are installed beside it; a missing
one is named by the host's diagnosis. As a container does, the service goes on when the program
that started it ends, until :meth:`LocalService.delete`. It listens on the loopback interface only.

Below the folder that holds the services::

    .local-services/<name>/service.json    port, process and what is served; no secret is in it
    .local-services/<name>/keys.txt        the keys that it asks for, if it does, for its owner only
    .local-services/<name>/log.txt         all that the host has written since it was started
    .local-services/<name>/context-<n>/    the build context it runs from

Needs a POSIX system.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import LocalServiceError, ServiceExists
from ..packaging.specification import Specification
from . import keys as local_keys
from . import record as local_record
from .host import GRACE_SECONDS, LOG, start
from .process import LOOPBACK, end, ended, free_port
from .record import RECORD, Record

TRANSITIONING, HEALTHY, UNHEALTHY, FAILED = STATES = (
    "Transitioning",
    "Healthy",
    "Unhealthy",
    "Failed",
)
"""As users of Azure ML know them."""

SERVICES = ".local-services"
# Azure ML's rule for names of services.
_NAME = re.compile(r"(?=.{3,32}\Z)[a-z][-a-z0-9]*[a-z0-9]")
_PROBE_SECONDS, _POLL_SECONDS, _WAIT_SECONDS = 5.0, 0.1, 1200.0
_SHOWN_LINES = 60

Tell = Callable[[str], object]


class Answer(NamedTuple):
    """What a service has answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class LocalService:
    """One service; made by :func:`deploy`, :func:`find` and :func:`listing`."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._folder, self._record = folder, record
        self._secrets: Mapping[str, str] = {}

    @property
    def record(self) -> Record:
        """What is noted of it, by whoever started it last."""
        with contextlib.suppress(LocalServiceError):
            self._record = local_record.read(self._folder)
        return self._record

    @property
    def specification(self) -> Specification:
        """What it serves, with the secrets that this object was given; another program takes them
        from its environment."""
        noted = self.record.specification
        return noted.with_variables({**noted.environment.variables, **self._secrets})

    @property
    def keys(self) -> tuple[str, ...]:
        """The primary and the secondary key; nothing if it asks for none."""
        return local_keys.read(self._folder)

    def set_keys(self, given: tuple[str | None, ...]) -> None:
        """Change the keys, which count at once; None makes a new one.

        Where it has asked for none it does so from its next start; without any given it is the
        other way round.

        Raises:
            LocalServiceError: one is too short, or has characters that headers cannot have.
        """
        local_keys.write(self._folder, given)

    @property
    def url(self) -> str:
        """``http://localhost:PORT``."""
        return f"http://localhost:{self.record.port}"

    @property
    def state(self) -> str:
        """One of :data:`STATES`: by the process, and what ``GET /health/ready`` says."""
        process = self.record.process
        if not process.is_alive:
            return FAILED
        try:
            answer = self._exchange("GET", "/health/ready", timeout=_PROBE_SECONDS)
            state = json.loads(answer.body)["state"]
        except ConnectionError:  # it does not listen yet, or has just ended
            return TRANSITIONING if process.is_alive else FAILED
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return UNHEALTHY
        return state if state in STATES else UNHEALTHY

    def wait(self, tell: Tell | None = None, timeout: float = _WAIT_SECONDS) -> None:
        """Wait until it is Healthy.

        ``tell`` is called with each line of the log as it comes; ``timeout`` is in seconds.

        Raises:
            LocalServiceError: it has failed, the text ends with the cause; or the time has passed.
        """
        until, told = time.monotonic() + timeout, 0
        while (state := self.state) != HEALTHY:
            if state == FAILED:
                ended(self.record.process, GRACE_SECONDS)  # it says so before it has said why
                self._tell(tell, told)
                raise LocalServiceError(f"{self._about} has failed.\n{self.cause()}")
            if time.monotonic() > until:
                raise LocalServiceError(
                    f"{self._about} is {state} after {timeout:g} seconds; expected is {HEALTHY}."
                    f" The end of its log:\n{self.cause()}"
                )
            told = self._tell(tell, told)
            time.sleep(_POLL_SECONDS)
        self._tell(tell, told)

    def log(self, lines: int | None = None) -> str:
        """What the host has written since its last start, or the last ``lines`` of it."""
        try:
            text = (self._folder / LOG).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        kept = text.splitlines(keepends=True)
        return text if lines is None else "".join(kept[max(0, len(kept) - lines) :])

    def cause(self) -> str:
        """The end of the log up to the line that names the cause, or what is there instead."""
        lines = self.log().splitlines()
        causes = [at for at, line in enumerate(lines) if line.startswith("Cause: ")]
        if causes:
            return "\n".join(lines[: causes[-1] + 1][-_SHOWN_LINES:])
        ended = [] if self.record.process.is_alive else ["The process has ended."]
        return "\n".join([*lines[-_SHOWN_LINES:], *ended])

    def score(self, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """What ``POST /score`` answers; the content type is JSON unless ``headers`` say another.

        Raises:
            LocalServiceError: the service cannot be reached.
        """
        try:
            said = {"content-type": "application/json", **(headers or {})}
            if self.keys:
                said["x-functions-key"] = self.keys[0]
            return self._exchange("POST", "/score", body, said)
        except (OSError, http.client.HTTPException) as error:
            raise LocalServiceError(
                f"{self._about} did not answer ({error}); it is {self.state}. Its log may say why."
            ) from error

    def restart(
        self,
        specification: Specification | None = None,
        port: int | None = None,
        keys: tuple[str | None, ...] | None = None,
    ) -> None:
        """Make the context anew, from what the sources are now, and start the host from there.

        The service that runs is ended only once the context is made. By default the same is
        served from now on, at the same port, with the same ``keys``, as :meth:`set_keys` takes
        them.

        Raises:
            LocalServiceError: the port is taken, a key is not allowed, or what is to be served
                cannot be packaged.
        """
        before = self.record
        wanted = specification or self.specification
        changed = replace(before, specification=wanted, port=port or before.port)
        self._start(before, changed, keys)

    def delete(self) -> None:
        """End the process and remove the service's folder; nothing if both are gone."""
        end(self.record.process, GRACE_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(
        self, before: Record, wanted: Record, keys: tuple[str | None, ...] | None = None
    ) -> None:
        there = self.keys
        if keys is not None:
            self.set_keys(keys)
        try:
            self._record = start(self._folder, before, wanted)
        except LocalServiceError:
            if keys is not None:
                self.set_keys(there)
            raise
        variables = wanted.specification.environment.variables
        self._secrets = {n: variables[n] for n in self._record.required if n in variables}

    def _tell(self, tell: Tell | None, told: int) -> int:
        if tell is None:
            return told
        lines = self.log().splitlines()
        for line in lines[told:]:
            tell(line)
        return len(lines)

    @property
    def _about(self) -> str:
        return f"The local service {self._record.name} on port {self._record.port}"

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(LOOPBACK, self.record.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())


def deploy(
    root: Path,
    name: str,
    specification: Specification,
    *,
    port: int | None = None,
    overwrite: bool = False,
    keys: tuple[str | None, ...] = (),
) -> LocalService:
    """Start a service; it may be Transitioning yet.

    One of the same name that has ended is replaced; with ``overwrite`` also one that runs.

    Args:
        root: the folder of the services.
        name: 3 to 32 lowercase letters, digits or dashes.
        specification: what is to be served, over HTTP whatever its triggers are.
        port: where to listen; without one it is that of the replaced service, or a free port.
        overwrite: whether a service of this name that runs is replaced.
        keys: the primary and the secondary key that it asks for, None for one that is made; without
            any it asks for none.

    Raises:
        ServiceExists: one of this name runs.
        LocalServiceError: the name or a key is not allowed, the port is taken, or what is to be
            served cannot be packaged.
    """
    check_name(name)
    check_absent(root, name, overwrite)
    folder = root / SERVICES / name
    there = (folder / RECORD).exists()
    new = Record(name, 0, specification, created=local_record.now())
    before = local_record.read(folder) if there else new
    chosen = port or (before.port if before.process.is_alive else free_port())
    service = LocalService(folder, before)
    try:
        service._start(before, replace(new, port=chosen), keys)
    except LocalServiceError:
        if not (folder / RECORD).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return service


def find(root: Path, name: str, others: Iterable[str] = ()) -> LocalService:
    """The service of this name.

    Raises:
        LocalServiceError: there is none; the message lists those there are, and ``others``.
    """
    folder = root / SERVICES / name
    if not (_NAME.fullmatch(name) and (folder / RECORD).exists()):
        names = sorted({*(each.record.name for each in listing(root)), *others})
        there = ", ".join(names) or "none"
        raise LocalServiceError(f"There is no service {name!r} in {root}. There are: {there}.")
    return LocalService(folder, local_record.read(folder))


def listing(root: Path) -> list[LocalService]:
    """The services of a folder by name; those whose record cannot be read are left out."""
    found = []
    for path in sorted((root / SERVICES).glob(f"*/{RECORD}")):
        with contextlib.suppress(LocalServiceError):
            found.append(LocalService(path.parent, local_record.read(path.parent)))
    return found


def check_name(name: str) -> None:
    """Raise LocalServiceError unless a service may have this name."""
    if not _NAME.fullmatch(name):
        raise LocalServiceError(
            f"{name!r} is not a name for a service: it must have 3 to 32 lowercase letters (a-z), "
            "digits or dashes, start with a letter, and end with a letter or digit."
        )


def check_absent(root: Path, name: str, overwrite: bool = False) -> None:
    """Raise ServiceExists if a service of this name runs and is not to be overwritten."""
    if overwrite or not (root / SERVICES / name / RECORD).exists():
        return
    service = find(root, name)
    if service.record.process.is_alive:
        raise ServiceExists(
            f"A service {name} already exists, on port {service.record.port}: update or delete it, "
            "choose another name, or overwrite it."
        )
