"""The JSON bodies of ``mlflow models serve`` and of Azure ML's endpoints, for what is no MLflow
model.

The kinds are those of ``mlflow.pyfunc.scoring_server``
(https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/); ``input_data`` and ``data``
are what Azure ML's endpoints and its older scripts take. Lists stay lists: what they become, only
the model knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any

from ..errors import SchemaMismatch, UndecodableInput
from ..values.content import UNLIMITED, Columns, Content, Limits, Rows, Tensors
from ..values.wording import check_columns, check_rows, check_values, listed, short

KINDS = ("dataframe_split", "dataframe_records", "instances", "inputs")
"""The kinds of mlflow; a body holds exactly one of them, and ``params`` next to it."""
AZUREML_KINDS = ("input_data", "data")
MISSING = float("nan")
"""What stands in a column for a key that a record does not have: NaN, as in pandas."""
_INPUT = "The input"
_OF_A_SPLIT = {"columns", "index", "data"}


def decode(value: Mapping[str, Any], limits: Limits = UNLIMITED) -> tuple[Content, dict[str, Any]]:
    """The content and the ``params`` of a parsed JSON object.

    ======================  ==================================================================
    ``dataframe_split``     ``{"columns", "data"[, "index"]}`` → Columns; without names Rows
    ``dataframe_records``   list of objects → Columns; a key that is not there is a missing value
    ``instances``           rows → Rows; objects → Tensors
    ``inputs``              an array → Rows; an object → Tensors; objects → Columns
    ``input_data, data``    any of these, told apart by their form; rows with ``columns`` beside
                            them, as pandas writes them with ``orient="split"`` → Columns
    ======================  ==================================================================

    Other keys of the object, and ``index``, are ignored.

    Raises:
        UndecodableInput: not exactly one kind; the message lists them.
        SchemaMismatch: that kind cannot look so; the message names the row where there is one.
        InputTooLarge: more rows, columns or values than ``limits`` allow.
    """
    kind = _kind(value)
    content = _content(data_with_columns(value, kind), kind, limits)
    parts = [content.values] if isinstance(content, Rows) else list(content[0].values())
    if not isinstance(content, Rows):
        check_columns(len(parts), limits, _INPUT)
    check_rows(max((len(e) for e in parts if isinstance(e, list)), default=0), limits, _INPUT)
    check_values(sum(map(_size, parts)), limits, _INPUT)
    return content, _params(value.get("params"))


def data_with_columns(value: Mapping[str, Any], kind: str) -> Any:
    """What ``value`` has under ``kind``: rows of ``data`` or ``input_data`` as a split table, where
    ``columns`` beside them name their values."""
    data = value[kind]
    is_rows = isinstance(data, list) and not (data and isinstance(data[0], dict))
    if kind in AZUREML_KINDS and "columns" in value and is_rows:
        return {"columns": value["columns"], "data": data}
    return data


def _kind(value: Mapping[str, Any]) -> str:
    found = [kind for kind in KINDS if kind in value]
    found = found or [kind for kind in AZUREML_KINDS if kind in value]
    if len(found) == 1:
        return found[0]
    got = listed(found or value) or "no keys"
    raise UndecodableInput(
        f"The body must be a JSON object with exactly one of {', '.join(KINDS)}, "
        f"{' or '.join(AZUREML_KINDS)}; it has {got}."
    )


def _params(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise SchemaMismatch(f"params is {short(value)}; expected is a JSON object.")
    return value or {}


def _content(value: Any, kind: str, limits: Limits) -> Content:
    is_split = isinstance(value, dict) and "data" in value and value.keys() <= _OF_A_SPLIT
    if kind == "dataframe_split" or (kind in AZUREML_KINDS and is_split):
        return _split(value, kind)
    is_records = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    if kind == "dataframe_records" or is_records:
        columns = _by_name(value, kind, limits)
        return Tensors(columns) if kind == "instances" else Columns(columns)
    if isinstance(value, dict):
        return Tensors(value)
    if value is None:
        raise SchemaMismatch(f"{kind} is null; it must be a list, an object or one value.")
    return Rows(value if isinstance(value, list) else [value])


def _split(value: Any, kind: str) -> Content:
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        raise SchemaMismatch(
            f'{kind} must be an object with "data", a list of rows, and "columns", their names.'
        )
    names = value.get("columns")
    # Numbers are positions: what pandas writes for a table without names.
    if names is None or (names and isinstance(names, list) and {*map(type, names)} == {int}):
        return Rows(rows)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SchemaMismatch(f'"columns" of {kind} must be a list of names.')
    if len({*names}) < len(names):
        [(twice, _)] = Counter(names).most_common(1)
        raise SchemaMismatch(f"{kind} has the column {twice[:40]!r} more than once.")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise SchemaMismatch(
                f"Row {number} of {kind} is {short(row)}; a list of {len(names)} is expected, one "
                "value a column."
            )
    values = zip(*rows, strict=True) if rows else ([] for _ in names)
    return Columns(dict(zip(names, map(list, values), strict=True)))


def _by_name(records: Any, kind: str, limits: Limits) -> dict[str, list[Any]]:
    if not isinstance(records, list):
        raise SchemaMismatch(f"{kind} is {short(records)}; a list of objects is expected.")
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise SchemaMismatch(
                f"Row {number} of {kind} is {short(record)}; an object is expected."
            )
    names = dict.fromkeys(chain.from_iterable(records))
    # Before it is made: a new name in each record is a column for all of them.
    check_columns(len(names), limits, _INPUT)
    check_values(len(records) * len(names), limits, _INPUT)
    return {name: [record.get(name, MISSING) for record in records] for name in names}


def _size(part: Any) -> int:
    if not isinstance(part, list) or not part:
        return 1
    return len(part) * (len(part[0]) if isinstance(part[0], list) else 1)
