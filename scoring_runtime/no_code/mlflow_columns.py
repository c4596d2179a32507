"""Content → the table that an MLflow model with columns in its signature takes.

Two steps, as in mlflow. What comes as JSON or text has no types yet: it is *cast* as
``mlflow.pyfunc.scoring_server`` casts it. Then the types are *enforced* as ``PyFuncModel.predict``
does (``_enforce_schema`` in ``mlflow/models/utils.py``); arrays that have types already, as from
npy, Arrow or V2, take only this step. What is accepted, and the values, are the same as mlflow's,
save that rows without names are taken where their width fits, V2's text where a time is declared,
and arrays of one column's shape ``(n, 1)``.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SchemaMismatch
from ..values.content import Content, Rows, Tensors
from .mlflow_signature import Column, Signature, brief

if TYPE_CHECKING:
    import pandas as pd

_Cast = Callable[[Any, Column], Any]


def to_table(content: Content, signature: Signature) -> pd.DataFrame:
    """The declared columns of ``content`` in the order of the signature, with its types.

    Raises:
        SchemaMismatch: a column is missing, of another length or of a type that cannot be
            converted without loss, or the rows are of another width.
    """
    import pandas as pd

    values, cast = _by_name(content, signature)
    columns = list(zip(_labels(values, signature), signature.columns, strict=True))
    _check_missing(values, columns)
    there = [(label, column) for label, column in columns if label in values]
    aligned = _aligned({label: _cast(label, values[label], each, cast) for label, each in there})
    return pd.DataFrame({label: enforce(label, aligned[label], each) for label, each in there})


def read_text(columns: Mapping[str, Any], dtypes: Mapping[Any, Any] | None) -> pd.DataFrame:
    """Columns of text as a table with the types that ``pandas.read_csv`` finds, or ``dtypes``.

    The text goes through ``read_csv`` again because no other reader gives the same floats.

    Raises:
        SchemaMismatch: a text is not of the type that is wanted.
    """
    import pandas as pd

    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(columns)
    try:
        writer.writerows(zip(*columns.values(), strict=True))
        text.seek(0)
        table = pd.read_csv(text, dtype=dict(dtypes) if dtypes else None)
    except (ValueError, TypeError, OverflowError) as error:
        raise SchemaMismatch(f"The text is not of the model's types: {brief(error)}") from error
    table.columns = pd.Index(list(columns))
    return table


def enforce(label: Any, values: pd.Series, column: Column) -> pd.Series:
    """``values`` with the declared type, when that loses nothing.

    The rules of ``_enforce_mlflow_datatype``: wider integers and floats, integers of up to 32 bits
    to double, integers of 64 bits to floats when all are 0 or 1, times of any precision.

    Raises:
        SchemaMismatch: they are of another type; the message names the column and both types.
    """
    if values.dtype == object and column.type not in ("binary", "string"):
        values = values.infer_objects()
    if _is_right(values, column):
        return values
    if column.type == "datetime" and (values.dtype.kind == "M" or values.dtype == object):
        return _to_moments(label, values)
    wanted = column.dtype
    if _is_upcast(values, wanted) or _is_zeros_and_ones(values, wanted):
        return values.astype(wanted)
    raise SchemaMismatch(
        f"Column {label} is {_type_name(values)}, and the model takes {column.type}"
        f"{_hint(values, wanted)}."
    )


# --- which values belong to which column ------------------------------------------------------


def _by_name(content: Content, signature: Signature) -> tuple[dict[Any, Any], _Cast]:
    if isinstance(content, Rows):
        return _of_rows(content, signature)
    if isinstance(content, Tensors):
        return content.tensors, _as_array
    if content.typed:
        return content.columns, _as_series
    _labels(content.columns, signature)
    table = read_text(content.columns, _text_types(signature))
    return dict(table.items()), _as_text


def _text_types(signature: Signature) -> dict[Any, Any]:
    """By name, or by position without names; times are read as text first."""
    return {
        position if column.name is None else column.name: column.dtype
        if column.dtype.kind in "biuf"
        else object
        for position, column in enumerate(signature.columns)
    }


def _labels(values: Mapping[Any, Any], signature: Signature) -> list[Any]:
    """The names of the columns; without names in the signature, those there are, by position."""
    if signature.named:
        return [column.name for column in signature.columns]
    there = list(values)[: len(signature.columns)]
    if len(there) < len(signature.columns):
        raise SchemaMismatch(
            f"The model takes {len(signature.columns)} columns, and the input has {len(there)}."
        )
    return there


def _of_rows(content: Rows, signature: Signature) -> tuple[dict[Any, Any], _Cast]:
    names = [column.name or number for number, column in enumerate(signature.columns)]
    values = content.values
    if isinstance(values, np.ndarray):
        table = values.reshape(-1, 1) if values.ndim < 2 else values
        if table.ndim > 2:
            raise _wrong_width(f"its shape is {table.shape}", names)
        _check_width(table.shape[1], names, None, signature.named)
        return {name: table[:, number] for number, name in enumerate(names)}, _as_series
    lists = _of_lists(values, names, signature.named)
    uniform = len({column.type for column in signature.columns}) == 1
    if type(content) is Rows and uniform and (len(names) == 1 or not signature.named):
        return lists, _as_array
    return lists, _as_series


def _of_lists(rows: Sequence[Any], names: list[Any], named: bool) -> dict[Any, Any]:
    nested = any(isinstance(each, list | tuple | np.ndarray) for each in rows)
    rows = rows if nested else [[each] for each in rows]
    for number, row in enumerate(rows):
        width = len(row) if isinstance(row, list | tuple | np.ndarray) else 1
        _check_width(width, names, number, named)
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _check_width(width: int, names: Sequence[Any], row: int | None, named: bool) -> None:
    if width == len(names) or (width > len(names) and not named):
        return
    raise _wrong_width(f"{'the input' if row is None else f'row {row}'} has {width}", names)


def _wrong_width(got: str, names: Sequence[Any]) -> SchemaMismatch:
    shown = ", ".join(map(str, names[:10])) + (", …" if len(names) > 10 else "")
    return SchemaMismatch(f"The model takes {len(names)} columns ({shown}), but {got}.")


def _check_missing(values: Mapping[Any, Any], columns: Sequence[tuple[Any, Column]]) -> None:
    missing = [str(label) for label, each in columns if each.required and label not in values]
    if missing:
        shown = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
        there = [str(name)[:40] for name in list(values)[:10]]
        raise SchemaMismatch(
            f"The model needs the column {shown}, which the input does not have. "
            f"It has {', '.join(there) or 'no columns'}{', …' if len(values) > 10 else ''}."
        )


def _aligned(values: Mapping[Any, Any]) -> dict[Any, pd.Series]:
    """Columns of one length; a single value next to columns goes for each row."""
    lengths = {str(label): np.shape(each)[0] for label, each in values.items() if np.ndim(each)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{label} {length}" for label, length in list(lengths.items())[:10])
        raise SchemaMismatch(f"The columns must be equally long; the lengths are: {shown}.")
    rows = next(iter(lengths.values()), 1)
    return {
        label: _series(each if np.ndim(each) else np.full(rows, each))
        for label, each in values.items()
    }


# --- casting ----------------------------------------------------------------------------------


def _cast(label: Any, values: Any, column: Column, cast: _Cast) -> Any:
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return values.ravel() if values.ndim == 2 and values.shape[1] == 1 else values
    if isinstance(values, np.ndarray):
        values, cast = values.ravel().tolist(), _as_series
    try:
        return cast(values, column)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise SchemaMismatch(
            f"Column {label} cannot be read as {column.type}: {brief(error)}"
        ) from error


def _as_array(values: Any, column: Column) -> Any:
    """As mlflow's ``convert_data_type`` (``utils/proto_json_utils.py``), for arrays by name."""
    if isinstance(values, list):
        return np.array(values, column.dtype)
    return np.array([values], column.dtype)[0]


