"""What a body holds → the plain Python value of a parameter whose sample is one.

JSON values stay as they are, as in a body by parameter names. What comes from arrays or as text
(CSV) becomes what the sample shows in its place.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputTooLarge, SchemaMismatch
from ..values.content import DATATYPES, Columns, Content, Limits, Rows, Spec, Tensors

DATATYPE_OF = {bool: "BOOL", int: "INT64", float: "FP64"}
"""Of a scalar sample's type; BYTES for any other."""


def standard_value(content: Content, sample: Any, name: str, limits: Limits) -> Any:
    """An object, a list or a single value, whichever the sample is.

    Raises:
        SchemaMismatch: the content cannot be that; the message names the parameter.
        InputTooLarge: more rows than allowed.
    """
    if isinstance(content, Tensors) and len(content.tensors) == 1 and not isinstance(sample, dict):
        content = Rows(next(iter(content.tensors.values())))
    check_rows(_length(content), name, limits)
    if isinstance(sample, dict):
        return _object(content, sample, name)
    if isinstance(sample, list | tuple):
        return _list(content, sample, name)
    return _single(content, sample, name)


def table_of(content: Content, name: str) -> Columns:
    """Columns, or arrays by name of which each is a column.

    Raises:
        SchemaMismatch: they are not equally long.
    """
    found = content.tensors if isinstance(content, Tensors) else content.columns  # type: ignore[union-attr]
    lengths = {each: len(v) if hasattr(v, "__len__") else 1 for each, v in found.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{each!r} {length}" for each, length in list(lengths.items())[:10])
        raise SchemaMismatch(f"The columns for {name!r} are not equally long: {shown}.")
    columns = {each: values if _is_many(values) else [values] for each, values in found.items()}
    return Columns(columns, getattr(content, "typed", True))


def column_datatype(kind: Any) -> str:
    """The datatype of a column of pandas; BYTES stands for whatever is neither number nor boolean.

    Categories are those of their values; nullable integers are FP64, which has a missing value.
    """
    kind = getattr(getattr(kind, "categories", None), "dtype", kind)
    return DATATYPES.get(str(kind), "FP64" if kind.kind in "fiu" else "BYTES")


def records(table: Columns) -> list[dict[str, Any]]:
    """One object for each row."""
    lists = {name: plain(values) for name, values in table.columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def plain(values: Any) -> Any:
    """Arrays as lists, anything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def check_rows(rows: int, name: str, limits: Limits) -> None:
    """Refuse more rows than the limits allow."""
    if rows > limits.rows:
        raise InputTooLarge(
            f"The input {name!r} has {rows} rows; at most {limits.rows} are scored at once "
            "(SCORING_MAX_ROWS)."
        )


def _length(content: Content) -> int:
    if isinstance(content, Rows):
        return len(content.values) if _is_many(content.values) else 1
    return max((len(each) for each in content[0].values() if _is_many(each)), default=0)


def _is_many(values: Any) -> bool:
    return isinstance(values, list) or bool(getattr(values, "shape", ()))


# --- objects --------------------------------------------------------------------------------------


def _object(content: Content, sample: dict[str, Any], name: str) -> dict[str, Any]:
    if isinstance(content, Rows):
        raise SchemaMismatch(
            f"The parameter {name!r} takes an object with {_names(sample)}; got rows without names."
        )
    found = content.tensors if isinstance(content, Tensors) else content.columns
    typed = getattr(content, "typed", True)
    return {key: _member(values, sample.get(key), key, typed) for key, values in found.items()}


def _member(values: Any, sample: Any, key: str, typed: bool) -> Any:
    """A list where the sample has one, else the value of the only row."""
    sample = getattr(sample, "sample_input", sample)
    many = (
        isinstance(sample, list | tuple) or hasattr(sample, "dtype") or hasattr(sample, "columns")
    )
    if sample is None or many or not _is_many(values):
        return _like(values, sample, key, typed)
    while _is_many(values):
        if len(values) != 1:
            raise SchemaMismatch(
                f"{key!r} has {len(values)} values; the object takes one, such as {sample!r}."
            )
        values = values[0]
    return _like(values, sample, key, typed)


def _names(sample: dict[str, Any]) -> str:
    return ", ".join(repr(key) for key in list(sample)[:20]) or "names of its own"


# --- lists and single values ----------------------------------------------------------------------


def _list(content: Content, sample: Any, name: str) -> Any:
    first = sample[0] if sample else None
    if isinstance(content, Rows):
        values = content.values
        if _is_scalar(first) and _is_many(values) and all(_is_alone(each) for each in values):
            values = [each[0] for each in plain(values)]
        return _like(values, sample, name)
    table = table_of(content, name)
    if isinstance(first, dict) or not sample:
        return [_record(row, first or {}, table.typed) for row in records(table)]
    rows = [list(row.values()) for row in records(table)]
    if not _is_scalar(first):
        return _like(rows, sample, name, table.typed)
    if len(table.columns) != 1:
        raise SchemaMismatch(
            f"The parameter {name!r} takes a list of single values; got a table of "
            f"{len(table.columns)} columns."
        )
    return _like([row[0] for row in rows], sample, name, table.typed)


def _record(row: dict[str, Any], sample: dict[str, Any], typed: bool) -> dict[str, Any]:
    return {key: _like(value, sample.get(key), key, typed) for key, value in row.items()}


def _single(content: Content, sample: Any, name: str) -> Any:
    typed = True
    if isinstance(content, Rows):
        value = content.values
    else:
        table = table_of(content, name)
        typed = table.typed
        value = list(table.columns.values())
    while _is_many(value):
        if len(value) != 1:
            raise SchemaMismatch(
                f"The parameter {name!r} takes one value, such as {sample!r}; got {len(value)}."
            )
        value = value[0]
    return _like(value, sample, name, typed)


def _is_scalar(sample: Any) -> bool:
    return type(sample) in (bool, int, float, str)


def _is_alone(value: Any) -> bool:
    return _is_many(value) and len(value) == 1


# --- values from arrays and text ------------------------------------------------------------------


def _like(value: Any, sample: Any, name: str, typed: bool = True) -> Any:
    """A value of JSON as it is; one from an array, or a text, as the sample has it."""
    if typed and not hasattr(value, "tolist"):
        return value
    return _as_sample(plain(value), sample, name, typed)


def _as_sample(value: Any, sample: Any, name: str, typed: bool) -> Any:
    if isinstance(value, list):
        first = sample[0] if isinstance(sample, list | tuple) and sample else None
        return [_as_sample(each, first, name, typed) for each in value]
    if type(sample) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if typed or not isinstance(value, str):
        return value
    if type(sample) in DATATYPE_OF:
        return _read(value, DATATYPE_OF[type(sample)], name)
    return value


def _read(text: str, datatype: str, name: str) -> Any:
    """A CSV field as a number or boolean; an empty one is None."""
    from ..values.arrays import array

    if not text.strip():
        return None
    return array([text], Spec(name, datatype, (-1,)), Limits(1, 1, 1), typed=False)[0].item()
