"""Inputs as parts: ranges of the rows of a table, or files that go to one ``run(mini_batch)``.

The same files and sizes give the same parts on every machine. A part's name holds what it is, so
that a result made for other parts is never taken for its own.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import ConfigurationError
from ..values.content import UNLIMITED

CSV, LINES, PARQUET = "text/csv", "application/jsonl", "application/vnd.apache.parquet"
TABLES = {".csv": CSV, ".jsonl": LINES, ".ndjson": LINES, ".parquet": PARQUET}
"""Content types of files that are read in parts, by their extension."""
ROWS, BYTES = 10_000, 4 * 1024 * 1024
"""The most rows, and about the most bytes, of a part unless another size is asked for."""
_SAMPLE_ROWS = 1000
_LONGEST_LINE = 64 * 1024 * 1024
# A field that is closed where its line ends; only a quote that begins one opens it.
_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"|(?!"))[^,]*+'
_CLOSED = re.compile(rb"(?:\xef\xbb\xbf)?+%b(?:,%b)*+" % (_FIELD, _FIELD)).fullmatch


class Part(NamedTuple):
    """Rows ``first`` (from 1) to ``first + rows - 1`` of a file: the bytes from ``start`` to
    ``end`` with ``head`` before them, or the rows from ``start`` to ``end`` of a Parquet row
    ``group``. Or ``rows`` files of a mini batch.

    ``moment`` is when they changed last, in nanoseconds since 1970.
    """

    name: str
    paths: tuple[str, ...]
    moment: int
    first: int
    rows: int
    content_type: str = ""
    start: int = 0
    end: int = 0
    group: int = -1
    head: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of its body, where they are known."""
        return 0 if self.group >= 0 else len(self.head) + self.end - self.start

    def body(self) -> bytes:
        """Its rows by its content type; the paths of a mini batch with NUL between them."""
        if not self.content_type:
            return "\0".join(self.paths).encode("utf-8", "surrogateescape")
        if self.group >= 0:
            table = _row_group(self.paths[0], self.moment, self.group)
            rows = table.slice(self.start, self.rows)
            return _parquet(rows) if self.content_type == PARQUET else _json_lines(rows)
        with open(self.paths[0], "rb") as file:
            file.seek(self.start)
            return self.head + file.read(self.end - self.start)

    @property
    def names(self) -> list[str]:
        """The keys of the first row of a JSON Lines file, which all its parts have in that order;
        none where its rows are no objects, and of other files."""
        if self.content_type != LINES or self.group >= 0:
            return []
        return _first_keys(self.paths[0], self.moment)

    def sample(self) -> bytes:
        """The first rows of its CSV file, without the names."""
        with open(self.paths[0], "rb") as file:
            file.seek(len(self.head))
            cuts = _cuts(file, len(self.head), True, _SAMPLE_ROWS, BYTES)
            end = next((end for _, end, _ in cuts), len(self.head))
            file.seek(len(self.head))
            return file.read(end - len(self.head))

    def records(self, body: bytes) -> list[bytes]:
        """The rows of its body, each with its end of line, blank lines left out."""
        found: list[bytes] = []
        quoted, inside = self.content_type.startswith(CSV), False
        for line in _lines(io.BytesIO(body[len(self.head) :]), quoted):
            if inside:
                found[-1] += line
            elif line.strip():
                found.append(line)
            if quoted and b'"' in line:
                inside = not _CLOSED(b'"' + line if inside else line)
        return [each if each.endswith(b"\n") else each + b"\n" for each in found]


