"""A table as an Arrow IPC stream, ``application/vnd.apache.arrow.stream``
(https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from ..errors import InputTooLarge, NotAcceptable, SchemaMismatch, UndecodableInput
from ..values.content import Columns, Limits, Tensors
from .arrow_messages import ALLOWED, check
from .guarded_json import check_columns, check_memory

# Of a str or int of Python with its place in a list.
_BYTES_AN_OBJECT = 64
# Of decimals by their width in bits; pyarrow has no text for a larger scale.
_MOST_DIGITS = {32: 9, 64: 18, 128: 38, 256: 76}
# Buffers that do not lie as their type asks are copied; this process never swaps bytes.
_OPTIONS = pa.ipc.IpcReadOptions(
    use_threads=False,
    ensure_native_endian=False,
    ensure_alignment=pa.ipc.Alignment.DataTypeSpecific,
)
_Decoded = dict[tuple[Any, ...], list[Any]]


def decode(body: bytes, limits: Limits) -> Columns | Tensors:
    """The table in a stream; with a column of fixed-size lists its columns become tensors.

    ======================  ==================================================================
    bool, integers          array; a list with None where there are nulls
    float16, -32, -64       array, NaN where there are nulls
    decimal                 float64 array, NaN where there are nulls
    date, timestamp         datetime64 array (of UTC, if with a time zone), NaT for nulls
    utf8, binary            list of str or bytes, None where there are nulls
    dictionary              list of its values, None where there are nulls
    null                    list of None
    fixed_size_list         array ``[rows, k]``; nulls only of floats inside the lists, as NaN
    ======================  ==================================================================

    Arrays lie in the body itself where they can, and then cannot be written to.

    Raises:
        UndecodableInput: not a stream, or one that does not hold what its metadata say.
        SchemaMismatch: a column of another type, without its own name, or with nulls where there
            can be none.
        InputTooLarge: more rows or values than the limits allow, compressed buffers of more than
            ``limits.bytes``, or more than ten times as much memory once read.
    """
    claims = check(body, limits)
    try:
        with pa.ipc.open_stream(pa.py_buffer(body), options=_OPTIONS) as reader:
            _check_columns(reader.schema, claims.rows, limits)
            table = reader.read_all()
        table.validate(full=True)
        _check_memory(table, claims.entries, limits)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UndecodableInput(
            f"The body is not an Arrow IPC stream that can be read: {_brief(error)}."
        ) from None
    decoded: _Decoded = {}
    columns = {
        name: _values(column, name, decoded)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    if any(types.is_fixed_size_list(field.type) for field in table.schema):
        return Tensors(columns)
    return Columns(columns)


def encode(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """One record batch; an array of two dimensions is a column of fixed-size lists, text utf8.

    Raises:
        NotAcceptable: more than two dimensions, outputs that are not equally long, or values of a
            type that Arrow has no column for.
    """
    columns = {name: _column(np.atleast_1d(values), name) for name, values in outputs.items()}
    if len({len(column) for column in columns.values()}) > 1:
        shown = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise NotAcceptable(
            f"An Arrow stream holds one table; the outputs are not equally long: {shown}."
        )
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


# --- reading --------------------------------------------------------------------------------------


def _check_columns(schema: pa.Schema, rows: int, limits: Limits) -> None:
    check_columns(len(schema), limits, "The Arrow stream")
    width, seen = 0, set()
    for field in schema:
        _check_type(field)
        width += field.type.list_size if types.is_fixed_size_list(field.type) else 1
        if field.name in seen:
            raise SchemaMismatch(f"The Arrow stream has two columns named {field.name[:100]!r}.")
        seen.add(field.name)
    if rows * width > limits.values:
        raise InputTooLarge(
            f"The Arrow stream has {rows * width} values; at most {limits.values} are taken at "
            "once (SCORING_MAX_VALUES)."
        )


def _check_memory(table: pa.Table, entries: int, limits: Limits) -> None:
    """Refuse what would take far more memory as objects than it has in the stream."""
    objects = entries + table.num_rows * sum(map(_becomes_objects, table.columns))
    memory = objects * _BYTES_AN_OBJECT
    check_memory(memory, limits, "The Arrow stream", "Send fewer rows at once.")


def _check_type(field: pa.Field) -> None:
    kind = field.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_decimal(kind):
        fits = abs(kind.scale) <= _MOST_DIGITS[kind.bit_width]
    elif types.is_fixed_size_list(kind):
        fits = kind.list_size > 0 and kind is field.type
    else:
        fits = True
    if not fits:
        raise SchemaMismatch(
            f"The column {field.name[:100]!r} of the Arrow stream is of the type {field.type}, "
            f"which is not read. Allowed: {ALLOWED}."
        )


def _becomes_objects(column: pa.ChunkedArray) -> bool:
    kind = column.type
    arrays = types.is_floating(kind) or types.is_temporal(kind) or types.is_fixed_size_list(kind)
    return not arrays and not _without_nulls(column)


def _values(column: pa.ChunkedArray, name: str, decoded: _Decoded) -> Any:
    kind = column.type
    if types.is_dictionary(kind):
        return [value for chunk in column.chunks for value in _looked_up(chunk, decoded)]
    if types.is_fixed_size_list(kind):
        return _matrix(column, name)
    if types.is_decimal(kind):
        return np.array([_as_float(value) for value in column.to_pylist()], dtype=np.float64)
    if types.is_temporal(kind) or types.is_floating(kind) or _without_nulls(column):
        return _joined([_array(chunk) for chunk in column.chunks], _empty(kind))
    return column.to_pylist()


def _without_nulls(column: pa.ChunkedArray) -> bool:
    number = types.is_boolean(column.type) or types.is_integer(column.type)
    return bool(number and column.null_count == 0)


def _array(chunk: pa.Array) -> NDArray[Any]:
    values: NDArray[Any] = chunk.to_numpy(zero_copy_only=False)
    return values


def _joined(parts: list[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    if not parts:
        return empty
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _empty(kind: pa.DataType) -> NDArray[Any]:
    return _array(pa.array([], kind))


def _matrix(column: pa.ChunkedArray, name: str) -> NDArray[Any]:
    """Fixed-size lists as an array ``[rows, k]``."""
    kind, inner = column.type, [chunk.flatten() for chunk in column.chunks]
    floats = types.is_floating(kind.value_type)
    if column.null_count or (not floats and any(values.null_count for values in inner)):
        raise SchemaMismatch(
            f"The column {name[:100]!r} of the Arrow stream has nulls among its lists; a "
            "fixed_size_list may only have them in place of floats."
        )
    flat = _joined([_array(values) for values in inner], _empty(kind.value_type))
    return flat.reshape(-1, kind.list_size)


def _looked_up(chunk: pa.DictionaryArray, decoded: _Decoded) -> list[Any]:
    """Each value once in memory, however many columns and batches share the dictionary."""
    entries = chunk.dictionary
    places = (
        entries.type,
        len(entries),
        *(each.address if each else 0 for each in entries.buffers()),
    )
    if places not in decoded:
        decoded[places] = _listed(entries)
    values = decoded[places]
    return [None if index is None else values[index] for index in chunk.indices.to_pylist()]


def _listed(entries: pa.Array) -> list[Any]:
    if types.is_decimal(entries.type):
        return [_as_float(value) for value in entries.to_pylist()]
    if types.is_temporal(entries.type):
        return list(_array(entries))
    listed: list[Any] = entries.to_pylist()
    return listed


def _as_float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


# --- writing --------------------------------------------------------------------------------------


def _column(values: NDArray[Any], name: str) -> pa.Array:
    if values.ndim > 2 or (values.ndim == 2 and values.shape[1] == 0):
        raise NotAcceptable(
            f"The output {name!r} has the shape {list(values.shape)}; a column of an Arrow stream "
            "has one dimension, or two with at least one value a row. Ask for another format, "
            "such as application/json."
        )
    try:
        flat = _flat(np.ascontiguousarray(values).reshape(-1))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise NotAcceptable(
            f"The output {name!r} is of the type {values.dtype}, which no column of an Arrow "
            f"stream holds: {_brief(error)}."
        ) from None
    if values.ndim == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _flat(values: NDArray[Any]) -> pa.Array:
    if values.dtype.kind in "OUS":
        return pa.array(_texts(values.tolist()))
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    if values.dtype.kind == "M":
        values = _moments(values)
    return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))


def _texts(values: list[Any]) -> list[Any]:
    """Bytes when all are, else text."""
    if all(isinstance(value, bytes | None) for value in values):
        return values
    return [None if value is None else str(value) for value in values]


def _moments(values: NDArray[Any]) -> NDArray[Any]:
    """Dates in a unit that Arrow has: days, or seconds and their parts."""
    unit, count = np.datetime_data(values.dtype)
    if unit in ("D", "s", "ms", "us", "ns") and count == 1:
        return values
    return values.astype("M8[D]" if unit in "YMWD" else "M8[s]" if unit in "hms" else "M8[ns]")
