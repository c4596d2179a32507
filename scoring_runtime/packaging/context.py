"""Making a build context: whole or not at all, and the same bytes for the same inputs.

It is made in a hidden folder beside its place and then renamed to it. ``scoring-package.json``
holds what was packaged, with the SHA-256 of each file but those of the models; from it a later run
knows whether anything changed, here or there.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..errors import PackagingError
from ..models.manifest import Progress
from .contents import Contents, contents, files_of, resolved
from .document import DOCUMENT, Document, changed_by_hand, digest_of, files_below
from .document import read as read_document
from .model_files import ModelFile, check_place, is_same, place
from .specification import MODELS, NOTES, Context, PackagedModel, Specification

try:
    import fcntl
except ModuleNotFoundError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

# 1980-01-01, the first time that zip files can hold: a build makes layers of equal digests.
_TIME = 315532800
_STALE_SECONDS = 24 * 60 * 60
_NAMED = 5

Models = list[tuple[PackagedModel, list[ModelFile]]]


def make(
    specification: Specification,
    output: Path,
    *,
    progress: Progress | None = None,
    resolve: bool = True,
    overwrite: bool = False,
    allow_missing: bool = True,
) -> Context:
    """Make the build context of a package in the folder ``output``.

    A context that is there already is replaced, unless nothing changed. Model files of a registry
    are hard-linked where that is possible, others are copied in chunks.

    Args:
        specification: what is to be packaged.
        output: the folder; not there, empty, or a context that was made before.
        progress: called with the bytes of models that are done and the bytes of all.
        resolve: ask pip whether the requirements can be installed.
        overwrite: replace a context although its files were changed by hand.
        allow_missing: only warn of modules that the script or a model needs and nothing provides.

    Raises:
        PackagingError: an input is wrong, the folder holds something else, the requirements cannot
            be installed or do not suffice, or it cannot be written; ``output`` is as it was before.
    """
    output = Path(os.path.realpath(output))
    with _alone(output.parent):
        previous = _previous(output, overwrite)
        content = contents(specification, leave_out=[output])
        if content.missing and not allow_missing:
            advice = "If they are there all the same where the image runs: --allow-missing."
            raise PackagingError(" ".join([*content.missing, advice]))
        for model in specification.models:
            check_place(model, output)
        models = [(model, files_of(specification, model)) for model in specification.models]
        made = Context(path=output, **content.about)
        old = None if previous is None or (overwrite and _changes(output, previous)) else previous
        if old is not None and _is_up_to_date(old, content, models, output, resolve):
            return replace(made, warnings=content.warnings + old.warnings, unchanged=True)
    _check_replaceable(output)
    document = resolved(content, previous, resolve)
    with _translated(output), _parents(output), _alone(output.parent), _temporary(output) as folder:
        reused = output if _previous(output, overwrite) is not None else None
        _check_space(models, reused, folder)
        _write(folder, content)
        (folder / DOCUMENT).write_text(document.text(), encoding="utf-8")
        _place(models, folder, reused, progress)
        _finish(folder)
        _publish(folder, output)
    return replace(made, warnings=content.warnings + document.warnings)


# --- what is there already ------------------------------------------------------------------------


def _previous(output: Path, overwrite: bool) -> Document | None:
    """The document of the context that is there; None for a folder that is empty or not there."""
    try:
        there = sorted(os.listdir(output))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PackagingError(f"{output} cannot be the output: {error.strerror}.") from error
    if not there:
        return None
    document = read_document(output)
    if document is None:
        raise PackagingError(
            f"The output folder {output} is not empty and holds no package: it has "
            f"{', '.join(there[:_NAMED])}{' …' if len(there) > _NAMED else ''}. "
            "Name a folder that is empty or not there."
        )
    changed = [] if overwrite else _changes(output, document)
    if changed:
        raise PackagingError(
            f"{output} was changed after it was made: {', '.join(changed[:_NAMED])}"
            f"{' …' if len(changed) > _NAMED else ''}. Name another output folder, or --overwrite "
            "it and lose the changes."
        )
    return document


def _changes(output: Path, document: Document) -> list[str]:
    try:
        return changed_by_hand(output, document, MODELS, NOTES)
    except OSError as error:
        place = error.filename or output
        raise PackagingError(
            f"{output} cannot be compared: {place} cannot be read: {error.strerror}."
        ) from error


def _is_up_to_date(
    previous: Document, content: Contents, models: Models, output: Path, resolve: bool
) -> bool:
    """Whether a run would make what its document says is there; its warnings may be others."""
    asked = previous.resolved or resolve
    wanted = replace(content.document, resolved=asked, warnings=previous.warnings)
    return wanted == previous and all(is_same(model, files, output) for model, files in models)


def _check_replaceable(output: Path) -> None:
    """Refuse a folder that cannot be renamed, and one that a shell would be left in."""
    if os.path.ismount(output):
        raise PackagingError(
            f"The output {output} is a mount point, which cannot be replaced: name a folder in it, "
            f"such as {output / 'package'}."
        )
    if Path(os.getcwd()).is_relative_to(output):
        raise PackagingError(
            f"The output {output} holds the working folder, which would be replaced: name another "
            "folder, or run it from another one."
        )


# --- writing --------------------------------------------------------------------------------------


@contextmanager
def _translated(output: Path) -> Iterator[None]:
    """Turn the file system's errors into one that says what could not be done."""
    try:
        yield
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        free = "" if error.errno != errno.ENOSPC else " Free some space, or name another disk."
        reason = error.strerror or str(error)
        raise PackagingError(f"{output} cannot be made{place}: {reason}.{free}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One run at a time makes or compares what is in a folder; killed ones do not count.

    Where folders cannot be locked, as on some network drives, nobody waits.
    """
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None and fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _parents(output: Path) -> Iterator[None]:
    """The folders that ``output`` lies in; those that were made go again if it was not."""
    made = [each for each in output.parents if not os.path.lexists(each)]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):
            for each in made:
                each.rmdir()


@contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """A hidden folder beside ``output``; those of killed runs go a day later."""
    oldest = time.time() - _STALE_SECONDS
    for stale in output.parent.glob(f".{glob.escape(output.name)}.tmp-*"):
        with suppress(OSError):
            if stale.stat().st_mtime < oldest:
                shutil.rmtree(stale, ignore_errors=True)
    folder = output.parent / f".{output.name}.tmp-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        yield folder
    finally:
        _remove(folder)
        if output.exists():
            _remove(_replaced(folder))


def _replaced(folder: Path) -> Path:
    """Where the old context is while the new one takes its place."""
    return folder.with_name(f"{folder.name}-old")


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_space(models: Models, reused: Path | None, folder: Path) -> None:
    device = folder.stat().st_dev
    copied = sum(
        about.st_size
        for model, files in models
        if not (reused and is_same(model, files, reused))
        for about in (file.path.stat() for file in files)
        if not model.registered or about.st_dev != device
    )
    free = shutil.disk_usage(folder).free
    if copied > free:
        reason = f"the models have {copied:,} bytes and {free:,} are free"
        raise OSError(errno.ENOSPC, reason)


def _write(folder: Path, content: Contents) -> None:
    for name, source in content.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
            continue
        shutil.copyfile(source, target)
        if digest_of(target) != content.document.files[name]:
            raise PackagingError(
                f"{source} changed while it was packaged: package it again when it is written."
            )
        target.chmod(0o755 if name in content.document.executables else 0o644)


def _place(models: Models, folder: Path, previous: Path | None, progress: Progress | None) -> None:
    total = sum(file.path.stat().st_size for _, files in models for file in files)
    before = 0

    def of_all(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, total)

    for model, files in models:
        place(model, files, folder, previous, of_all)
        before += sum(file.path.stat().st_size for file in files)
        of_all(0, total)


def _finish(folder: Path) -> None:
    """Equal modes and times whatever this machine's umask and clock; the models keep theirs."""
    for name in files_below(folder, MODELS):
        path = folder / name
        if not path.stat().st_mode & 0o100:
            path.chmod(0o644)
        os.utime(path, (_TIME, _TIME))
    for parent, _, _ in os.walk(folder, topdown=False):
        Path(parent).chmod(0o755)
        if Path(parent) != folder:  # by its time a killed run's is removed
            os.utime(parent, (_TIME, _TIME))


def _publish(folder: Path, output: Path) -> None:
    """Rename the folder to its place; what was there is removed afterwards."""
    replaced = _replaced(folder)
    try:
        if output.exists():
            output.rename(replaced)
        folder.rename(output)
    except BaseException:
        with suppress(OSError):  # there was none, or the new one is there
            replaced.rename(output)
        raise
