"""Local folders as the place of the blob trigger.

The receipt is the document's modification time, which is set to the input's. While an input is
scored its claim file, in ``.scoring`` of the output folder, is locked; what the file holds counts
the tries that failed. A claim file that is there and not locked was dropped by a killed process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from ..blob_paths import BlobPaths
from ..errors import ConfigurationError, TriggerTrouble
from ..settings import Settings
from ..telemetry import log
from .files import age, claim_name, files
from .place import Claim, Document, Found

try:
    import fcntl
except ModuleNotFoundError:  # Windows: one watcher for a folder
    fcntl = None  # type: ignore[assignment]

_CLAIMS = ".scoring"
# A file that is still being written has been changed just now.
_QUIET_SECONDS = 0.1
# Modification times are kept to 1 ns, 100 ns (NTFS), 1 µs, 1 ms, 1 s or 2 s (FAT).
_GRANULARITIES = (1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)
_PROBE_NS = 1_234_567_891_234_567_891


class Folder:
    """The watched folder and the folder of the documents.

    Args:
        settings: with ``blob_input_folder``.
        paths: their containers stand for the two folders.

    Raises:
        ConfigurationError: the documents would be inputs, or a path needs a third folder.
    """

    def __init__(self, settings: Settings, paths: BlobPaths) -> None:
        self._input = Path(settings.blob_input_folder).resolve()
        self._output = Path(settings.blob_output_folder or self._input.parent / "output").resolve()
        self._paths = paths
        self._granularity = 1
        self._unnameable: set[str] = set()
        self.where = f"{self._input} for {paths.input.text}; documents go to {self._output}"
        self._folders = {
            paths.output.container: self._output,
            paths.input.container: self._input,
        }
        if paths.output.container == paths.input.container:
            self._output = self._input
        if paths.error.container not in self._folders:
            raise paths.error.refused(
                "with a watched folder it has to be in the output's container"
            )
        self._refuse_loops()

    async def open(self) -> None:
        """Make the folders, and find out how exactly times are kept."""
        with _translated():
            await asyncio.to_thread(self._prepare)

    async def close(self) -> None:
        """There is nothing to close."""

    async def receipts(self) -> dict[str, str]:
        """The documents' modification times."""
        with _translated():
            return await asyncio.to_thread(self._listed_documents)

    async def inputs(self) -> AsyncIterator[Found]:
        """The files of the watched folder, hidden ones left out, oldest first."""
        with _translated():
            files = await asyncio.to_thread(self._listed_inputs)
        for found in files:
            yield found

    async def claim(self, found: Found, receipts: tuple[str, ...]) -> Claim | None:
        """Lock the input's claim file."""
        with _translated():
            return await asyncio.to_thread(self._claim, found, receipts)

    async def remove(self, document: str) -> None:
        """Remove a document."""
        with _translated():
            await asyncio.to_thread(self.path_of(document).unlink, missing_ok=True)

    def path_of(self, document: str) -> Path:
        """The file of a document's path, ``container/name``."""
        container, _, name = document.partition("/")
        return self._folders[container] / name

    def etag(self, path: Path) -> str:
        """The modification time in the units that both folders keep; "" when there is no file."""
        try:
            return self._etag(path.stat())
        except FileNotFoundError:
            return ""

    def moment(self, etag: str) -> int:
        """The modification time behind an etag, in nanoseconds since 1970."""
        return int(etag) * self._granularity

    def _etag(self, status: os.stat_result) -> str:
        return str(status.st_mtime_ns // self._granularity)

    def _prepare(self) -> None:
        self._input.mkdir(parents=True, exist_ok=True)
        claims = self._output / _CLAIMS
        claims.mkdir(parents=True, exist_ok=True)
        probe = claims / f"probe-{os.getpid()}"
        probe.touch()
        os.utime(probe, ns=(_PROBE_NS, _PROBE_NS))
        kept = probe.stat().st_mtime_ns
        probe.unlink()
        self._granularity = next(
            (each for each in _GRANULARITIES if kept // each == _PROBE_NS // each),
            _GRANULARITIES[-1],
        )

    def _listed_documents(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for container in {self._paths.output.container, self._paths.error.container}:
            folder = self._folders[container]
            for path, status in files(folder):
                name = path.relative_to(folder).as_posix()
                found[f"{container}/{name}"] = self._etag(status)
        return found

    def _listed_inputs(self) -> list[Found]:
        listed = sorted(files(self._input), key=lambda each: each[1].st_mtime_ns)
        claims = {each.name for each in os.scandir(self._output / _CLAIMS)}
        found = []
        for path, status in listed:
            if not 0 <= age(status) < _QUIET_SECONDS:
                name = path.relative_to(self._input).as_posix()
                # Dropped, or held: then claiming it will tell.
                dropped = bool(claims) and claim_name(name) in claims
                found.append(Found(name, self._etag(status), status.st_size, dropped=dropped))
        return found

    def _claim(self, found: Found, receipts: tuple[str, ...]) -> Claim | None:
        path = self._input / found.name
        if self.etag(path) != found.etag:
            return None
        claim_file = self._output / _CLAIMS / claim_name(found.name)
        claim = FolderClaim(self, path, found.etag, claim_file)
        if not claim.lock():
            return None
        try:
            scored = any(self.etag(self.path_of(each)) == found.etag for each in receipts)
        except OSError as error:
            claim.unlock(done=not claim.attempts)
            if error.errno != errno.ENAMETOOLONG:
                raise
            if found.name not in self._unnameable:
                self._unnameable.add(found.name)
                log.error("%s is not scored: its document's name would be too long.", path)
            return None
        if scored:
            claim.unlock(done=True)
            return None
        return claim

    def _refuse_loops(self) -> None:
        for each, folder in ((self._paths.output, self._output), (self._paths.error, self._output)):
            folder = self._folders[each.container]
            if not folder.is_relative_to(self._input):
                continue
            below = folder.relative_to(self._input).as_posix().removeprefix(".")
            filled = each.fill({name: f"-{name}-" for name in each.names})
            if self._paths.input.match(f"{below}/{filled}".removeprefix("/")):
                raise ConfigurationError(
                    f"The documents in {folder} would be inputs again: {self._input} is watched "
                    f"for {self._paths.input.text} (BLOB_INPUT_PATH). Choose another folder with "
                    "--output (BLOB_OUTPUT_FOLDER)."
                )


class FolderClaim:
    """A locked claim file."""

    def __init__(self, folder: Folder, path: Path, etag: str, claim_file: Path) -> None:
        self._folder = folder
        self._path = path
        self._claim_file = claim_file
        self._descriptor = -1
        self.etag = etag
        self.attempts = 0

    def lock(self) -> bool:
        """Whether nobody else has it."""
        while True:
            descriptor = os.open(self._claim_file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(descriptor, self._claim_file):
                    break
            except BlockingIOError:
                os.close(descriptor)
                return False
            os.close(descriptor)  # its holder has removed it between open and lock
        self._descriptor = descriptor
        self.attempts = self._attempts_before()
        self._note({"etag": self.etag, "attempts": self.attempts, "begun": True})
        return True

    def unlock(self, *, done: bool) -> None:
        """Let go; the count of failed tries goes with the claim file."""
        if done or not self.attempts:
            self._claim_file.unlink(missing_ok=True)
        else:
            self._note({"etag": self.etag, "attempts": self.attempts, "begun": False})
        os.close(self._descriptor)

    async def read(self) -> bytes | None:
        """The file, if it has not changed while it was read."""
        with _translated():
            return await asyncio.to_thread(self._read)

    async def count(self, attempts: int) -> None:
        """Kept in the claim file when it is unlocked."""
        self.attempts = attempts

    async def write(self, document: Document) -> None:
        """Write beside, then rename."""
        with _translated():
            await asyncio.to_thread(self._write, document)

    async def release(self, *, done: bool) -> None:
        """Unlock the claim file."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.unlock, done=done)

    def _attempts_before(self) -> int:
        try:
            note = json.loads(os.pread(self._descriptor, 4096, 0))
            same = note["etag"] == self.etag
            return int(note["attempts"]) + bool(note["begun"]) if same else 0
        except (ValueError, KeyError, TypeError):
            return 0  # new, or cut off while it was written

    def _note(self, note: dict[str, object]) -> None:
        content = json.dumps(note).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)

    def _read(self) -> bytes | None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return content if self._folder.etag(self._path) == self.etag else None

    def _write(self, document: Document) -> None:
        path = self._folder.path_of(document.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._claim_file.with_suffix(".tmp")
        with open(beside, "wb") as file:
            file.write(document.body)
            file.flush()
            os.fsync(file.fileno())
        moment = self._folder.moment(self.etag)
        os.utime(beside, ns=(moment, moment))
        os.replace(beside, path)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TriggerTrouble(
            f"The watched folders do not work: {error}. See --watch and --output "
            "(BLOB_INPUT_FOLDER, BLOB_OUTPUT_FOLDER)."
        ) from error
