"""Arrow IPC streams: what pyarrow writes is read, and nothing hostile reaches pyarrow's readers."""

from __future__ import annotations

import datetime
import struct
import subprocess
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from scoring_runtime.errors import InputTooLarge, NotAcceptable, SchemaMismatch, UndecodableInput
from scoring_runtime.formats import arrow_messages, arrow_stream
from scoring_runtime.formats.arrow_flatbuffers import Table
from scoring_runtime.values.content import Columns, Limits, Tensors
from tests.fuzz.mutations import mutated, only_input_errors

LIMITS = Limits(rows=1_000, values=10_000, bytes=1_000_000)


def stream(table: pa.Table, chunk: int | None = None, **options: Any) -> bytes:
    """As pyarrow writes it, ``chunk`` rows a batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return bytes(sink.getvalue())


def column(values: Any, limits: Limits = LIMITS) -> Any:
    """The only column of a table, read again."""
    content = arrow_stream.decode(stream(pa.table({"x": values}), 2), limits)
    return content[0]["x"]


def read_back(body: bytes) -> pa.Table:
    with pa.ipc.open_stream(body) as reader:
        return reader.read_all()


# --- types ----------------------------------------------------------------------------------------

NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()]
NUMBERS += [pa.uint64(), pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_numbers_are_arrays_of_their_own_type(kind: pa.DataType) -> None:
    values = column(pa.array([1, 2, 3], kind))
    assert values.dtype == kind.to_pandas_dtype() and values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("array", "dtype", "values"),
    [
        pytest.param(pa.array([True, False, True]), "bool", [True, False, True], id="bool"),
        pytest.param(
            pa.array([0, None, 1], pa.date32()),
            "datetime64[D]",
            [datetime.date(1970, 1, 1), None, datetime.date(1970, 1, 2)],
            id="date32",
        ),
        pytest.param(
            pa.array([0, None, 86_400_000], pa.date64()),
            "datetime64[ms]",
            [datetime.datetime(1970, 1, 1), None, datetime.datetime(1970, 1, 2)],
            id="date64",
        ),
        pytest.param(
            pa.array([1, None, 2], pa.timestamp("us", "Europe/Oslo")),
            "datetime64[us]",
            [
                datetime.datetime(1970, 1, 1, 0, 0, 0, 1),
                None,
                datetime.datetime(1970, 1, 1, 0, 0, 0, 2),
            ],
            id="timestamp with a time zone",
        ),
    ],
)
def test_other_plain_types_are_arrays(array: pa.Array, dtype: str, values: list[Any]) -> None:
    read = column(array)
    assert read.dtype == dtype and read.tolist() == values


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_nulls_among_floats_are_nan(kind: pa.DataType) -> None:
    read = column(pa.array([1, None, 3], kind))
    assert read.dtype == kind.to_pandas_dtype()
    assert np.array_equal(read, [1, np.nan, 3], equal_nan=True)


@pytest.mark.parametrize(
    ("array", "values"),
    [
        pytest.param(
            pa.array([1, None, 2**63 - 1]), [1, None, 2**63 - 1], id="integers with nulls"
        ),
        pytest.param(pa.array([True, None, False]), [True, None, False], id="booleans with nulls"),
        pytest.param(pa.array(["a", "", None, "żółw"]), ["a", "", None, "żółw"], id="utf8"),
        pytest.param(pa.array(["a", None], pa.large_utf8()), ["a", None], id="large_utf8"),
        pytest.param(pa.array([b"\xff", None, b""]), [b"\xff", None, b""], id="binary"),
        pytest.param(pa.array([b"\xff"], pa.large_binary()), [b"\xff"], id="large_binary"),
        pytest.param(pa.nulls(3), [None, None, None], id="null"),
        pytest.param(
            pa.array(["b", None, "a", "b"]).dictionary_encode(),
            ["b", None, "a", "b"],
            id="dictionary",
        ),
        pytest.param(
            pa.array([3, 1, 3], pa.int64()).dictionary_encode(),
            [3, 1, 3],
            id="dictionary of integers",
        ),
        pytest.param(
            pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([None, "x"])),
            [None, "x"],
            id="dictionary with a null",
        ),
        pytest.param(
            pa.array([Decimal("0.10"), Decimal("2.50")]).dictionary_encode(),
            [0.1, 2.5],
            id="dictionary of decimals",
        ),
    ],
)
def test_values_without_a_type_of_numpy_are_lists(array: pa.Array, values: list[Any]) -> None:
    read = column(array)
    assert type(read) is list and read == values


def test_a_dictionary_of_dates_gives_dates() -> None:
    days = pa.array([0, 1, 0], pa.date32()).dictionary_encode()
    assert column(days) == [np.datetime64(0, "D"), np.datetime64(1, "D"), np.datetime64(0, "D")]


@pytest.mark.parametrize(
    "kind",
    [pa.decimal32(7, 2), pa.decimal64(9, 2), pa.decimal128(9, 2), pa.decimal256(50, 2)],
    ids=str,
)
def test_decimals_are_the_nearest_floats(kind: pa.DataType) -> None:
    read = column(pa.array([Decimal("0.10"), None, Decimal("-123.45")], kind))
    assert read.dtype == np.float64
    assert np.array_equal(read, [0.1, np.nan, -123.45], equal_nan=True)


def test_lists_of_fixed_size_make_tensors() -> None:
    table = pa.table(
        {
            "m": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
            "f": pa.array([[1.5], [None], [2.5]], pa.list_(pa.float32(), 1)),
            "s": ["a", "b", "c"],
        }
    )
    content = arrow_stream.decode(stream(table, 2), LIMITS)
    assert type(content) is Tensors
    assert content.tensors["m"].dtype == np.int32
    assert content.tensors["m"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert np.array_equal(content.tensors["f"], [[1.5], [np.nan], [2.5]], equal_nan=True)
    assert content.tensors["s"] == ["a", "b", "c"]


def test_a_table_keeps_its_columns_in_order_and_typed() -> None:
    table = pa.table({"b": [1, 2], "a": ["x", "y"], "ü": [0.5, 1.5]})
    content = arrow_stream.decode(stream(table), LIMITS)
    assert type(content) is Columns and content.typed is True
    assert list(content.columns) == ["b", "a", "ü"]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.utf8(), pa.list_(pa.int8(), 2), pa.bool_()], ids=str
)
@pytest.mark.parametrize("batches", [0, 1], ids=["no batch", "an empty batch"])
def test_a_stream_without_rows_has_its_columns(kind: pa.DataType, batches: int) -> None:
    schema = pa.schema({"x": kind})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for _ in range(batches):
            writer.write_batch(_none(schema))
    (values,) = arrow_stream.decode(bytes(sink.getvalue()), LIMITS)[0].values()
    assert len(values) == 0


def _none(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def test_the_end_of_the_stream_may_be_left_out() -> None:
    body = stream(pa.table({"x": [1.0, 2.0]}))
    assert body.endswith(b"\xff\xff\xff\xff\0\0\0\0")
    assert arrow_stream.decode(body[:-8], LIMITS)[0]["x"].tolist() == [1.0, 2.0]


def test_what_pandas_writes_is_read() -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.Categorical(["u", "v"])})
    content = arrow_stream.decode(stream(pa.Table.from_pandas(frame)), LIMITS)
    assert content[0]["a"].tolist() == [1, 2]
    assert content[0]["b"] == ["x", None]
    assert content[0]["c"] == ["u", "v"]


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_buffers_are_read_within_the_limit(codec: str) -> None:
    values = np.zeros(1_000)
    body = stream(pa.table({"x": values, "s": ["tall"] * 1_000}), compression=codec)
    assert arrow_stream.decode(body, LIMITS)[0]["x"].tolist() == values.tolist()
    with pytest.raises(InputTooLarge) as refused:
        arrow_stream.decode(body, LIMITS._replace(bytes=4_000))
    assert (
        "bytes once decompressed; at most 4000 are taken at once (SCORING_MAX_BODY_BYTES)"
        in str(refused.value)
    )


def test_floats_are_not_copied() -> None:
    body = stream(pa.table({"x": np.arange(4.0)}))
    read = arrow_stream.decode(body, LIMITS)[0]["x"]
    assert np.shares_memory(read, np.frombuffer(body, np.uint8))


def test_a_stream_that_starts_anywhere_in_memory_is_read_aligned() -> None:
    body = stream(
        pa.table({"x": np.arange(4.0), "m": pa.array([[1, 2]] * 4, pa.list_(pa.int32(), 2))})
    )
    for shift in range(1, 8):
        moved = memoryview(b"\0" * shift + body)[shift:]
        content = arrow_stream.decode(moved, LIMITS)  # type: ignore[arg-type]
        assert all(values.flags.aligned for values in content[0].values())
        assert content[0]["x"].tolist() == [0, 1, 2, 3]


# --- what is refused ------------------------------------------------------------------------------

REFUSED = [
    (pa.array([datetime.time(1)]), "time"),
    (pa.array([datetime.timedelta(1)]), "duration"),
    (pa.array([[1]]), "list"),
    (pa.array([[1]], pa.large_list(pa.int8())), "large_list"),
    (pa.array([[1]], pa.list_view(pa.int8())), "list_view"),
    (pa.array([[1]], pa.large_list_view(pa.int8())), "large_list_view"),
    (pa.array([{"a": 1}]), "struct"),
    (pa.array([[("a", 1)]], pa.map_(pa.utf8(), pa.int8())), "map"),
    (pa.array([b"12"], pa.binary(2)), "fixed_size_binary"),
    (pa.array(["a"], pa.string_view()), "string_view"),
    (pa.array([b"a"], pa.binary_view()), "binary_view"),
    (pa.array([pa.MonthDayNano([1, 2, 3])]), "interval"),
    (pa.RunEndEncodedArray.from_arrays([2], [1]), "run_end_encoded"),
    (
        pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
        "union",
    ),
    (pa.array([["a"]], pa.list_(pa.utf8(), 1)), "fixed_size_list of something else than numbers"),
    (
        pa.array([[[1]]], pa.list_(pa.list_(pa.int8(), 1), 1)),
        "fixed_size_list of something else than numbers",
    ),
    (
        pa.FixedSizeListArray.from_arrays(pa.array([1, 2]).dictionary_encode(), 2),
        "fixed_size_list of dictionaries or lists",
    ),
    (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int8(), [1]), pa.array([[1]], pa.list_(pa.int8(), 1))
        ),
        "extension",
    ),
    (pa.array([b"0" * 16], pa.uuid()), "fixed_size_binary"),
]


@pytest.mark.parametrize(
    ("array", "name"), REFUSED, ids=[str(each[0].type)[:30] for each in REFUSED]
)
def test_other_types_are_refused_by_name(array: pa.Array, name: str) -> None:
    body = stream(pa.table({"fine": pa.nulls(len(array)), "odd": array}))
    with pytest.raises(SchemaMismatch) as refused:
        arrow_stream.decode(body, LIMITS)
    assert str(refused.value).startswith(
        f"The column 'odd' of the Arrow stream is of the type {name}, which is not read. "
        "Allowed: bool, integers, floats, utf8,"
    )


def test_nulls_in_lists_of_integers_are_refused() -> None:
    for values in ([[1, None]], [None, [1, 2]]):
        with pytest.raises(SchemaMismatch, match="column 'x' of the Arrow stream has nulls among"):
            column(pa.array(values, pa.list_(pa.int64(), 2)))


def test_two_columns_of_the_same_name_are_refused() -> None:
    table = pa.table([[1], [2]], names=["a", "a"])
    with pytest.raises(SchemaMismatch, match="has two columns named 'a'"):
        arrow_stream.decode(stream(table), LIMITS)


@pytest.mark.parametrize(
    ("table", "limits", "message"),
    [
        pytest.param(
            pa.table({"x": pa.nulls(1_001)}),
            LIMITS,
            "has 1001 rows; at most 1000 are taken at once (SCORING_MAX_ROWS)",
            id="rows",
        ),
        pytest.param(
            pa.table({f"c{i}": pa.nulls(1_000) for i in range(11)}),
            LIMITS,
            "has 11000 values; at most 10000 are taken at once (SCORING_MAX_VALUES)",
            id="values",
        ),
        pytest.param(
            pa.table({"m": pa.array([[0] * 21] * 500, pa.list_(pa.int8(), 21))}),
            LIMITS,
            "has 10500 values; at most 10000",
            id="values in lists",
        ),
        pytest.param(
            pa.table({"d": pa.DictionaryArray.from_arrays([0], pa.array(range(10_001)))}),
            LIMITS,
            "has 10001 values; at most 10000",
            id="values in a dictionary",
        ),
        pytest.param(
            pa.table({"s": ["ab"] * 1_000}),
            LIMITS._replace(bytes=6_000),
            "would take about 0 MB of memory once read; at most 10 times SCORING_MAX_BODY_BYTES",
            id="memory of texts",
        ),
    ],
)
def test_no_more_than_the_limits_allow(table: pa.Table, limits: Limits, message: str) -> None:
    with pytest.raises(InputTooLarge) as refused:
        arrow_stream.decode(stream(table), limits)
    assert message in str(refused.value)


def test_rows_of_all_batches_count() -> None:
    body = stream(pa.table({"x": pa.nulls(10)}), 3)
    assert arrow_stream.decode(body, LIMITS._replace(rows=10))[0]["x"] == [None] * 10
    with pytest.raises(InputTooLarge, match="has 10 rows; at most 9"):
        arrow_stream.decode(body, LIMITS._replace(rows=9))


def test_batches_without_rows_count_as_values() -> None:
    schema = pa.schema({f"c{i}": pa.null() for i in range(100)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for _ in range(100):
            writer.write_batch(_none(schema))
    with pytest.raises(InputTooLarge, match="has 10100 values; at most 10000"):
        arrow_stream.decode(bytes(sink.getvalue()), LIMITS)


def test_delta_dictionaries_are_refused() -> None:
    schema = pa.schema({"d": pa.dictionary(pa.int8(), pa.utf8())})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for words in (["a"], ["a", "b"]):
            made = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(words))
            writer.write_batch(pa.RecordBatch.from_arrays([made], schema=schema))
    with pytest.raises(SchemaMismatch, match="has delta dictionaries, which are not read; send"):
        arrow_stream.decode(bytes(sink.getvalue()), LIMITS)


def test_a_dictionary_that_is_replaced_is_read() -> None:
    schema = pa.schema({"d": pa.dictionary(pa.int8(), pa.utf8())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for words in (["a"], ["b", "c"]):
            indices = pa.array(range(len(words)), pa.int8())
            made = pa.DictionaryArray.from_arrays(indices, pa.array(words))
            writer.write_batch(pa.RecordBatch.from_arrays([made], schema=schema))
    assert arrow_stream.decode(bytes(sink.getvalue()), LIMITS)[0]["d"] == ["a", "b", "c"]


def changed(body: bytes, old: bytes, new: bytes, count: int = 1) -> bytes:
    assert body.count(old) >= 1 and len(old) == len(new)
    return body.replace(old, new, count)


PLAIN = stream(pa.table({"xyz": np.arange(4.0)}))
BATCH = PLAIN.index(b"\xff\xff\xff\xff", 8)
FILE = pa.BufferOutputStream()
with pa.ipc.new_file(FILE, pa.schema({"x": pa.int8()})) as _writer:
    pass

BROKEN = {
    "empty": (b"", "The Arrow body is empty."),
    "json": (b'{"a": 1}', "a message does not begin with 0xFFFFFFFF."),
    "a file": (bytes(FILE.getvalue()), "0xFFFFFFFF (a file of Arrow is no stream)."),
    "only the end": (b"\xff\xff\xff\xff\0\0\0\0", "the schema is not its first message."),
    "no schema": (PLAIN[BATCH:], "the schema is not its first message."),
    "two streams": (PLAIN + PLAIN, f"{len(PLAIN)} bytes follow the end of the stream."),
    "two schemas": (PLAIN[:BATCH] * 2, "message 2 is neither a record batch nor a dictionary."),
    "cut in a length": (PLAIN[:6], "its metadata point beyond their end."),
    "cut in metadata": (PLAIN[:50], "a message claims"),
    "cut in data": (PLAIN[:-16], "a message claims 32 bytes of data, and 24 are there."),
    "negative length": (b"\xff\xff\xff\xff\xff\xff\xff\xff", "claims -1 bytes of metadata."),
    "no flatbuffer": (b"\xff\xff\xff\xff\x08\0\0\0" + b"\xff" * 8, "point beyond their end."),
    "name of no UTF-8": (changed(PLAIN, b"xyz", b"x\xffz"), "utf-8"),
    "text of no UTF-8": (
        changed(stream(pa.table({"s": ["abcdefgh"]})), b"abcdefgh", b"abc\xffefgh"),
        "Invalid UTF8",
    ),
    "offsets that go back": (
        changed(
            stream(pa.table({"s": ["ab", "cdef"]})),
            struct.pack("<3i", 0, 2, 6),
            struct.pack("<3i", 0, 9, 6),
        ),
        "is not an Arrow IPC stream that can be read: Column 0",
    ),
    "offsets that go beyond": (
        changed(
            stream(pa.table({"s": ["ab", "cdef"]})),
            struct.pack("<3i", 0, 2, 6),
            struct.pack("<3i", 0, 2, 600),
        ),
        "is not an Arrow IPC stream that can be read: Column 0",
    ),
    "indices that go beyond": (
        changed(
            stream(pa.table({"d": pa.array(["p", "q", "p"]).dictionary_encode()})),
            struct.pack("<3i", 0, 1, 0),
            struct.pack("<3i", 0, 2, 0),
        ),
        "is not an Arrow IPC stream that can be read: Column 0",
    ),
    "no room for its rows": (
        changed(PLAIN, struct.pack("<2q", 4, 0), struct.pack("<2q", 5, 0)),
        "is not an Arrow IPC stream that can be read",
    ),
    "a buffer beyond the data": (
        changed(PLAIN, struct.pack("<2q", 0, 32), struct.pack("<2q", 8, 32)),
        "a buffer goes beyond the 32 bytes of its message.",
    ),
    "a buffer before the data": (
        changed(PLAIN, struct.pack("<2q", 0, 32), struct.pack("<2q", -8, 32)),
        "a buffer goes beyond the 32 bytes of its message.",
    ),
    "a buffer without an end": (
        changed(PLAIN, struct.pack("<2q", 0, 32), struct.pack("<2q", 2**62, 2**62)),
        "a buffer goes beyond the 32 bytes of its message.",
    ),
    "buffers that are the same": (
        changed(
            stream(pa.table({"a": [1.5], "b": [2.5]})),
            struct.pack("<8q", 0, 0, 0, 8, 8, 0, 8, 8),
            struct.pack("<8q", 0, 16, 0, 16, 8, 0, 8, 8),
        ),
        "several buffers are the same bytes.",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream_is_refused_with_its_cause(name: str) -> None:
    body, message = BROKEN[name]
    with pytest.raises(UndecodableInput) as refused:
        arrow_stream.decode(body, LIMITS)
    assert message in str(refused.value)


def test_rows_that_are_claimed_are_counted_before_anything_is_allocated() -> None:
    body = stream(pa.table({"x": pa.nulls(77)}))
    claimed = body.replace(struct.pack("<q", 77), struct.pack("<q", 2**40))
    with pytest.raises(InputTooLarge, match=f"has {2**40} rows"):
        arrow_stream.decode(claimed, LIMITS)
    negative = body.replace(struct.pack("<q", 77), struct.pack("<q", -77))
    with pytest.raises(UndecodableInput, match="a message has -77 rows"):
        arrow_stream.decode(negative, LIMITS)


def test_a_compressed_length_that_is_claimed_is_counted_first() -> None:
    body = stream(pa.table({"x": np.zeros(100)}), compression="zstd")
    claim = struct.pack("<q", 800)
    with pytest.raises(InputTooLarge, match=f"has {2**40} bytes once decompressed"):
        arrow_stream.decode(changed(body, claim, struct.pack("<q", 2**40)), LIMITS)
    with pytest.raises(UndecodableInput, match="a compressed buffer claims -800 bytes"):
        arrow_stream.decode(changed(body, claim, struct.pack("<q", -800)), LIMITS)
    with pytest.raises(UndecodableInput, match="an Arrow IPC stream that can be read"):
        arrow_stream.decode(changed(body, claim, struct.pack("<q", 808)), LIMITS)


@pytest.mark.parametrize("kind", [pa.decimal128(5, 2), pa.decimal32(5, 2)], ids=str)
def test_a_decimal_of_a_scale_that_cannot_be_written_is_refused(kind: pa.DataType) -> None:
    body = stream(pa.table({"x": pa.array([1], kind)}))
    scaled = body.replace(struct.pack("<2i", 2, 5), struct.pack("<2i", 76, 5))
    scaled = scaled.replace(struct.pack("<2i", 5, 2), struct.pack("<2i", 5, 76))
    assert scaled != body
    with pytest.raises(
        SchemaMismatch, match=r"'x' of the Arrow stream is of the type decimal\d+\(5, 76"
    ):
        arrow_stream.decode(scaled, LIMITS)


def pointing_to(body: bytes, start: int, length: int, target: int) -> bytes:
    """The same stream, but for a vector of places that all are ``target`` then."""
    places = [target - (start + 4 * n) for n in range(length)]
    assert min(places) > 0
    return body[:start] + struct.pack(f"<{length}I", *places) + body[start + 4 * length :]


def schema_of(body: bytes) -> Table:
    schema = Table.root(body[8 : 8 + int.from_bytes(body[4:8], "little")]).table(2)
    assert schema is not None
    return schema


@pytest.mark.parametrize("place", ["schema", "field"])
def test_metadata_that_stand_for_more_than_they_are_never_reach_pyarrow(place: str) -> None:
    """Entries that all point to the same long text: read one by one, they are gigabytes."""
    pairs = {"long": "v" * 20_000} | {f"{n:03}": "" for n in range(99)}
    field = pa.field("x", pa.int8(), metadata=pairs if place == "field" else None)
    schema = pa.schema([field], metadata=pairs if place == "schema" else None)
    body = stream(schema.empty_table())
    assert arrow_stream.decode(body, LIMITS)[0]["x"].tolist() == []
    table, vector = schema_of(body), 2
    if place == "field":
        table, vector = next(table.tables(1)), 6
    longest = max(table.tables(vector), key=lambda pair: len(pair.text(1)))
    assert longest.text(1) == b"v" * 20_000
    start, length = table.vector(vector, 4)
    hostile = pointing_to(body, 8 + start, length, 8 + longest.place)
    with pytest.raises(UndecodableInput, match="its metadata hold the same bytes many times"):
        arrow_stream.decode(hostile, LIMITS)


def test_columns_that_are_one_column_never_reach_pyarrow() -> None:
    """Places in the schema that all point to the same field: four bytes a column."""
    fields = [pa.field("x" * 300, pa.int8()), *(pa.field(f"{n}", pa.int8()) for n in range(999))]
    body = stream(pa.schema(fields).empty_table())
    assert len(arrow_stream.decode(body, LIMITS)[0]) == 1_000
    schema = schema_of(body)
    start, length = schema.vector(1, 4)
    hostile = pointing_to(body, 8 + start, length, 8 + next(schema.tables(1)).place)
    with pytest.raises(UndecodableInput, match="its metadata hold the same bytes many times"):
        arrow_stream.decode(hostile, LIMITS)


def without_field(body: bytes, table: Table, field: int, message: int) -> bytes:
    """The same stream, but for a table in the message at ``message`` that lacks a field."""
    vtable = message + 8 + table.vtable + 4 + 2 * field
    assert body[vtable : vtable + 2] != b"\0\0"
    return body[:vtable] + b"\0\0" + body[vtable + 2 :]


def test_a_dictionary_without_values_is_refused() -> None:
    body = stream(pa.table({"d": pa.array(["a", "b"]).dictionary_encode()}))
    at = body.index(b"\xff\xff\xff\xff", 8)
    length = int.from_bytes(body[at + 4 : at + 8], "little")
    header = Table.root(body[at + 8 : at + 8 + length]).table(2)
    assert header is not None
    with pytest.raises(UndecodableInput, match="a dictionary has no values"):
        arrow_stream.decode(without_field(body, header, 1, at), LIMITS)


def test_a_message_without_a_header_is_refused() -> None:
    length = int.from_bytes(PLAIN[BATCH + 4 : BATCH + 8], "little")
    message = Table.root(PLAIN[BATCH + 8 : BATCH + 8 + length])
    with pytest.raises(UndecodableInput, match="a message has no header"):
        arrow_stream.decode(without_field(PLAIN, message, 2, BATCH), LIMITS)


def test_plain_values_with_columns_inside_are_refused() -> None:
    """A list that says it is a number: its child would be read as the next column."""
    body = stream(pa.table({"l": pa.array([[1.5, 2.5]], pa.list_(pa.float64(), 2))}))
    field = next(schema_of(body).tables(1))
    kind = 8 + field.location(2)
    assert body[kind] == 16
    with pytest.raises(UndecodableInput, match="a column of plain values has columns inside"):
        arrow_stream.decode(body[:kind] + b"\x03" + body[kind + 1 :], LIMITS)


def test_a_schema_that_was_checked_before_is_that_of_the_same_bytes_only() -> None:
    """What is kept goes by every byte of it: a changed one is refused as if it were the first."""
    body = stream(pa.table({"l": pa.array([[1.5, 2.5]], pa.list_(pa.float64(), 2))}))
    field = next(schema_of(body).tables(1))
    kind = 8 + field.location(2)
    broken = body[:kind] + b"\x03" + body[kind + 1 :]
    for _ in range(3):
        assert "l" in str(arrow_stream.decode(body, LIMITS))
        with pytest.raises(UndecodableInput):
            arrow_stream.decode(broken, LIMITS)


@pytest.mark.parametrize(
    ("limit", "message"),
    [("_MOST_COLUMNS", "more than 2 columns"), ("_MOST_MESSAGES", "more than 2 messages")],
)
def test_columns_and_messages_are_counted(
    monkeypatch: pytest.MonkeyPatch, limit: str, message: str
) -> None:
    body = stream(pa.table({"a": [1, 2], "b": [3, 4], "c": [5, 6]}), 1)
    assert len(arrow_stream.decode(body, LIMITS)[0]) == 3
    monkeypatch.setattr(arrow_messages, limit, 2)
    arrow_messages._columns_of.cache_clear()
    with pytest.raises(InputTooLarge, match=message):
        arrow_stream.decode(body, LIMITS)


def test_metadata_of_pandas_size_are_no_trouble() -> None:
    schema = pa.schema(
        [pa.field(f"c{n}", pa.int8(), metadata={"k": "v" * 100}) for n in range(500)]
    )
    schema = schema.with_metadata({"pandas": "x" * 100_000})
    assert len(arrow_stream.decode(stream(schema.empty_table()), LIMITS)[0]) == 500


def test_too_many_entries_of_metadata_are_refused() -> None:
    schema = pa.schema({"x": pa.int8()}, metadata={str(n): "" for n in range(1_001)})
    with pytest.raises(InputTooLarge, match="more than 1000 entries in one place"):
        arrow_stream.decode(stream(schema.empty_table()), LIMITS)


def test_reading_does_not_start_threads() -> None:
    program = (
        "import threading, os, sys, pyarrow as pa\n"
        "from scoring_runtime.formats import arrow_stream\n"
        "from scoring_runtime.values.content import Limits\n"
        "body = sys.stdin.buffer.read()\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "arrow_stream.decode(body, Limits(1000, 10000, 10**6))\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    body = stream(pa.table({"x": np.zeros(100), "s": ["a"] * 100}), compression="zstd")
    done = subprocess.run(
        [sys.executable, "-c", program], input=body, capture_output=True, check=True
    )
    assert done.stdout == b"0\n"


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "array"),
    [
        pytest.param(np.array([1.5, np.nan]), pa.array([1.5, np.nan]), id="f8"),
        pytest.param(np.array([1, 2], np.float16), pa.array([1, 2], pa.float16()), id="f2"),
        pytest.param(np.array([0.5], np.longdouble), pa.array([0.5]), id="extended"),
        pytest.param(np.array([1, 2], ">i4"), pa.array([1, 2], pa.int32()), id="big-endian"),
        pytest.param(np.arange(6)[::2], pa.array([0, 2, 4]), id="a view"),
        pytest.param(np.array([True, False]), pa.array([True, False]), id="bool"),
        pytest.param(np.array(["ü", ""]), pa.array(["ü", ""]), id="text"),
        pytest.param(np.array(["x", None, 5], object), pa.array(["x", None, "5"]), id="objects"),
        pytest.param(np.array([b"\xff", None], object), pa.array([b"\xff", None]), id="bytes"),
        pytest.param(np.array([b"a"]), pa.array([b"a"]), id="S"),
        pytest.param(
            np.array(["2024-01-02"], "M8[D]"), pa.array([datetime.date(2024, 1, 2)]), id="day"
        ),
        pytest.param(
            np.array(["2024-01"], "M8[M]"), pa.array([datetime.date(2024, 1, 1)]), id="month"
        ),
        pytest.param(np.array([7], "M8[m]"), pa.array([420], pa.timestamp("s")), id="minutes"),
        pytest.param(
            np.array([7, "NaT"], "M8[us]"), pa.array([7, None], pa.timestamp("us")), id="us"
        ),
        pytest.param(
            np.array([7], "M8[25us]"), pa.array([175_000], pa.timestamp("ns")), id="25 us"
        ),
        pytest.param(np.array(3), pa.array([3]), id="a scalar"),
        pytest.param(
            np.array([[1, 2], [3, 4], [5, 6]]),
            pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
            id="2 dimensions",
        ),
        pytest.param(
            np.array([[1, 2], [3, 4]]).T,
            pa.array([[1, 3], [2, 4]], pa.list_(pa.int64(), 2)),
            id="transposed",
        ),
        pytest.param(np.zeros((0, 2)), pa.array([], pa.list_(pa.float64(), 2)), id="no rows"),
    ],
)
def test_each_type_has_its_column(values: NDArray[Any], array: pa.Array) -> None:
    table = read_back(arrow_stream.encode({"y": values}))
    assert table.column_names == ["y"]
    assert table.column("y").type == array.type
    assert str(table.column("y").to_pylist()) == str(array.to_pylist())


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        pytest.param(
            {"y": np.zeros((1, 2, 3))}, "The output 'y' has the shape [1, 2, 3]; a column", id="3"
        ),
        pytest.param(
            {"y": np.zeros((2, 0))}, "The output 'y' has the shape [2, 0]", id="no values"
        ),
        pytest.param(
            {"y": np.zeros(1, complex)}, "is of the type complex128, which no", id="complex"
        ),
        pytest.param({"y": np.array(["\ud800"])}, "which no column of an Arrow", id="half a pair"),
        pytest.param(
            {"a": np.zeros(2), "b": np.zeros(3)}, "are not equally long: a 2, b 3.", id="lengths"
        ),
    ],
)
def test_what_arrow_cannot_hold_is_not_acceptable(outputs: Any, message: str) -> None:
    with pytest.raises(NotAcceptable) as refused:
        arrow_stream.encode(outputs)
    assert message in str(refused.value)


# --- any table, any body --------------------------------------------------------------------------

ANY_DTYPE = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="=")
    | hnp.unsigned_integer_dtypes(endianness="=")
    | hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64))
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(ANY_DTYPE, hnp.array_shapes(max_dims=2, max_side=6)), TEXT)
def test_any_array_comes_back_to_the_bit(values: NDArray[Any], name: str) -> None:
    content = arrow_stream.decode(arrow_stream.encode({name: values}), LIMITS)
    assert type(content) is (Columns if values.ndim == 1 else Tensors)
    read = content[0][name]
    assert read.dtype == values.dtype and read.shape == values.shape
    assert read.tobytes() == values.tobytes()


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT | st.none(), min_size=1, max_size=5), st.booleans())
def test_any_text_comes_back(texts: list[str | None], as_dictionary: bool) -> None:
    array = pa.array(texts, pa.utf8())
    assert column(array.dictionary_encode() if as_dictionary else array) == texts


def _seeds() -> list[bytes]:
    table = pa.table(
        {
            "i": [1, None, 3],
            "f": [1.0, None, 3.0],
            "s": ["a", "é", None],
            "b": pa.array([b"1", b"", None]),
            "o": [True, False, None],
            "d": pa.array(["a", "bb", None]).dictionary_encode(),
            "n": pa.nulls(3),
            "t": pa.array([1, 2, None], pa.timestamp("us", "UTC")),
            "c": pa.array([1, 2, 3], pa.decimal128(5, 2)),
            "l": pa.array([[1.0, 2.0], [3.0, None], [5.0, 6.0]], pa.list_(pa.float64(), 2)),
        }
    )
    single = [table.select([name]) for name in table.column_names]
    return [
        *(stream(each, 2) for each in (table, *single)),
        *(stream(each, 2, compression=codec) for each in single for codec in ("lz4", "zstd")),
    ]


@settings(max_examples=600, deadline=None)
@given(mutated(_seeds()))
def test_a_changed_body_is_read_or_refused_within_memory(body: bytes) -> None:
    only_input_errors(lambda each: arrow_stream.decode(each, LIMITS), body, 2_000_000)
    assert pa.default_memory_pool().max_memory() < 200_000_000
