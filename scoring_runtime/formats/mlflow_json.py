"""The JSON bodies of ``mlflow models serve`` and of Azure ML's endpoints for MLflow models.

The kinds are those of ``mlflow.pyfunc.scoring_server``, read as it reads them
(https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/); ``input_data`` and ``data``
are what Azure ML's endpoints and its older scripts take. Lists stay lists: what
they become, only the model knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from ..errors import InputTooLarge, SchemaMismatch, UndecodableInput
from ..values.content import Columns, Content, Limits, Rows, Tensors
from ..values.wording import check_columns

KINDS = ("dataframe_split", "dataframe_records", "instances", "inputs")
"""The kinds of mlflow; a body holds exactly one of them, and ``params`` next to it."""
AZUREML_KINDS = ("input_data", "data")
_ANY = Limits(2**62, 2**62, 2**62, 2**62)
MISSING = float("nan")
"""What stands in a column for a key that a record does not have: NaN, as in pandas."""


def decode(
    value: Mapping[str, Any], limits: Limits | None = None
) -> tuple[Content, dict[str, Any]]:
    """The content and the ``params`` of a parsed JSON object.

    ======================  ==================================================================
    ``dataframe_split``     ``{"columns", "data"[, "index"]}`` → Columns; without names Rows
    ``dataframe_records``   list of objects → Columns; a key that is not there is a missing value
    ``instances``           rows → Rows; objects, all with the same keys → Tensors
    ``inputs``              an array → Rows; an object → Tensors; objects → Tensors, or Columns
                            when keys are not there or values are nested
    ``input_data, data``    any of these, told apart by their form
    ======================  ==================================================================

    The values of Tensors are lists, nested, or single numbers or texts. ``index`` is checked and
    then left out. Other keys of the object are ignored, as mlflow does.

    Raises:
        UndecodableInput: not exactly one kind; the message lists them.
        SchemaMismatch: that kind cannot look so; the message names the row where there is one.
        InputTooLarge: more rows or values than ``limits`` allow.
    """
    kind = _kind(value)
    content = _READERS[kind](value[kind], kind, limits or _ANY)
    if limits is not None:
        if not isinstance(content, Rows):
            check_columns(len(content[0]), limits, "The input")
        _check_limits(content, limits)
    return content, _params(value.get("params"))


def _check_limits(content: Content, limits: Limits) -> None:
    parts = [content.values] if isinstance(content, Rows) else list(content[0].values())
    rows = max((len(each) for each in parts if hasattr(each, "__len__")), default=0)
    check_size(rows, sum(_size(each) for each in parts), limits)


def check_size(rows: int, values: int, limits: Limits) -> None:
    """Refuse more rows or values than ``limits`` allow.

    Raises:
        InputTooLarge: the message says how many there are.
    """
    if rows > limits.rows or values > limits.values:
        raise InputTooLarge(
            f"The input has {rows} rows and {values} values; at most {limits.rows} rows and "
            f"{limits.values} values are scored at once (SCORING_MAX_ROWS, SCORING_MAX_VALUES)."
        )


def _kind(value: Mapping[str, Any]) -> str:
    found = [kind for kind in KINDS if kind in value]
    if not found:
        found = [kind for kind in AZUREML_KINDS if kind in value]
    if len(found) == 1:
        return found[0]
    got = f"it has {', '.join(found)}" if found else f"it has {_listed(value) or 'no keys'}"
    raise UndecodableInput(
        f"The body must be a JSON object with exactly one of {', '.join(KINDS)}, "
        f"{' or '.join(AZUREML_KINDS)}; {got}."
    )


def _listed(names: Any) -> str:
    shown = [str(name)[:40] for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _params(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SchemaMismatch(f"params must be a JSON object, not {_type_of(value)}.")
    return value


# --- tables -----------------------------------------------------------------------------------


def _split(value: Any, kind: str, limits: Limits) -> Content:
    if not isinstance(value, dict) or "data" not in value:
        got = f"an object with {_listed(value)}" if isinstance(value, dict) else _type_of(value)
        raise SchemaMismatch(
            f'{kind} must be an object with "data", and "columns" and "index" if need be, '
            f"not {got}."
        )
    if extra := [key for key in value if key not in ("columns", "index", "data")]:
        raise SchemaMismatch(
            f"{kind} has {_listed(extra)}; it may hold columns, index and data only."
        )
    rows = _rows(value["data"], kind)
    _check_index(value.get("index"), len(rows), kind)
    columns = value.get("columns")
    return _unnamed(rows, columns, kind) if _is_unnamed(columns) else _named(rows, columns, kind)


def _rows(data: Any, kind: str) -> list[list[Any]]:
    if not isinstance(data, list):
        raise SchemaMismatch(f'"data" of {kind} must be a list of rows, not {_type_of(data)}.')
    if not any(isinstance(row, list | dict) for row in data):
        return [[value] for value in data]
    for number, row in enumerate(data):
        if not isinstance(row, list):
            raise SchemaMismatch(
                f"Row {number} of {kind} is {_type_of(row)}; each row must be a list of values."
            )
    return data


def _check_index(index: Any, rows: int, kind: str) -> None:
    if index is None or (isinstance(index, list) and len(index) == rows):
        return
    got = f"{len(index)} labels" if isinstance(index, list) else _type_of(index)
    raise SchemaMismatch(f'"index" of {kind} must be a list of {rows} labels, not {got}.')


def _is_unnamed(columns: Any) -> bool:
    """Numbers are positions: what pandas writes for a table without names."""
    return columns is None or (
        isinstance(columns, list) and bool(columns) and all(type(each) is int for each in columns)
    )


def _unnamed(rows: list[list[Any]], columns: list[int] | None, kind: str) -> Content:
    if rows:
        _check_widths(rows, len(rows[0] if columns is None else columns), kind)
    return Rows(rows)


def _named(rows: list[list[Any]], columns: Any, kind: str) -> Columns:
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise SchemaMismatch(f'"columns" of {kind} must be a list of names.')
    if twice := [name for name, times in Counter(columns).items() if times > 1]:
        raise SchemaMismatch(f"{kind} has the column {_listed(twice)} more than once.")
    _check_widths(rows, len(columns), kind)
    values = zip(*rows, strict=True) if rows else ([] for _ in columns)
    return Columns(dict(zip(columns, map(list, values), strict=True)))


def _check_widths(rows: Sequence[list[Any]], width: int, kind: str) -> None:
    for number, row in enumerate(rows):
        if len(row) != width:
            raise SchemaMismatch(
                f"Row {number} of {kind} has {len(row)} values, but there are {width} columns."
            )


def _records(value: Any, kind: str, limits: Limits) -> Columns:
    return Columns(_by_name(_objects(value, kind), limits))


def _objects(value: Any, kind: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise SchemaMismatch(f"{kind} must be a list of objects, not {_type_of(value)}.")
    for number, record in enumerate(value):
        if not isinstance(record, dict):
            raise SchemaMismatch(
                f"Row {number} of {kind} is {_type_of(record)}; each row must be an object."
            )
    return value


def _by_name(records: list[dict[str, Any]], limits: Limits) -> dict[str, list[Any]]:
    names = dict.fromkeys(chain.from_iterable(records))
    # Before it is made: a new name in each record is a column for all of them.
    check_columns(len(names), limits, "The input")
    check_size(len(records), len(records) * len(names), limits)
    return {name: [record.get(name, MISSING) for record in records] for name in names}


# --- arrays -----------------------------------------------------------------------------------


def _instances(value: Any, kind: str, limits: Limits) -> Content:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        records = _objects(value, kind)
        _check_same_keys(records, kind)
        return Tensors(_by_name(records, limits))
    content = _inputs(value, kind, limits)
    if isinstance(content, Tensors):
        _check_same_length(content.tensors, kind)
    return content


def _check_same_keys(records: list[dict[str, Any]], kind: str) -> None:
    first = records[0].keys()
    for number, record in enumerate(records):
        if record.keys() != first:
            raise SchemaMismatch(
                f"Row {number} of {kind} has {_listed(record) or 'no names'}, row 0 has "
                f"{_listed(first) or 'no names'}: each row must have the same names."
            )


def _check_same_length(tensors: Mapping[str, Any], kind: str) -> None:
    lengths = {name: len(each) for name, each in tensors.items() if isinstance(each, list)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:8])
        raise SchemaMismatch(f"The arrays of {kind} must be equally long; they have: {shown}.")


def _inputs(value: Any, kind: str, limits: Limits) -> Content:
    if isinstance(value, dict):
        return Tensors(dict(value))
    if not isinstance(value, list):
        if value is None:
            raise SchemaMismatch(f"{kind} is null; it must be a list, an object or one value.")
        return Rows([value])
    if value and all(isinstance(each, dict) for each in value):
        return _input_records(value, limits)
    _check_rows(value, kind)
    return Rows(value)


def _input_records(records: list[dict[str, Any]], limits: Limits) -> Content:
    columns = _by_name(records, limits)
    flat = all(
        value is not MISSING and not isinstance(value, list | dict)
        for values in columns.values()
        for value in values
    )
    return Tensors(dict(columns)) if flat else Columns(dict(columns))


def _check_rows(values: list[Any], kind: str) -> None:
    """The rows are all lists, equally long, or none is: so much is the same for each model."""
    lists = isinstance(values[0], list) if values else False
    for number, row in enumerate(values):
        if isinstance(row, list) is not lists or isinstance(row, dict):
            expected = "a list, as row 0 is" if lists else "one value, as row 0 is"
            raise SchemaMismatch(f"Row {number} of {kind} is {_type_of(row)}, not {expected}.")
        if lists and len(row) != len(values[0]):
            raise SchemaMismatch(
                f"Row {number} of {kind} has {len(row)} values, row 0 has {len(values[0])}."
            )


# --- Azure ML ---------------------------------------------------------------------------------


def _azureml(value: Any, kind: str, limits: Limits) -> Content:
    if isinstance(value, dict) and "data" in value and value.keys() <= {"columns", "index", "data"}:
        return _split(value, kind, limits)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _records(value, kind, limits)
    return _inputs(value, kind, limits)


_READERS: Mapping[str, Callable[[Any, str, Limits], Content]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _instances,
    "inputs": _inputs,
    "input_data": _azureml,
    "data": _azureml,
}


def _size(part: Any) -> int:
    size = getattr(part, "size", None)
    if isinstance(size, int):
        return size
    if not isinstance(part, list) or not part:
        return 1
    return len(part) * (len(part[0]) if isinstance(part[0], list) else 1)


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "a number")