def _as_series(values: Any, column: Column) -> Any:
    """As ``cast_df_types_according_to_schema``, for tables."""
    import pandas as pd

    series = pd.Series(values)
    if column.type == "binary":
        return series.map(lambda each: _decoded(each))
    if column.type == "datetime":
        moments = pd.to_datetime(series)
        return moments.dt.as_unit("ns") if moments.dtype.kind == "M" else moments
    if column.type == "string":
        return series if isinstance(series.dtype, pd.StringDtype) else series.astype(object)
    return series.astype(column.dtype)


def _as_text(values: Any, column: Column) -> Any:
    """What ``read_csv`` has made, and times; mlflow does not take base64 for bytes here."""
    return values if column.type == "binary" else _as_series(values, column)


def _decoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else base64.decodebytes(bytes(value, "utf8"))


def _series(values: Any) -> pd.Series:
    import pandas as pd

    if isinstance(values, pd.Series):
        return values
    # A table's own way from arrays to columns: a series would infer other types. More dimensions
    # become lists, as in mlflow, which only columns without a type of their own take.
    return pd.DataFrame({"": values.tolist() if values.ndim > 1 else values})[""]


# --- enforcing --------------------------------------------------------------------------------


def _is_right(values: pd.Series, column: Column) -> bool:
    import pandas as pd

    textual = values.dtype == object or isinstance(values.dtype, pd.StringDtype)
    if column.type in ("string", "binary"):
        return textual or (column.type == "binary" and values.dtype.kind == "S")
    return bool(values.dtype == column.dtype) or (
        column.type == "boolean" and values.dtype == object
    )


def _to_moments(label: Any, values: pd.Series) -> pd.Series:
    try:
        return values.astype("datetime64[ns]")
    except (ValueError, TypeError) as error:
        raise SchemaMismatch(
            f"Column {label} must hold times without a time zone: {brief(error)}"
        ) from error


def _is_upcast(values: pd.Series, wanted: np.dtype[Any]) -> bool:
    kind, size = values.dtype.kind, getattr(values.dtype, "itemsize", 0)
    if kind == wanted.kind:
        return size <= wanted.itemsize and wanted.kind not in "UO"
    if kind == "u" and wanted.kind == "i":
        return bool(size < wanted.itemsize)
    return kind in "iu" and wanted == np.float64 and size <= 6


def _is_zeros_and_ones(values: pd.Series, wanted: np.dtype[Any]) -> bool:
    return (
        values.dtype == np.int64
        and wanted in (np.float32, np.float64)
        and bool(values.isin([0, 1]).all())
    )


def _hint(values: pd.Series, wanted: np.dtype[Any]) -> str:
    if values.dtype == np.float64 and wanted.kind == "i" and values.hasnans:
        return " (integers cannot be missing; declare the column as double)"
    return ""


def _type_name(values: pd.Series) -> str:
    if values.dtype != object:
        return str(values.dtype)
    return "lists" if any(isinstance(each, list) for each in values) else "of mixed types"
