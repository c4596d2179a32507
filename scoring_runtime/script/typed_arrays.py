"""What a body holds → the NumPy array of a parameter, as inference-schema makes it from JSON.

The library keeps arrays as they are, so dtype and shape have to be right here. What it converts
itself (dates, durations, records, text of a fixed width) it is given as lists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SchemaMismatch
from ..values.arrays import array, checked, shape_text
from ..values.content import DATATYPES, Columns, Content, Limits, Rows, Spec, Tensors
from ..values.inputs import column, depth_of, matrix
from ..values.wording import listed
from .standard_values import check_rows, plain, records, table_of

_NO_LIMITS = Limits(2**62, 2**62, 2**62, 2**62)


def array_argument(content: Content, spec: Spec, parameter: Any, limits: Limits) -> Any:
    """An array with the dtype and shape that the parameter enforces, or lists for the library.

    Args:
        content: for this parameter alone.
        spec: the parameter's name, datatype and shape; -1 where any length goes.
        parameter: a NumpyParameterType.
        limits: how many rows there may be.

    Raises:
        SchemaMismatch: it names the parameter or column, what it is and what is expected.
        InputTooLarge: more rows than allowed.
    """
    dtype = parameter.sample_input.dtype
    if isinstance(content, Tensors) and len(content.tensors) == 1:
        content = Rows(next(iter(content.tensors.values())))
    if not isinstance(content, Rows):
        table = table_of(content, spec.name)
        if dtype.names is not None:
            return _checked_list(records(table), spec, limits)
        content = _rows_of(table, spec, parameter, limits)
    values = _fitted(content.values, spec) if parameter.enforce_shape else content.values
    if not parameter.enforce_shape:
        spec = spec._replace(shape=(-1,) * depth_of(values))
    if parameter.enforce_column_type and str(dtype) in DATATYPES:
        return _own(array(values, spec, limits))
    if not isinstance(values, np.ndarray):
        return _checked_list(values, spec, limits)
    values = checked(values, spec, limits)
    if parameter.enforce_column_type:
        return _own(values.astype(dtype)) if values.dtype.kind == dtype.kind else values.tolist()
    return _own(values)


def _own(made: NDArray[Any]) -> NDArray[Any]:
    """As from JSON: in C order, and the script may write to it."""
    return np.require(made, requirements=["C", "W"])


def _checked_list(values: Any, spec: Spec, limits: Limits) -> Any:
    if isinstance(values, list):
        check_rows(len(values), spec.name, limits)
    return values


# --- rows -----------------------------------------------------------------------------------------


def _fitted(values: Any, spec: Spec) -> Any:
    """Rows of one value each as those values, and the other way round, as the shape has them."""
    if isinstance(values, np.ndarray):
        if len(spec.shape) == 1 and values.ndim == 2 and values.shape[1] == 1:
            return values[:, 0]
        return values[:, np.newaxis] if spec.shape[1:] == (1,) and values.ndim == 1 else values
    if not isinstance(values, list) or not values:
        return values
    if len(spec.shape) == 1 and all(_is_alone(each) for each in values):
        return [each[0] for each in values]
    if spec.shape[1:] == (1,) and depth_of(values) == 1:
        return [[each] for each in values]
    return values


def _is_alone(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1


# --- tables ---------------------------------------------------------------------------------------


def _rows_of(table: Columns, spec: Spec, parameter: Any, limits: Limits) -> Rows:
    """A table's values without its names: the only column, or all of them side by side."""
    first: Any = next(iter(table.columns.values()), [])
    enforced = parameter.enforce_column_type and spec.datatype != "BYTES"
    if len(table.columns) == 1 and (len(spec.shape) == 1 or depth_of(first) > 1):
        name = next(iter(table.columns))
        if not enforced:
            return Rows(first if table.typed else _natural(first, typed=False))
        return Rows(array(first, spec._replace(name=name), limits, typed=table.typed))
    if parameter.enforce_shape and len(spec.shape) != 2:
        raise SchemaMismatch(
            f"The input {spec.name!r} is a table with the columns {listed(table.columns)}; "
            f"expected is {shape_text(spec)}."
        )
    if enforced:
        return Rows(matrix(table, spec._replace(shape=(-1, _width(spec, parameter))), limits))
    if parameter.enforce_column_type:
        return Rows([list(row.values()) for row in records(table)])
    return Rows(_side_by_side(table, spec.name))


def _width(spec: Spec, parameter: Any) -> int:
    return spec.shape[1] if parameter.enforce_shape else -1


def _side_by_side(table: Columns, name: str) -> NDArray[Any]:
    try:
        return np.stack([_natural(each, table.typed) for each in table.columns.values()], axis=1)
    except ValueError as error:
        raise SchemaMismatch(f"The columns for {name!r} do not make one array: {error}.") from None


def _natural(values: Any, typed: bool) -> NDArray[Any]:
    """The type that NumPy finds; text that is all numbers is float64."""
    if not typed:
        try:
            return column(values, Spec("", "FP64", (-1,)), _NO_LIMITS, typed=False)
        except SchemaMismatch:
            pass
    return np.asarray(plain(values))
