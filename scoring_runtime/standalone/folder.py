"""Local folders as the place of the blob trigger.

The receipt is the document's modification time, which is set to the input's. While an input is
scored its claim file, in ``.scoring`` of the output folder, is locked; what the file holds counts
the tries that failed. A claim file that is there and not locked was dropped by a killed process.
Below the two folders no link is followed: who may put files there need not be allowed to read and
write what the host may.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from ..errors import ConfigurationError, InputTrouble, TriggerTrouble
from ..settings.settings import Settings
from ..telemetry.logs import log
from ..triggers.blob_paths import BlobPaths, EveryFile
from .files import Opened, age, claim_name, files, opened
from .place import Claim, Document, Found

try:
    import fcntl
except ModuleNotFoundError:  # Windows: one watcher for a folder
    fcntl = None  # type: ignore[assignment]

_CLAIMS = ".scoring"
_NAMED_AT_ONCE = 100
# A file that is still being written has been changed just now; where it is known that nobody has it
# open for writing, another program may yet be about to open it again.
_QUIET_SECONDS, _CLOSED_SECONDS = 0.1, 0.05
_STEP_MS, _LONGEST_MS = 20, 100
# Whoever has not written for so long may keep a file open for ever; and some network file systems
# always say that somebody has.
_OPEN_SECONDS = 10.0
# Modification times are kept to 1 ns, 100 ns (NTFS), 1 µs, 1 ms, 1 s or 2 s (FAT).
_GRANULARITIES = (1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)
_PROBE_NS = 1_234_567_891_234_567_891
_PROBE = bytes(4096)
# The disk's trouble, whatever file was written.
_FULL = (errno.ENOSPC, errno.EDQUOT)


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
        self._ignored: dict[str, str] = {}
        self._one_probe = threading.Lock()
        self._news = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None
        self._is_told = True
        every = isinstance(paths.input, EveryFile)
        what = "files of every type that is read" if every else paths.input.text
        self.where = f"{self._input} for {what}; documents go to {self._output}"
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
        """Make the folders, write there, and find out how exactly times are kept."""
        with _translated():
            await asyncio.to_thread(self._prepare)
        await self.close()
        if self._is_told:  # anew: the folder may have been made again
            self._telling = asyncio.create_task(self._tell())

    async def close(self) -> None:
        """Watch no longer."""
        telling, self._telling = self._telling, None
        if telling is not None:
            telling.cancel()

    async def changed(self, least: float, most: float) -> None:
        """The system tells of changes, but for network folders: those are looked through."""
        await asyncio.sleep(least)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), most - least)
        self._news.clear()

    async def _tell(self) -> None:
        def shown(_: object, path: str) -> bool:
            return f"{os.sep}." not in path.removeprefix(str(self._input))

        try:
            from watchfiles import awatch

            changes = awatch(self._input, watch_filter=shown, step=_STEP_MS, debounce=_LONGEST_MS)
            async for _ in changes:
                self._news.set()
        except ImportError:
            self._is_told = False
            log.info("Files are found by looking for them; at once with: pip install watchfiles")
        except (OSError, RuntimeError) as error:
            self._is_told = False
            log.warning("Files are found by looking for them, for want of notifications: %s", error)

    def _look_again(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(max(0.0, seconds), self._news.set)

    async def receipts(self) -> dict[str, str]:
        """The documents' modification times."""
        with _translated():
            return await asyncio.to_thread(self._listed_documents)

    async def inputs(self) -> AsyncIterator[Found]:
        """The regular files of the watched folder, hidden ones left out, oldest first."""
        with _translated():
            files, soon = await asyncio.to_thread(self._listed_inputs)
        if soon is not None:
            self._look_again(soon)
        for found in files:
            yield found

    async def claim(self, found: Found, receipts: tuple[str, ...]) -> Claim | None:
        """Lock the input's claim file."""
        with _translated(f"{found.name} cannot be claimed"):
            writing = await asyncio.to_thread(self._quiet_for, found)
            if writing is not None:
                self._look_again(max(_CLOSED_SECONDS, writing / 4))
                return None
            return await asyncio.to_thread(self._claim, found, receipts)

    async def leave(self, found: Found, document: Document) -> None:
        """Write a document without a claim."""
        await self.write(document, found.etag, f"{claim_name(found.name)}.left")

    async def write(self, document: Document, etag: str, beside: str) -> None:
        """Write ``beside``, among the claims, then rename; whatever is there is replaced.

        There is no metadata here: an error document says the details of its error itself.
        """
        if document.details:
            told = {**json.loads(document.body), **document.details}
            document = document._replace(body=json.dumps(told).encode())
        with _translated(f"{document.name} cannot be written"):
            await asyncio.to_thread(self._write, document, self.moment(etag), beside)

    async def remove(self, document: str) -> None:
        """Remove a document."""
        with _translated(f"{document} cannot be removed"):
            await asyncio.to_thread(self._remove, document)

    def claims(self) -> AbstractContextManager[Opened]:
        """The folder of the claim files."""
        return opened(self._output, [_CLAIMS])

    def opened(
        self, path: str, *, make: bool = False
    ) -> tuple[AbstractContextManager[Opened], str]:
        """The folder of a file, ``container/name``, to be opened, and the file's name there."""
        container, *parents, name = (part for part in path.split("/") if part not in ("", "."))
        return opened(self._folders[container], parents, make=make), name

    def etag_of(self, path: str) -> str:
        """The etag of a file; "" when there is none."""
        parent, name = self.opened(path)
        with contextlib.suppress(FileNotFoundError), parent as folder:
            return self.etag(folder.regular(name))
        return ""

    def etag(self, status: os.stat_result | None) -> str:
        """The modification time in the units that both folders keep; "" when there is no file."""
        return "" if status is None else str(status.st_mtime_ns // self._granularity)

    def moment(self, etag: str) -> int:
        """The modification time behind an etag, in nanoseconds since 1970."""
        return int(etag) * self._granularity

    def make(self) -> None:
        """Make the watched folder, so that files can be dropped at once; where that fails, the
        trigger says why when it looks into it.

        Raises:
            ConfigurationError: there is a file in its place.
        """
        with contextlib.suppress(OSError):
            self._input.mkdir(parents=True, exist_ok=True)
        if self._input.is_file():
            raise ConfigurationError(
                f"BLOB_INPUT_FOLDER (--watch) is {self._input}, which is a file. Name its folder; "
                "BLOB_INPUT_PATH says which of its files are scored."
            )

    def _prepare(self) -> None:
        self._input.mkdir(parents=True, exist_ok=True)
        self._output.mkdir(parents=True, exist_ok=True)
        probe = f".probe-{os.getpid()}"
        with (
            self._one_probe,
            opened(self._output, [_CLAIMS], make=True) as claims,
            opened(self._output) as output,
        ):
            claims.write(probe, _PROBE, _PROBE_NS, output, probe)
            status = output.regular(probe)
            output.unlink(probe)
        kept = status.st_mtime_ns if status else 0
        self._granularity = next(
            (each for each in _GRANULARITIES if kept // each == _PROBE_NS // each),
            _GRANULARITIES[-1],
        )

    def _listed_documents(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for container in {self._paths.output.container, self._paths.error.container}:
            folder = self._folders[container]
            for path, status in files(folder, {}):
                name = path.relative_to(folder).as_posix()
                found[f"{container}/{name}"] = self.etag(status)
        return found

    def _why_not(self, path: Path) -> str:
        """Why a file is no input by its name; empty for one that is."""
        if self._paths.input.match(path.relative_to(self._input).as_posix()) is not None:
            return ""
        if isinstance(self._paths.input, EveryFile):
            return self._paths.input.why_not(path.name)
        return f"BLOB_INPUT_PATH, which is {self._paths.input.text}, says which files are inputs"

    def _listed_inputs(self) -> tuple[list[Found], float | None]:
        """And in how many seconds one may be complete that has changed just now."""
        ignored: dict[str, str] = {}
        listed = sorted(files(self._input, ignored), key=lambda each: each[1].st_mtime_ns)
        if self._input != self._output:  # else documents lie among them
            ignored |= {str(path): why for path, _ in listed if (why := self._why_not(path))}
        for each in sorted(ignored.keys() - self._ignored.keys())[:_NAMED_AT_ONCE]:
            log.warning("%s is not scored: %s.", each, ignored[each])
        self._ignored = ignored
        claims = {each.name for each in os.scandir(self._output / _CLAIMS)}
        found, soon = [], None
        for path, status in listed:
            if 0 <= age(status) < _CLOSED_SECONDS:
                soon = _CLOSED_SECONDS - age(status)
            else:
                name = path.relative_to(self._input).as_posix()
                # Dropped, or held: then claiming it will tell.
                dropped = bool(claims) and claim_name(name) in claims
                about = (name, self.etag(status), status.st_size)
                found.append(Found(*about, dropped=dropped, changed=status.st_mtime))
        return found, soon

    def _quiet_for(self, found: Found) -> float | None:
        """For how many seconds a file that is still being written has not changed."""
        parent, name = self.opened(f"{self._paths.input.container}/{found.name}")
        with contextlib.suppress(FileNotFoundError), parent as folder:
            status = folder.regular(name)
            if status is None:
                return None
            is_open, quiet = folder.is_written(name), age(status)
            if 0 <= quiet < {None: _QUIET_SECONDS, True: _OPEN_SECONDS, False: 0.0}[is_open]:
                return quiet
        return None

    def _claim(self, found: Found, receipts: tuple[str, ...]) -> Claim | None:
        path = f"{self._paths.input.container}/{found.name}"
        if self.etag_of(path) != found.etag:
            return None
        claim = self.made_claim(found, path)
        if not claim.lock():
            return None
        try:
            scored = any(self.etag_of(each) == found.etag for each in receipts)
        except BaseException:
            claim.unlock(done=not claim.attempts)
            raise
        if scored:
            claim.unlock(done=True)
            return None
        return claim

    def made_claim(self, found: Found, path: str) -> FolderClaim:
        """The claim of an input, not locked yet."""
        return FolderClaim(self, found, path)

    def _write(self, document: Document, moment: int, beside: str) -> None:
        parent, name = self.opened(document.name, make=True)
        with self.claims() as claims, parent as folder:
            claims.write(beside, document.body, moment, folder, name)

    def _remove(self, document: str) -> None:
        parent, name = self.opened(document)
        with contextlib.suppress(FileNotFoundError), parent as folder:
            folder.unlink(name)

    def _refuse_loops(self) -> None:
        for each, folder in ((self._paths.output, self._output), (self._paths.error, self._output)):
            folder = self._folders[each.container]
            if not folder.is_relative_to(self._input):
                continue
            below = folder.relative_to(self._input).as_posix().removeprefix(".")
            if self._paths.input.match(f"{below}/{each.example()}".removeprefix("/")):
                raise ConfigurationError(
                    f"The documents in {folder} would be inputs again: {self._input} is watched "
                    f"for {self._paths.input.text} (BLOB_INPUT_PATH). Choose another folder with "
                    "--output (BLOB_OUTPUT_FOLDER)."
                )


class FolderClaim:
    """A locked claim file."""

    def __init__(self, folder: Folder, found: Found, path: str) -> None:
        self._folder = folder
        self._path = path
        self._size = found.size
        self._name = claim_name(found.name)
        self._descriptor = -1
        self.etag = found.etag
        self.attempts = 0

    def lock(self) -> bool:
        """Whether nobody else has it."""
        with self._folder.claims() as claims:
            while self._descriptor < 0:
                descriptor = claims.open(self._name, os.O_RDWR | os.O_CREAT)
                try:
                    if fcntl is not None:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Its holder may have removed it between open and lock.
                    if _is_same(descriptor, claims.regular(self._name)):
                        self._descriptor = descriptor
                except BlockingIOError:
                    return False
                finally:
                    if self._descriptor < 0:
                        os.close(descriptor)
        try:
            self.attempts = self._attempts_before()
            self._note(begun=True)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlock(done=not self.attempts)
            raise
        return True

    def unlock(self, *, done: bool) -> None:
        """Let go; the count of failed tries goes with the claim file."""
        try:
            if done or not self.attempts:
                with self._folder.claims() as claims:
                    claims.unlink(self._name)
            else:
                self._note(begun=False)
        finally:
            self._close()

    async def read(self) -> bytes | None:
        """The file, if it has not changed while it was read."""
        with _translated(f"{self._path} cannot be read"):
            return await asyncio.to_thread(self._read)

    async def count(self, attempts: int) -> None:
        """Kept in the claim file when it is unlocked."""
        self.attempts = attempts

    async def write(self, document: Document) -> None:
        """Write beside, then rename."""
        await self._folder.write(document, self.etag, f"{self._name}.tmp")

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

    def _note(self, *, begun: bool) -> None:
        content = json.dumps({"etag": self.etag, "attempts": self.attempts, "begun": begun})
        # In this order: when the disk is full, what was noted stays.
        written = os.pwrite(self._descriptor, content.encode(), 0)
        os.ftruncate(self._descriptor, written)

    def _close(self) -> None:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # run() may have forked a process that keeps it open
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    def _read(self) -> bytes | None:
        parent, name = self._folder.opened(self._path)
        try:
            with parent as folder, folder.file(name, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return None
                content: bytes = file.read(self._size + 1)
                changed = self._folder.etag(folder.regular(name)) != self.etag
        except FileNotFoundError:
            return None
        return None if changed or len(content) > self._size else content


def _is_same(descriptor: int, status: os.stat_result | None) -> bool:
    return status is not None and os.path.samestat(os.fstat(descriptor), status)


@contextlib.contextmanager
def _translated(what: str = "") -> Iterator[None]:
    """Raise errors as TriggerTrouble; as InputTrouble if ``what`` says which input's they are."""
    try:
        yield
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        name = getattr(error, "filename", None)
        if what and getattr(error, "errno", None) not in _FULL:
            raise InputTrouble(f"{what}: {said}.") from error
        raise TriggerTrouble(
            f"The watched folders do not work: {said}{f': {name}' if name else ''}. See --watch "
            "and --output (BLOB_INPUT_FOLDER, BLOB_OUTPUT_FOLDER)."
        ) from error
