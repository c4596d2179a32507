"""Making a build context: whole or not at all, and the same bytes for the same inputs.

It is made in a hidden folder beside its place and then renamed to it. ``scoring-package.json``
holds what was packaged, with the SHA-256 of each file but those of the models; from it a later run
knows whether anything changed, here or there.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..errors import PackagingError
from ..manifest import Progress
from . import resolution
from .contents import Contents, contents, digest_of
from .document import DOCUMENT, Document
from .document import read as read_document
from .model_files import ModelFile, is_same, model_files, place
from .specification import MODELS, Context, PackagedModel, Specification

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

    Raises:
        PackagingError: an input is wrong, the folder holds something else, the requirements cannot
            be installed, or it cannot be written; ``output`` is as it was before.
    """
    output = Path(os.path.abspath(output))
    previous = _previous(output, overwrite)
    content = contents(specification, leave_out=[output, *_temporaries(output)])
    models = [(model, model_files(model)) for model in specification.models]
    made = Context(path=output, **content.about)
    if previous is not None and _is_up_to_date(previous, content, models, output):
        return replace(made, warnings=previous.warnings, unchanged=True)
    warnings = content.warnings
    if resolve and not _resolved_before(previous, content):
        warnings += resolution.check(content.requirements, content.python, content.wheels)
    document = replace(content.document, warnings=warnings)
    reused = output if previous is not None else None
    with _translated(output), _temporary(output) as folder:
        _check_space(models, reused, folder)
        _write(folder, content.files)
        (folder / DOCUMENT).write_text(document.text(), encoding="utf-8")
        _place(models, folder, reused, progress)
        _finish(folder)
        _publish(folder, output)
    return replace(made, warnings=warnings)


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
    changed = [] if overwrite else _changed_by_hand(output, document)
    if changed:
        raise PackagingError(
            f"{output} was changed after it was made: {', '.join(changed[:_NAMED])}"
            f"{' …' if len(changed) > _NAMED else ''}. Name another output folder, or --overwrite "
            "it and lose the changes."
        )
    return document


def _changed_by_hand(output: Path, document: Document) -> list[str]:
    there = set(_files_below(output)) - {DOCUMENT}
    files = document.files
    changed = [
        name for name in sorted(files) if name in there and digest_of(output / name) != files[name]
    ]
    missing = [f"{name} (missing)" for name in sorted(set(files) - there)]
    return changed + missing + [f"{name} (new)" for name in sorted(there - set(files))]


def _files_below(folder: Path) -> Iterator[str]:
    """Every file of a context but those of models and Python's own."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name != "__pycache__" and Path(parent, name) != folder / MODELS
        ]
        for name in names:
            yield (Path(parent) / name).relative_to(folder).as_posix()


def _is_up_to_date(previous: Document, content: Contents, models: Models, output: Path) -> bool:
    if replace(content.document, warnings=previous.warnings) != previous:
        return False
    if not _is_unchanged(output, content):
        return False
    return all(is_same(model, files, output) for model, files in models)


def _is_unchanged(output: Path, content: Contents) -> bool:
    return not _changed_by_hand(output, content.document)


def _resolved_before(previous: Document | None, content: Contents) -> bool:
    """Whether pip was asked before about the same requirements for the same Python."""
    if previous is None or previous.warnings:
        return False
    name = "requirements.txt"
    same = previous.files.get(name) == content.document.files.get(name)
    return same and previous.python == content.document.python


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


def _temporaries(output: Path) -> list[Path]:
    return list(output.parent.glob(f".{output.name}.tmp-*"))


@contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """A hidden folder beside ``output``; those of killed runs go a day later."""
    oldest = time.time() - _STALE_SECONDS
    for stale in _temporaries(output):
        with suppress(OSError):
            if stale.stat().st_mtime < oldest:
                shutil.rmtree(stale, ignore_errors=True)
    folder = output.parent / f".{output.name}.tmp-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_space(models: Models, reused: Path | None, folder: Path) -> None:
    copied = sum(
        file.path.stat().st_size
        for model, files in models
        if not model.registered and not (reused and is_same(model, files, reused))
        for file in files
    )
    free = shutil.disk_usage(folder).free
    if copied > free:
        reason = f"the models have {copied:,} bytes and {free:,} are free"
        raise OSError(errno.ENOSPC, reason)


def _write(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)
            target.chmod(0o755 if os.access(content, os.X_OK) else 0o644)


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
    for name in [*_files_below(folder)]:
        path = folder / name
        if not path.stat().st_mode & 0o100:
            path.chmod(0o644)
        os.utime(path, (_TIME, _TIME))
    for parent, _, _ in os.walk(folder, topdown=False):
        Path(parent).chmod(0o755)


def _publish(folder: Path, output: Path) -> None:
    """Rename the folder to its place; what was there is removed afterwards."""
    replaced = output.parent / f".{output.name}.tmp-{uuid.uuid4().hex}"
    if output.exists():
        output.rename(replaced)
    try:
        folder.rename(output)
    except OSError:
        if replaced.exists():
            replaced.rename(output)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
