"""What a model's file says of itself in plain bytes; nothing of it is run.

Looked for are the forms in which :mod:`pickletools` documents that a module is named (``GLOBAL``,
``STACK_GLOBAL``) and a text is written, wherever they stand: joblib writes arrays between them,
at which pickletools itself stops.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import mmap
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_CHUNK_BYTES, _LONGEST = 1 << 18, 600
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"]\x00": lzma.open,
}
_NAME = rb"([A-Za-z_][\w.]{0,250})"
# Up to protocol 3, between opcodes that stand there: another "c" may be the end of a text.
_GLOBAL = re.compile(
    rb"c(?:(?<=[\x80qhK].c)|(?<=[rj].{4}c)|(?<=[()}\]\nN0b\x85-\x89]c))"
    + _NAME
    + rb"\n[A-Za-z_][\w.]*\n(?:q|r|p\d+\n)",
    re.DOTALL,
)
# Two short texts, each of which is memoized or was, and a new frame may begin between them.
_STACK_GLOBAL = re.compile(
    rb"\x8c(.)" + _NAME + rb"\x94?(?:\x95.{8})?(?:\x8c.[\w.<>]{1,255}\x94?|h.|j.{4})\x93",
    re.DOTALL,
)
_VERSION = re.compile(rb"_sklearn_version(?:\x94|q.|r.{4})?(?:[\x8cU](.)|X(.)\0\0\0)", re.DOTALL)


# external_data of a TensorProto: the entry "location" (onnx.proto).
_LOCATION = re.compile(rb"\x0a\x08location\x12(.)", re.DOTALL)


class Said(NamedTuple):
    """The ``modules`` that unpickling imports, and the scikit-learn that wrote its estimators."""

    modules: frozenset[str] = frozenset()
    scikit_learn: str = ""


def said(path: Path) -> Said:
    """What a pickle or joblib file says, compressed or not; nothing if it cannot be read."""
    try:
        about = os.stat(path)
        return _said(path, about.st_size, about.st_mtime_ns)
    except OSError:
        return Said()


@lru_cache(256)
def _said(path: Path, size: int, written: int) -> Said:
    modules, version, rest = set[bytes](), b"", b""
    try:
        for chunk in _chunks(path):
            text = rest + chunk
            modules.update(found[1] for found in _GLOBAL.finditer(text))
            pairs = _STACK_GLOBAL.finditer(text)
            modules.update(found[2] for found in pairs if len(found[2]) == found[1][0])
            for found in () if version else _VERSION.finditer(text):
                end = found.end() + (found[1] or found[2])[0]
                plain = re.fullmatch(rb"\d+(\.\w+)+", text[found.end() : end])
                version = plain[0] if plain and end <= len(text) else version
            rest = text[-_LONGEST:]
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        pass  # whoever loads it says so
    return Said(frozenset(map(bytes.decode, modules)), version.decode())


def weights(path: Path) -> set[str]:
    """The files, by their paths beside it, in which an ONNX file says that its weights lie."""
    with _mapped(path) as text:
        places = {text[m.end() : m.end() + m[1][0]] for m in _LOCATION.finditer(text)}
    return {place.decode(errors="replace") for place in places}


def compares_text(path: Path) -> bool:
    """Whether an ONNX file has an operator that works by a locale, ``en_US.UTF-8`` as a rule."""
    with _mapped(path) as text:
        return text.find(b"StringNormalizer") >= 0


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    if not os.path.getsize(path):
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        yield text


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((each for magic, each in _OPENERS.items() if start.startswith(magic)), open)
    unpack: Any = zlib.decompressobj().decompress if start[:1] == b"x" else bytes
    with opener(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield unpack(chunk)
