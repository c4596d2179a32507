"""A model's result as arrays by name: what formats without nesting can carry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import NotAcceptable
from .content import PerOutput


def named_outputs(result: Any, name: str) -> dict[str, NDArray[Any]]:
    """The arrays in a result, by name; ``name`` is that of a result without one.

    Tables become their columns, a list of objects with equal keys too, lists become arrays. Below a
    name, a list of objects with equal keys and numbers is an array with one column a key, as the
    probabilities of ONNX's ZipMap are. Probabilities of several outputs are one array ``(rows,
    outputs, classes)``, NaN where an output has fewer classes than another. What is neither number,
    boolean, text nor moment is written as JSON text, and what is missing among text is None.

    Raises:
        NotAcceptable: the result is nested too unevenly for arrays.
    """
    if hasattr(result, "columns") and hasattr(result, "to_numpy"):
        columns = {str(each): result[each].to_numpy() for each in result.columns}
        return {each: _plain(values, each) for each, values in columns.items()}
    if isinstance(result, Mapping):
        return {str(each): _plain(value, str(each)) for each, value in result.items()}
    names = _equal_keys(result)
    if names is not None:
        return {str(each): _plain([row[each] for row in result], str(each)) for each in names}
    return {name: _plain(result, name)}


def _equal_keys(rows: Any) -> list[Any] | None:
    """The keys of a list of objects, if all have the same in the same order."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    names = list(rows[0])
    return names if all(list(row) == names for row in rows) else None


def _plain(values: Any, name: str) -> NDArray[Any]:
    made = _as_array(values, name)
    if made.ndim == 0:
        made = made.reshape(1)
    return _settled(made) if made.dtype.kind == "O" else made


def _as_array(values: Any, name: str) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, PerOutput):
        return rows_first(values)
    if hasattr(values, "toarray"):  # a sparse matrix
        return np.asarray(values.toarray())
    if hasattr(values, "to_numpy"):
        return np.asarray(values.to_numpy())
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return _of_objects(values)
    if isinstance(values, list) and values and isinstance(values[0], str | bytes):
        return _objects(values)  # numpy would make each as long as the longest
    try:
        return np.asarray(values)
    except ValueError:
        raise NotAcceptable(
            f"The result {name!r} has rows of different lengths, which only application/json can "
            "carry."
        ) from None


def rows_first(outputs: PerOutput) -> NDArray[Any]:
    """One array ``(rows, outputs, classes)``, NaN where an output has fewer classes."""
    classes = max(each.shape[1] for each in outputs)
    wide = [
        np.pad(each, ((0, 0), (0, classes - each.shape[1])), constant_values=np.nan)
        for each in outputs
    ]
    return np.stack(wide, axis=1)


def _of_objects(rows: list[Any]) -> NDArray[Any]:
    names = _equal_keys(rows)
    kinds = {type(value) for row in rows for value in row.values()} if names else set()
    if names and kinds <= {int, float}:
        return np.array([[row[each] for each in names] for row in rows])
    return _objects(rows)


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _settled(made: NDArray[Any]) -> NDArray[Any]:
    """An array of objects as numbers, booleans or text, whichever they are."""
    flat = [each.item() if isinstance(each, np.generic) else each for each in made.reshape(-1)]
    kinds = {type(value) for value in flat if value is not None}
    if kinds == {bool} and None not in flat:
        return np.array(flat, dtype=bool).reshape(made.shape)
    if kinds and kinds <= {int, float, Decimal}:
        flat = [float(value) if isinstance(value, Decimal) else value for value in flat]
        numbers = np.array([float("nan") if value is None else value for value in flat])
        if numbers.dtype.kind != "O":  # as integers beyond 64 bits are
            return numbers.reshape(made.shape)
    return _objects([_text(value) for value in flat]).reshape(made.shape)


def _text(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return value
    if value is None or str(value) in ("nan", "NaT", "<NA>"):
        return None
    if isinstance(value, list | dict | bool):
        return json.dumps(value, default=str)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
