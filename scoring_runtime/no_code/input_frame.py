"""The table that a model takes: the names, order and types of its columns, worked out once.

A sample decides; then what the estimator was fitted on (:mod:`.fitted`); what neither does is read
as pandas reads it. Every format goes through the one description, so that all give the same.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelUnusable, SchemaMismatch
from ..script.schema_arguments import column_datatype
from ..values.content import Columns, Content, Limits, Rows, Spec, Tensors
from ..values.inputs import frame_columns, loose_column, matrix, number_columns
from ..values.wording import listed
from . import fitted
from .fitted import Column

FRAME, ARRAY, RECORDS = "frame", "array", "records"


class InputFrame:
    """Makes of content what a model takes.

    Args:
        columns: in the order of the model.
        limits: how much one request may hold.
        form: a data frame; an array of objects, for what was fitted on one without names; or one
            mapping for each row, without what is missing in it.
        others: columns that it does not know are left out, not refused.
        spaces: they are underscores in the names, as LightGBM has it.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        limits: Limits,
        form: str = FRAME,
        others: bool = False,
        spaces: bool = False,
    ) -> None:
        self.columns = {column.name: column for column in columns}
        self.names = list(self.columns)
        self.specs = tuple(Spec(c.name, _datatype(c.dtype), (-1,), c.optional) for c in columns)
        self.example = {each.name: each.example for each in columns}
        self._limits, self._form, self._others, self._spaces = limits, form, others, spaces
        self._numbers = form == FRAME and all(map(_is_number, columns))
        self._matrix = Spec("X", "FP64", (-1, len(columns)))
        self._plans = {
            c.name: (c, c.is_text, Spec(c.name, "BYTES" if c.is_text else "FP64", (-1,)))
            for c in columns
        }
        self.reads_text = not self._numbers

    def __call__(self, content: Content) -> Any:
        """The input of the model.

        Raises:
            SchemaMismatch: it names the column, or lists those that are missing or not known.
            InputTooLarge: more rows than allowed.
        """
        import pandas

        if self._numbers and (numbers := self._doubles(content)) is not None:
            return _frame(numbers, self.names)
        content, convert = self._renamed(content), self._convert
        made = frame_columns(content, self.specs, self._limits, self._others, convert)
        if self._form == RECORDS:
            return _records(made)
        if self._numbers and all(values.dtype == np.float64 for values in made.values()):
            return _frame(np.stack([*made.values()]).T, [*made])
        frame = pandas.DataFrame(made, copy=False)
        return frame.to_numpy(dtype=object) if self._form == ARRAY else frame

    def _doubles(self, content: Content) -> NDArray[np.float64] | None:
        """All columns at once where they are numbers and only compute; else None."""
        if isinstance(content, Rows) and not _starts_with_text(content):
            with suppress(SchemaMismatch):
                return matrix(content, self._matrix, self._limits)
        if isinstance(content, Columns):
            numbers = number_columns(content, self.names, self._limits)
            return None if numbers is None else numbers.T
        return None

    def _renamed(self, content: Content) -> Content:
        """With the model's own names, where a client cannot know them."""
        by_place = self._form == ARRAY and not isinstance(content, Rows)
        if isinstance(content, Rows) or not (by_place or self._spaces):
            return content
        names = [name if name in self.columns else name.replace(" ", "_") for name in content[0]]
        names = self.names if by_place and len(names) == len(self.names) else names
        renamed = dict(zip(names, content[0].values(), strict=True))
        if isinstance(content, Tensors):
            return Tensors(renamed)
        return Columns(renamed, content.typed)

    def _convert(self, values: Any, spec: Spec, limits: Limits, typed: bool) -> Any:
        column, is_text, spec = self._plans[spec.name]
        if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if not is_text or (typed and column.seen):
            spec = spec if not is_text else spec._replace(datatype="FP64")
            made = _numbers(values, spec, limits, typed, column.seen)
            return made if column.dtype is None else _as_declared(made, column)
        made = loose_column(values, spec, limits, typed)
        gone = [each is None for each in made]
        if column.missing is None:
            made = _as_series(made, np.dtype(object), spec.name)
        elif True in gone:
            made[np.array(gone)] = column.missing
        return _as_declared(made, column)


def of(estimator: Any, sample: Any, limits: Limits) -> InputFrame | None:
    """The table that a fitted estimator takes; None if it takes an array of numbers, or texts
    alone. ``sample`` is a data frame, or None.

    Raises:
        ModelUnusable: it takes one, and pandas is missing.
    """
    leaves = [*fitted.receivers(estimator)]
    columns = [column for each in leaves for column in fitted.record_columns(each)]
    names, form = fitted.feature_names(estimator), RECORDS if columns else FRAME
    if names is None and not columns and not any(map(fitted.reads_text, leaves)):
        names, form = _other_names(fitted.attribute(estimator, "n_features_in_"), sample)
    if names is not None:
        known = fitted.known(estimator, names)
        columns = [known.get(name, Column(name)) for name in names]
    columns = _with_sample(columns, sample)
    if not columns or (form == ARRAY and all(map(_is_number, columns))):
        return None
    if find_spec("pandas") is None:
        raise ModelUnusable(
            "The model was fitted on a table and goes by the names of its columns, which needs "
            "pandas: pip install pandas."
        )
    # Where all that get the input choose columns of it, others may be missing, or there.
    others = form == FRAME and all(map(fitted.chooses, leaves))
    if others:
        needed = {name for each in leaves for name in fitted.used(each, names or ())}
        columns = [each._replace(optional=each.name not in needed) for each in columns]
    spaces = any(fitted.library(each) == "lightgbm" for each in leaves)
    return InputFrame(columns, limits, form, others or form == RECORDS, spaces)


