"""What a body holds → the pandas data frame of a parameter, as inference-schema makes it from JSON.

The library keeps data frames as they are, so columns and their types have to be right here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SchemaMismatch
from ..values.arrays import empty_batch
from ..values.content import Columns, Content, Limits, Rows, Spec, Tensors
from ..values.inputs import check_names, column
from ..values.wording import listed, short
from .standard_values import check_rows, column_datatype, table_of


def frame_argument(content: Content, name: str, parameter: Any, limits: Limits) -> Any:
    """A data frame with the sample's columns in their order, and their types, as far as the
    parameter enforces them; rows without names have the columns in this order.

    Raises:
        SchemaMismatch: it names the column, what it is and what is expected.
        InputTooLarge: more rows than allowed.
    """
    import pandas

    sample = parameter.sample_input
    names = {str(each): each for each in sample.columns}
    table = _named(content, list(names), name, parameter)
    _check_length(table, name, limits)
    made: dict[Any, Any] = {}
    for text in [each for each in names if each in table.columns]:
        spec = Spec(text, column_datatype(sample.dtypes[names[text]]), (-1,))
        values = _values(table, spec, parameter, limits)
        kind = sample.dtypes[names[text]] if parameter.enforce_column_type else None
        made[names[text]] = as_series(values, kind, text)
    for text in [each for each in table.columns if each not in names]:
        made[text] = as_series(_as_sent(table.columns[text], table.typed), None, text)
    frame = pandas.DataFrame(made)
    frame.columns = pandas.Index(list(made))  # as from JSON: no RangeIndex of numbers
    return frame


def as_json(frame: Any, orient: str) -> Any:
    """The frame as the JSON value that the library would read."""
    moments = {name: str for name, kind in frame.dtypes.items() if kind.kind in "mM"}
    frame = frame.astype(moments).astype(object).where(frame.notna(), None)
    if orient == "values":
        return frame.to_numpy().tolist()
    if orient in ("index", "columns"):
        frame = frame.T if orient == "index" else frame
        return {str(name): {str(k): v for k, v in frame[name].items()} for name in frame.columns}
    return frame.to_dict("split" if orient == "split" else "records")


# --- names ----------------------------------------------------------------------------------------


def _named(content: Content, names: list[str], name: str, parameter: Any) -> Columns:
    """A table with the columns of the sample, as far as its shape is enforced."""
    if isinstance(content, Tensors) and not set(content.tensors) <= set(names):
        content = (
            Rows(next(iter(content.tensors.values()))) if len(content.tensors) == 1 else content
        )
    if isinstance(content, Rows):
        return Columns(_split(content.values, names))
    table = table_of(content, name)
    strange = set(table.columns) != set(names)
    if strange and parameter.apply_column_names and len(table.columns) == len(names):
        return table._replace(columns=dict(zip(names, table.columns.values(), strict=True)))
    if parameter.enforce_shape:
        check_names(table.columns, names, "column")
    return table


def _split(values: Any, names: list[str]) -> dict[str, Any]:
    """Rows cut into columns."""
    if isinstance(values, np.ndarray):
        return _split_array(values, names)
    if not isinstance(values, list):
        raise _rows_expected(short(values), names)
    if len(names) == 1 and not any(isinstance(row, list) for row in values):
        return {names[0]: values}
    for number, row in enumerate(values):
        if not isinstance(row, list):
            raise _rows_expected(f"{short(row)} as row {number}", names)
        if len(row) != len(names):
            raise _rows_expected(f"{len(row)} values in row {number}", names)
    return {each: [row[at] for row in values] for at, each in enumerate(names)}


def _split_array(values: NDArray[Any], names: list[str]) -> dict[str, Any]:
    if values.ndim == 1 and len(names) == 1:
        return {names[0]: values}
    if values.ndim != 2 or values.shape[1] != len(names):
        raise _rows_expected(f"an array of the shape {list(values.shape)}", names)
    return {each: values[:, at] for at, each in enumerate(names)}


def _rows_expected(got: str, names: Sequence[str]) -> SchemaMismatch:
    return SchemaMismatch(
        f"Got {got}; rows of {len(names)} values are expected, for the columns {listed(names)}."
    )


def _check_length(table: Columns, name: str, limits: Limits) -> None:
    rows = len(next(iter(table.columns.values()), ()))
    if rows == 0:
        raise empty_batch(name)
    check_rows(rows, name, limits)


# --- values ---------------------------------------------------------------------------------------


def _values(table: Columns, spec: Spec, parameter: Any, limits: Limits) -> Any:
    """A column's values: of the datatype if that is one of numbers, else as they were sent."""
    given = table.columns[spec.name]
    if spec.datatype == "BYTES" or (table.typed and not parameter.enforce_column_type):
        return _as_sent(given, table.typed)
    try:
        return column(given, spec, limits, table.typed)
    except SchemaMismatch:
        if parameter.enforce_column_type:
            raise
    return _as_sent(given, table.typed)


def _as_sent(given: Any, typed: bool) -> Any:
    """Lists and arrays; an empty CSV field is a missing value, text from arrays is ``str``."""
    if isinstance(given, np.ndarray):
        if given.ndim == 2 and given.shape[1] == 1:
            given = given[:, 0]
        if given.dtype.kind not in "OUS" and given.ndim == 1:
            return given
        given = given.tolist()
    if typed:
        return [each.decode("utf-8", "replace") if type(each) is bytes else each for each in given]
    return [None if each == "" else each for each in given]


def as_series(values: Any, kind: Any, name: str) -> Any:
    """The values as pandas takes them, with the type of the sample's column if there is one.

    Raises:
        SchemaMismatch: a value cannot have it.
    """
    import pandas

    try:
        made = pandas.Series(values)
        if kind is None:
            return made
        if hasattr(kind, "categories"):  # others are missing values, as from JSON
            made = made.where(made.isin(kind.categories))
        if kind.kind == "m":
            made = pandas.to_timedelta(made)
        if getattr(kind, "tz", None) is not None and made.dtype.kind == "M":
            made = made if getattr(made.dtype, "tz", None) else made.dt.tz_localize("UTC")
        return made.astype(kind)
    except (ValueError, TypeError, OverflowError) as error:
        text = " ".join(str(error).split())[:200]
        shown = listed(list(values[:3]))
        raise SchemaMismatch(
            f"The column {name!r} holds {shown}; expected is {kind}. ({text})"
        ) from None
