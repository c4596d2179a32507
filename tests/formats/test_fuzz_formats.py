"""atheris finds no bytes that crash the readers of binary formats, or that take much memory."""

from __future__ import annotations

import datetime
import io
from pathlib import Path

import numpy as np
import pyarrow as pa

from scoring_runtime.formats import arrow_stream, npy
from tests.fuzz import run_target


def npy_corpus() -> list[bytes]:
    """One body for each kind of array."""
    kinds = ("?", "i1", ">i4", "f2", ">f8", "c16", "U3", ">U2", "S3", "M8[s]", "m8[25us]")
    bodies = [npy.encode({"y": np.arange(6).reshape(2, 3).astype(kind)}) for kind in kinds]
    for values in (
        np.zeros(2, [("a", "i1"), ("b", ">f8"), ("c", "U2")]),
        np.asfortranarray(np.eye(3)),
        np.zeros((0, 2)),
    ):
        out = io.BytesIO()
        np.lib.format.write_array(out, values, (2, 0))
        bodies.append(out.getvalue())
    return bodies


def arrow_corpus() -> list[bytes]:
    """One body for each type, as it is and compressed, and one of all that are written here."""
    day = datetime.date(2024, 1, 2)
    arrays = [
        pa.array([1, None, 3]),
        pa.array([1.5, None, 3.5]),
        pa.array([1, 2, 3], pa.float16()),
        pa.array([True, False, None]),
        pa.array(["a", "éé", None]),
        pa.array(["a", "b", "c"], pa.large_utf8()),
        pa.array([b"1", b"", None]),
        pa.array([day, None, day]),
        pa.array([1, 2, None], pa.timestamp("us", "UTC")),
        pa.array([1, 2, None], pa.decimal128(5, 2)),
        pa.array(["a", "bb", "a"]).dictionary_encode(),
        pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int16(), 2)),
        pa.nulls(3),
    ]
    tables = [pa.table({"x": each}) for each in arrays]
    made = [stream(table, None) for table in tables]
    made += [stream(table, codec) for table in tables for codec in ("lz4", "zstd")]
    outputs = {"a": np.eye(2), "b": np.array(["x", "y"], dtype=object), "c": np.array([1, 2])}
    return [*made, arrow_stream.encode(outputs)]


def stream(table: pa.Table, codec: str | None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)
    return bytes(sink.getvalue())


def test_npy_survives_a_hundred_thousand_bodies(tmp_path: Path) -> None:
    done = run_target("fuzz_npy", npy_corpus(), tmp_path, runs=100_000)
    assert done.returncode == 0, done.stderr[-4_000:]
    assert "stat::number_of_executed_units: 100000" in done.stderr


def test_arrow_survives_fifty_thousand_bodies(tmp_path: Path) -> None:
    done = run_target("fuzz_arrow", arrow_corpus(), tmp_path, runs=50_000)
    assert done.returncode == 0, done.stderr[-4_000:]
    assert "stat::number_of_executed_units: 50000" in done.stderr


def test_a_target_that_fails_is_seen(tmp_path: Path) -> None:
    """The runner would notice: a body that the target does not survive ends it with an error."""
    done = run_target("fuzz_failing", [b"boom"], tmp_path, runs=100)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert [path.name[:6] for path in tmp_path.iterdir() if path.is_file()] == ["crash-"]