def as_sent(content: Columns, limits: Limits) -> Any:
    """A table to code that says nothing of its columns."""
    return InputFrame([Column(name, seen=True) for name in content.columns], limits)(content)


def _other_names(width: int | None, sample: Any) -> tuple[list[str] | None, str]:
    """Of what was fitted on an array, those that scikit-learn gives; else those of a sample."""
    if width is not None:
        return [f"x{place}" for place in range(width)], ARRAY
    named = sample is not None and all(isinstance(each, str) for each in sample.columns)
    return (list(sample.columns) if named else None), FRAME


def _with_sample(columns: Sequence[Column], sample: Any) -> list[Column]:
    """The columns with the types and first values of a sample."""
    if sample is None:
        return list(columns)
    names = [str(each) for each in sample.columns]
    if len(names) == len(columns) and not {*names} & {each.name for each in columns}:
        names = [each.name for each in columns]  # it has none, and goes by position
    series = {name: sample.iloc[:, place] for place, name in enumerate(names)}
    return [_like(each, series[each.name]) if each.name in series else each for each in columns]


def _like(column: Column, values: Any) -> Column:
    """What was fitted on text stays text: a sample in CSV may show it as a number."""
    present = values.dropna()
    if not len(present) or (column.is_text and values.dtype.kind in "biufmM"):
        return column
    first = present.iloc[0]
    example = first.isoformat() if hasattr(first, "isoformat") else first
    example = example.item() if isinstance(example, np.generic) else example
    mixed = values.dtype.kind == "O" and not isinstance(first, str)
    return column._replace(dtype=column.dtype if mixed else values.dtype, example=example)


def _datatype(dtype: Any) -> str:
    if dtype is None:
        return "FP64"
    return "BOOL" if dtype.kind == "b" else column_datatype(dtype)


def _is_number(column: Column) -> bool:
    dtype = column.dtype
    plain = dtype is None or (isinstance(dtype, np.dtype) and dtype.kind in "biuf")
    return plain and not column.seen


def _starts_with_text(content: Rows) -> bool:
    first = content.values[0] if isinstance(content.values, list) and content.values else None
    return isinstance(first, list) and any(isinstance(value, str) for value in first)


def _frame(values: NDArray[Any], names: Sequence[str]) -> Any:
    """Column by column in memory, as pandas makes tables: with the order of the sums over a row,
    the last bit of a linear model's answer would change."""
    import pandas

    return pandas.DataFrame(np.asfortranarray(values), columns=names, copy=False)


def _records(columns: dict[str, Any]) -> list[dict[str, Any]]:
    lists = [values.tolist() for values in columns.values()]
    rows = (zip(columns, row, strict=True) for row in zip(*lists, strict=True))
    return [{k: v for k, v in row if v is not None and v == v} for row in rows]


# --- one column -----------------------------------------------------------------------------------


def _numbers(values: Any, spec: Spec, limits: Limits, typed: bool, seen: bool) -> Any:
    """Numbers where all are; integers and booleans stay what they are for code that may look."""
    made = loose_column(values, spec, limits, typed)
    if not typed:
        again = seen or made.dtype != np.float64
        return _as_pandas_reads(values) if again else made
    if seen and isinstance(values, np.ndarray) and values.dtype.kind in "biu":
        return values
    kinds = {*map(type, values)} if seen and isinstance(values, list) else set()
    if kinds in ({int}, {bool}):
        with suppress(OverflowError):
            return np.array(values, dtype=bool if kinds == {bool} else np.int64)
    return made


def _as_pandas_reads(texts: Sequence[str]) -> Any:
    """With the type that ``pandas.read_csv`` finds, and floats to the last bit."""
    import pandas

    text = io.StringIO()
    written = ([each] for each in texts)
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(written)
    text.seek(0)
    made = pandas.read_csv(text, header=None)[0]
    if made.dtype.kind == "f":  # which not every version reads to the last bit
        pairs = zip(texts, made.isna(), strict=True)
        return np.array([np.nan if gone else float(each) for each, gone in pairs])
    return made


def _as_declared(made: Any, column: Column) -> Any:
    """The values with the type of the column, if that changes none of them."""
    dtype = column.dtype
    if dtype is None or (isinstance(dtype, np.dtype) and dtype.kind == "O"):
        return made
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        with suppress(ValueError, TypeError), np.errstate(invalid="ignore", over="ignore"):
            cast = made.astype(dtype)
            return cast if dtype.kind == "f" or np.array_equal(cast, made) else made
        return made
    import pandas

    series = pandas.Series(made)
    if column.closed:
        others = series[series.notna() & ~series.isin(dtype.categories)]
        if len(others):
            raise SchemaMismatch(
                f"The column {column.name!r} has {others.iloc[0]!r}, on which the model was not "
                f"fitted; it knows: {listed(list(dtype.categories))}."
            )
    if dtype.kind == "M" and series.dtype.kind in "iuf":
        series = pandas.to_datetime(series, unit="ms")  # as DataFrame.to_json writes it
    return _as_series(series, dtype, column.name)


def _as_series(values: Any, kind: Any, name: str) -> Any:
    """The values as pandas takes them, with the type of a column."""
    import pandas

    try:
        made = pandas.Series(values)
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
