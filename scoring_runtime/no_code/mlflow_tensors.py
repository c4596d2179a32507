"""Content → the array, or arrays by name, that an MLflow model with a tensor signature takes.

The rules are those of ``_enforce_tensor_schema`` in ``mlflow/models/utils.py``: what comes as lists
gets the declared type, arrays must have it, and the shape must be the declared one. Two things more
are taken: a single array under any name for a signature without names, and V2's text where text is
declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import SchemaMismatch
from ..values.content import Columns, Content, Rows
from .mlflow_signature import Signature, Tensor, brief


def to_tensors(content: Content, signature: Signature, *, table: bool = False) -> Any:
    """The array of a signature without names, else a dict of arrays in the signature's order.

    Args:
        content: what the body holds.
        signature: one with tensors.
        table: rows are those of a table, whose single column may hold a whole array a row.

    Raises:
        SchemaMismatch: a tensor is missing, or of another type or shape.
    """
    if isinstance(content, Columns):
        return _of_columns(content.columns, signature)
    if isinstance(content, Rows):
        return _of_rows(content.values, signature, table)
    return _of_tensors(content.tensors, signature)


def _of_tensors(tensors: Mapping[str, Any], signature: Signature) -> Any:
    if not signature.named:
        if len(tensors) != 1:
            raise SchemaMismatch(
                f"The model takes one array without a name; the input has {len(tensors)}."
            )
        return _array(next(iter(tensors.values())), signature.tensors[0])
    _check_missing(tensors, signature)
    return {str(each.name): _array(tensors[str(each.name)], each) for each in signature.tensors}


def _of_rows(values: Any, signature: Signature, table: bool) -> Any:
    if len(signature.tensors) > 1:
        names = ", ".join(str(each.name) for each in signature.tensors)
        raise SchemaMismatch(f"The model takes arrays by name ({names}), not rows without names.")
    if isinstance(values, list) and not values:
        raise SchemaMismatch("The input has no rows.")
    tensor = signature.tensors[0]
    if table and not signature.named:
        columns = map(list, zip(*values, strict=True))
        return _of_columns({str(place): each for place, each in enumerate(columns)}, signature)
    array = _array(values, tensor)
    return {str(tensor.name): array} if signature.named else array


def _of_columns(columns: Mapping[str, Any], signature: Signature) -> Any:
    """Each column is a tensor, or all together are the one that has no name."""
    if signature.named:
        _check_missing(columns, signature)
        return {
            str(each.name): _of_cells(columns[str(each.name)], each) for each in signature.tensors
        }
    tensor = signature.tensors[0]
    if not columns or not any(len(values) for values in columns.values()):
        raise SchemaMismatch("The input has no rows.")
    if len(columns) == 1:
        return _of_cells(next(iter(columns.values())), tensor)
    if tensor.shape != (-1, len(columns)):
        raise SchemaMismatch(
            f"The model takes {_described(tensor)}; a table of {len(columns)} columns has the "
            f"shape (-1, {len(columns)})."
        )
    arrays = [_flat(values, tensor) for values in columns.values()]
    try:
        return _checked(np.stack(arrays, axis=1), tensor)
    except ValueError as error:
        raise _unreadable(tensor, error) from error


def _of_cells(cells: Any, tensor: Tensor) -> Any:
    """One column: a number a row, or a list a row that is given the declared shape."""
    if tensor.shape[:1] != (-1,) or -1 in tensor.shape[1:]:
        raise SchemaMismatch(
            f"The model takes {_described(tensor)}, which no column of a table can hold; send it "
            "as an array."
        )
    if not len(cells):
        raise SchemaMismatch(f"The input has no rows{_of(tensor)}.")
    nested = isinstance(cells[0], list | np.ndarray)
    if not nested and tensor.shape not in ((-1,), (-1, 1)):
        raise SchemaMismatch(
            f"The model takes {_described(tensor)}, and the column has one value a row."
        )
    array = _stacked(cells, tensor) if nested else _flat(cells, tensor)
    return _checked(array.reshape(len(cells), *tensor.shape[1:]), tensor)


def _stacked(cells: Any, tensor: Tensor) -> Any:
    try:
        array = np.array(cells) if isinstance(cells[0], np.ndarray) else _typed(cells, tensor)
        return array.reshape(len(cells), *tensor.shape[1:])
    except (ValueError, TypeError, OverflowError) as error:
        raise _unreadable(tensor, error) from error


def _flat(values: Any, tensor: Tensor) -> Any:
    """A column of single values; lists get their type as pandas finds it before the tensor's."""
    import pandas as pd

    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return values
    try:
        return np.array(pd.Series(values).astype(tensor.dtype), tensor.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise _unreadable(tensor, error) from error


def _typed(values: Any, tensor: Tensor) -> Any:
    return np.array(values, object if tensor.dtype.kind == "O" else tensor.dtype)


def _array(values: Any, tensor: Tensor) -> Any:
    from_text = isinstance(values, np.ndarray) and values.dtype.kind == "O"
    if not isinstance(values, np.ndarray) or (from_text and tensor.dtype.kind in "US"):
        try:
            values = _typed(values, tensor)
        except (ValueError, TypeError, OverflowError) as error:
            raise _unreadable(tensor, error) from error
    return _checked(values, tensor)


def _checked(array: Any, tensor: Tensor) -> Any:
    """``array`` itself, if it has the declared type and shape."""
    if tensor.dtype.kind == "O" and tensor.shape == (-1,):
        return array
    fits = len(array.shape) == len(tensor.shape) and all(
        wanted in (-1, length) for wanted, length in zip(tensor.shape, array.shape, strict=True)
    )
    if not fits:
        raise SchemaMismatch(f"The model takes {_described(tensor)}, not the shape {array.shape}.")
    same = array.dtype.kind == tensor.dtype.kind if tensor.dtype.kind in "US" else False
    if not same and array.dtype != tensor.dtype:
        raise SchemaMismatch(f"The model takes {_described(tensor)}, not {array.dtype.name}.")
    return array


def _check_missing(there: Mapping[str, Any], signature: Signature) -> None:
    missing = [str(each.name) for each in signature.tensors if each.name not in there]
    if missing:
        raise SchemaMismatch(
            f"The model needs the input {', '.join(missing)}, which is not there. There is: "
            f"{', '.join(str(name)[:40] for name in list(there)[:10]) or 'nothing'}."
        )


def _unreadable(tensor: Tensor, error: Exception) -> SchemaMismatch:
    return SchemaMismatch(f"The model takes {_described(tensor)}; the input is not: {brief(error)}")


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype.name} of the shape {tensor.shape}{_of(tensor)}"


def _of(tensor: Tensor) -> str:
    return "" if tensor.name is None else f" for {tensor.name}"