def rows_of(
    path: Path, rows: int, size: int, header: bool | None = None, name: str = ""
) -> list[Part]:
    """The parts of a table, of at most so many rows and about so many bytes.

    ``header`` says whether a CSV file has a line of names; None: as it looks. ``name`` tells files
    in several folders apart.

    Raises:
        ConfigurationError: its extension is none of :data:`TABLES`, it cannot be read, or pyarrow
            is needed and not installed.
    """
    kind = TABLES.get(path.suffix.lower())
    if kind is None:
        raise ConfigurationError(
            f"{path} cannot be read in parts. Allowed: {', '.join(TABLES)}, or a folder of files."
        )
    stem = hashlib.sha256((name or path.name).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    try:
        moment = path.stat().st_mtime_ns
        if kind == PARQUET:
            return list(_of_parquet(path, stem, moment, rows))
        with path.open("rb") as file:
            return list(_of_lines(file, path, stem, moment, kind, (rows, size), header))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and below, by name; hidden ones are left out.

    Raises:
        OSError: a folder cannot be listed.
    """

    def refused(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refused):
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += [Path(parent, each) for each in names if not each.startswith(".")]
    return sorted(each for each in found if each.is_file())


def mini_batches(folder: Path, count: int) -> list[Part]:
    """The files of a folder and below, so many in each part; raises OSError."""
    found = files_below(folder)
    groups = [found[at : at + count] for at in range(0, len(found), count)]
    return [_of_files(group, at * count + 1) for at, group in enumerate(groups)]


def changed(part: Part) -> int:
    """When the files of a part have changed last, or 0 when one is gone."""
    try:
        return max(os.stat(each).st_mtime_ns for each in part.paths)
    except OSError:
        return 0


def of_all(parts: Sequence[Part]) -> int:
    """A moment that stands for all parts: less than a second before that of the newest file, and
    another for other files, of which several may be of the same moment.

    Of one table it is the same however it is cut: its size and the beginning of the names count.
    """
    if not parts:
        return 0
    latest = max(each.moment for each in parts)
    said = "\n".join(each.name for each in parts)
    if len({path for each in parts for path in each.paths}) == 1:
        said = f"{parts[0].name.partition('-')[0]} {parts[-1].end}"
    digest = hashlib.sha256(said.encode()).digest()
    return latest - int.from_bytes(digest[:4]) % 1_000_000_000


def _of_files(paths: list[Path], first: int) -> Part:
    status = [each.stat() for each in paths]
    said = [f"{path} {s.st_size} {s.st_mtime_ns}" for path, s in zip(paths, status, strict=True)]
    digest = hashlib.sha256("\n".join(said).encode("utf-8", "surrogateescape")).hexdigest()
    moment = max(each.st_mtime_ns for each in status)
    return Part(f"{first:09}-{digest[:16]}", tuple(map(str, paths)), moment, first, len(paths))


def _of_lines(
    file: BinaryIO,
    path: Path,
    stem: str,
    moment: int,
    kind: str,
    most: tuple[int, int],
    header: bool | None,
) -> Iterator[Part]:
    head = b""
    if kind == CSV:
        head, kind = _head_of(file, path, header)
    first = 1
    for start, end, rows in _cuts(file, len(head), kind != LINES, *most):
        name = f"{stem}-{start:014}-{end:014}"
        place = (moment, first, rows, kind, start, end)
        yield Part(name, (str(path),), *place, head=head)
        first += rows


def _head_of(file: BinaryIO, path: Path, header: bool | None) -> tuple[bytes, str]:
    """The record of names, which each part begins with, and the content type of the parts."""
    from ..formats.csv import header_of

    cuts = _cuts(file, 0, True, 1, _LONGEST_LINE)
    ends = [end for _, end, _ in (each for each, _ in zip(cuts, range(2), strict=False))]
    file.seek(0)
    sample = file.read(ends[-1] if ends else 0)
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigurationError(f"{path} is UTF-16. Allowed in a file read in parts: UTF-8.")
    names = header_of(sample, UNLIMITED) if sample and header is None else None
    file.seek(0)
    if not ends or not (header or names):
        return b"", f"{CSV}; header=absent"
    # A header of positions is read as pandas means it, unless it is said that it is one.
    positions = names is not None and names == [*map(str, range(len(names)))]
    return file.read(ends[0]), CSV if positions else f"{CSV}; header=present"


def _cuts(
    file: BinaryIO, start: int, quoted: bool, most: int, size: int
) -> Iterator[tuple[int, int, int]]:
    """Where parts begin and end, and their rows; a line end within quotes (RFC 4180) ends none."""
    begun = at = start
    count, inside = 0, False
    for line in _lines(file, quoted):
        at += len(line)
        is_row = inside or bool(line.strip())
        if quoted and b'"' in line:
            inside = not _CLOSED(b'"' + line if inside else line)
        if inside:
            continue
        count += is_row
        if count >= most or (count and at - begun >= size):
            yield begun, at, count
            begun, count = at, 0
    if count or inside:
        yield begun, at, count + inside


def _lines(file: BinaryIO, quoted: bool) -> Iterator[bytes]:
    """Lines with their ends, which in CSV a carriage return alone is too, as pandas has it."""
    rest = b""
    for line in iter(partial(file.readline, _LONGEST_LINE), b""):
        if not (quoted and (rest or not line.endswith(b"\n") or line.find(b"\r", 0, -2) >= 0)):
            yield line
            continue
        found = (rest + line).splitlines(keepends=True)
        # The next bytes may be more of the last line, or the line feed after its return.
        is_whole = found[-1].endswith(b"\n") or len(found[-1]) >= _LONGEST_LINE
        rest = b"" if is_whole else found.pop()
        yield from found
    if rest:
        yield rest


def head_end(body: bytes) -> int:
    """Where the first record of a CSV ends."""
    return next((end for _, end, _ in _cuts(io.BytesIO(body), 0, True, 1, _LONGEST_LINE)), 0)


def _pyarrow() -> Any:
    try:
        import pyarrow as found
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Parquet needs pyarrow, which is not installed: pip install 'scoring-runtime[parquet]'"
        ) from None
    return found


def _of_parquet(path: Path, stem: str, moment: int, most: int) -> Iterator[Part]:
    arrow = _pyarrow()
    try:
        about = arrow.parquet.ParquetFile(path).metadata
    except arrow.ArrowException as error:
        raise ConfigurationError(f"{path} is not a Parquet file: {error}") from None
    names = about.schema.to_arrow_schema().names
    if twice := next((each for each in names if names.count(each) > 1), None):
        raise ConfigurationError(f"{path} has two columns {twice!r}; each needs its own name.")
    first = 1
    for group in range(about.num_row_groups):
        there = about.row_group(group).num_rows
        for start in range(0, there, most):
            end = min(start + most, there)
            name = f"{stem}-{group:06}-{start:010}-{end:010}"
            yield Part(name, (str(path),), moment, first, end - start, LINES, start, end, group)
            first += end - start


@lru_cache(maxsize=1)
def _first_keys(path: str, moment: int) -> list[str]:
    from ..values.body import parse_json

    with open(path, "rb") as file:
        lines = (line for line in iter(partial(file.readline, _LONGEST_LINE), b"") if line.strip())
        try:
            first = parse_json(next(lines, b"").removeprefix(b"\xef\xbb\xbf"))
        except (ValueError, RecursionError):
            return []  # which is said when the row is scored
    return list(first) if isinstance(first, dict) else []


@lru_cache(maxsize=1)
def _row_group(path: str, moment: int, group: int) -> Any:
    """A row group is read as a whole; its parts come one after the other."""
    return _pyarrow().parquet.ParquetFile(path).read_row_group(group)


def _json_lines(rows: Any) -> bytes:
    from ..values.json_results import encoder

    return b"".join(map(b"%b\n".__mod__, map(encoder(), rows.to_pylist())))


def _parquet(rows: Any) -> bytes:
    out = io.BytesIO()
    _pyarrow().parquet.write_table(rows, out)
    return out.getvalue()
