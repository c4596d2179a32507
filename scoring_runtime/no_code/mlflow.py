"""MLflow models without a script: a folder with an ``MLmodel`` file.

mlflow loads it and scores, and the server of ``mlflow models serve`` reads the bodies that it knows
and writes the answers; so what is taken, and each byte of an answer, are mlflow's own. Here is only
what a body may hold before mlflow sees it, and what the forms that mlflow's server does not know
mean to it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ResultNotSerializable, SchemaMismatch, UndecodableInput, UnsupportedContentType
from ..formats.by_content_type import JSON, Asked
from ..formats.guarded_json import check_texts
from ..formats.mlflow_json import AZUREML_KINDS, KINDS, data_with_columns
from ..models.kinds import mlflow_versions
from ..models.loading import load_mlflow, warn_of_versions
from ..values.content import DATATYPES, Columns, Content, Limits, NoCodeModel, Rows, Spec
from ..values.wording import check_columns, check_rows, check_values

_NOT_A_NUMBER: Mapping[str, Callable[[str], Any]] = {"null": lambda _: None, "string": str}


def load(folder: Path) -> NoCodeModel:
    """The MLflow model in ``folder``, which holds ``MLmodel``.

    Raises:
        ModelUnusable: mlflow or a package of the model is missing, or mlflow cannot load it.
    """
    warn_of_versions(folder, mlflow_versions(folder))
    return MlflowModel(load_mlflow(folder), folder)


class _Parsed(Rows):
    """The data and the params, or None, that mlflow's server made of a body."""

    __slots__ = ()


class MlflowModel(NoCodeModel):
    """A pyfunc model; see :class:`scoring_runtime.values.content.NoCodeModel` and
    :class:`scoring_runtime.formats.by_content_type.OwnBodies`."""

    methods: tuple[str, ...] = ()
    params: Mapping[str, Collection[str]] | None = None  # mlflow checks them
    reads_text = False
    is_bound = True
    quick: Callable[[list[Any]], Any] | None = None

    def __init__(self, pyfunc: Any, folder: Path) -> None:
        self._server = _server()
        self._pyfunc, self._metadata = pyfunc, pyfunc.metadata
        self._schema = pyfunc.metadata.get_input_schema()
        self._hinted = bool(self._metadata._is_signature_from_type_hint())
        self._names = self._schema.input_names() if self._is_named_table() else []
        self.platform = f"mlflow_{_flavour(self._metadata.flavors)}"
        self.inputs = _specs(self._schema, "input")
        self.outputs = _specs(self._metadata.get_output_schema(), "output")
        self.joins_rows = self.tabular = (
            self._schema is not None and not self._schema.is_tensor_spec()
        )
        self.example: Mapping[str, Any] = self._saved_example(folder) or self._example()

    def read_json(self, value: Any, limits: Limits) -> Asked:
        """As mlflow's server reads it; what Azure ML's clients send is put into its words. The
        message of a refusal is mlflow's."""
        if not isinstance(value, dict | list):
            raise UndecodableInput("The body is neither a JSON object nor a list of rows.")
        has_own, has_azureml = (
            any(kind in value for kind in kinds) for kinds in (KINDS, AZUREML_KINDS)
        )
        is_own = isinstance(value, dict) and (has_own or not has_azureml)
        body: dict[str, Any] = dict(value) if is_own else self._from_azureml(value)
        for kind in [kind for kind in KINDS if kind in body]:
            _check_size(body[kind], kind, limits, self.tabular)
        parsed, wrapped = self._parsed(body, JSON)
        if not wrapped:  # a chat's messages, of which mlflow has made nothing yet
            _check_size(body, "", limits, self.tabular)
        return Asked(parsed, predictions=is_own and wrapped)

    def read_csv(self, text: str, limits: Limits) -> Asked:
        """As mlflow's server reads it: the first line has the names."""
        _check_csv(text, limits)
        return Asked(self._parsed(text, "text/csv")[0], predictions=True)

    def given(self, content: Content, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """The data and the params as pyfunc takes them."""
        if isinstance(content, _Parsed):
            data, said = content.values
            return data, said
        return self._data(content), dict(params) or None

    def call(self, given: Any, params: Any, method: str) -> Any:
        """What pyfunc gives.

        A ``ValueError``, ``TypeError``, ``LookupError`` or ``OverflowError`` of the model itself is
        taken as its refusal of the data, as mlflow's server takes any error: scikit-learn refuses
        so NaN and tables without rows, and pandas columns that are not there.
        """
        try:
            return self._pyfunc.predict(given, params=params)
        except Exception as error:
            if _is_refusal(error):
                raise SchemaMismatch(f"The model refuses the input: {_said(error)}") from error
            raise

    def encode(self, result: Any, nan: str) -> bytes:
        """JSON as mlflow's server writes it; NaN and Infinity as ``nan`` says (``SCORING_NAN``).

        Raises:
            ResultNotSerializable: mlflow has no JSON for it, or ``nan`` is ``error``.
        """
        text = io.StringIO()
        try:
            if isinstance(result, dict) and list(result) == ["predictions"]:
                self._server.predictions_to_json(result["predictions"], text)
            else:
                self._server.unwrapped_predictions_to_json(result, text)
        except (TypeError, ValueError) as error:
            raise ResultNotSerializable(f"The model's result is no JSON: {_said(error)}") from error
        return _with_nan(text.getvalue(), nan).encode()

    def _parsed(self, body: Any, content_type: str) -> tuple[_Parsed, bool]:
        """What would reach the model, and whether the answer goes under ``predictions``."""
        reached = _Reached(self._metadata)
        try:
            answer = self._server.invocations(body, content_type, reached, self._schema)
        except Exception as error:  # whatever mlflow, numpy and pandas raise for a client's values
            raise SchemaMismatch(_said(error)) from error
        if answer.status != 200:
            raise UnsupportedContentType(str(answer.response))
        return _Parsed((reached.data, reached.params)), answer.response != "[]"

    def _from_azureml(self, value: Any) -> dict[str, Any]:
        """``data`` and ``input_data`` of Azure ML's clients, and rows alone."""
        kind = next((each for each in AZUREML_KINDS if each in value), "")
        data: Any = data_with_columns(value, kind) if kind else value
        rest = {"params": value.get("params")} if kind else {}
        if isinstance(data, dict) and "data" in data:
            return {"dataframe_split": data, **rest}
        if isinstance(data, list) and data and isinstance(data[0], dict):
            return {"inputs" if self._hinted else "dataframe_records": data, **rest}
        if self._names and _width(data) == len(self._names):
            return {"dataframe_split": {"columns": self._names, "data": data}, **rest}
        return {"inputs": data, **rest}

    def _data(self, content: Content) -> Any:
        """What npy, JSON Lines and V2 hold, as mlflow reads the same in JSON; an array stays one
        where no names are to be given to it."""
        body: dict[str, Any]
        if isinstance(content, Rows):
            values = content.values
            if isinstance(values, np.ndarray) and not self._names:
                return values
            body = self._from_azureml(np.asarray(values, object).tolist())
        elif isinstance(content, Columns):
            rows = zip(*content.columns.values(), strict=True)
            body = self._from_azureml(
                [dict(zip(content.columns, row, strict=True)) for row in rows]
            )
        else:
            arrays = {name: np.asarray(each) for name, each in content.tensors.items()}
            named = len(arrays) > 1 or (self._schema is not None and self._schema.has_input_names())
            if self._schema is None:
                return arrays if named else next(iter(arrays.values()))
            lists = {name: each.tolist() for name, each in arrays.items()}
            body = {"inputs": lists if named else next(iter(lists.values()))}
        return self._parsed(body, JSON)[0].values[0]

    def _is_named_table(self) -> bool:
        schema = self._schema
        return schema is not None and schema.has_input_names() and not schema.is_tensor_spec()

    def _saved_example(self, folder: Path) -> dict[str, Any] | None:
        """The body that was saved with the model, if one was."""
        try:
            text = self._metadata.get_serving_input(str(folder))
            return dict(json.loads(text, parse_constant=lambda _: None)) if text else None
        except (OSError, ValueError, TypeError):
            return None

    def _example(self) -> dict[str, Any]:
        """A body of one row with a value of each type."""
        if self._schema is None:
            return {"inputs": []}
        samples = [_sample(e.type, getattr(e, "shape", ())) for e in self._schema.inputs]
        if self._hinted:
            return {"inputs": samples}
        if self.tabular:
            columns = {"columns": self._names} if self._names else {}
            return {"dataframe_split": {**columns, "data": [samples]}}
        names = self._schema.input_names()
        named = self._schema.has_input_names()
        return {"inputs": dict(zip(names, samples, strict=True)) if named else samples[0]}


class _Reached:
    """Stands where a model does in mlflow's server, and keeps what reaches it."""

    data: Any
    params: Any

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata

    def predict(self, data: Any, params: Any = None) -> list[Any]:
        self.data, self.params = data, params
        return []


# --- mlflow ---------------------------------------------------------------------------------------


def _server() -> Any:
    """The module of mlflow's server, told that it serves: it checks type hints otherwise then."""
    from mlflow import environment_variables
    from mlflow.pyfunc import scoring_server

    serving: Any = environment_variables._MLFLOW_IS_IN_SERVING_ENVIRONMENT
    serving.set("true")
    return scoring_server


def _flavour(flavours: Mapping[str, Any]) -> str:
    others = [name for name in flavours if name != "python_function"]
    return others[0] if len(others) == 1 else "python_function"


def _is_refusal(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    of_onnxruntime = type(error).__module__.startswith("onnxruntime.")  # which have no base class
    return of_onnxruntime or isinstance(
        error, MlflowException | ValueError | TypeError | LookupError | OverflowError
    )


def _said(error: Exception) -> str:
    """What mlflow says without the data that it repeats, in one line of at most 400 characters."""
    text = str(getattr(error, "message", error)).partition(" IMPORTANT: ")[0]
    if text.startswith("Failed to enforce schema of data"):
        text = text.rpartition("'. Error: ")[2]
    text = text.strip().partition("\n")[0]
    text = f"KeyError: {text}" if isinstance(error, KeyError) else text
    return f"{text[:400]}…" if len(text) > 400 else text or type(error).__name__


# --- the signature --------------------------------------------------------------------------------


def _specs(schema: Any, unnamed: str) -> tuple[Spec, ...]:
    """The specifications as V2 metadata have them: a column is ``(-1,)``, text is BYTES."""
    parts = schema.inputs if schema is not None else []
    several = len(parts) > 1
    return tuple(
        _spec(part, part.name or (str(position) if several else unnamed))
        for position, part in enumerate(parts)
    )


def _dtype(kind: Any) -> np.dtype[Any]:
    """Of the type of a tensor or a column; objects for text and what is nested."""
    kind = kind.to_numpy() if hasattr(kind, "to_numpy") else kind
    return kind if isinstance(kind, np.dtype) else np.dtype(object)


def _spec(part: Any, name: str) -> Spec:
    datatype = DATATYPES.get(_dtype(part.type).name, "BYTES")
    if hasattr(part, "shape"):
        return Spec(name, datatype, tuple(map(int, part.shape)))
    return Spec(name, datatype, (-1,), not part.required)


_SAMPLES: Mapping[str, Any] = {"b": True, "i": 1, "u": 1, "f": 1.0, "M": "2024-01-01T00:00:00"}


def _sample(kind: Any, shape: Sequence[int] = ()) -> Any:
    """A value of a type, or lists of this shape."""
    if hasattr(kind, "properties"):
        return {each.name: _sample(each.dtype) for each in kind.properties}
    if hasattr(kind, "value_type"):
        return {"key": _sample(kind.value_type)}
    if type(kind).__name__ == "Array":
        return [_sample(kind.dtype)]
    lengths = [max(int(length), 1) for length in shape]
    return np.full(lengths, _SAMPLES.get(_dtype(kind).kind, "text"), object).tolist()


# --- bodies ---------------------------------------------------------------------------------------


def _check_size(value: Any, kind: str, limits: Limits, tabular: bool) -> None:
    """Refuse more rows, columns or values than allowed before pandas makes a table of them, where
    each row has each name and is as long as the longest."""
    is_split = kind == "dataframe_split" and isinstance(value, dict)
    rows, width, named = _extent(value.get("data") if is_split else value)
    if is_split:
        rows = max(rows, _length(value.get("index")))
        width = max(width, _length(value.get("columns")))
    named = named or tabular or kind not in ("inputs", "instances")
    _check(rows, width if named else 0, rows * width, limits, "The input")


def _check(rows: int, columns: int, values: int, limits: Limits, what: str) -> None:
    check_rows(rows, limits, what)
    check_columns(columns, limits, what)
    check_values(values, limits, what)


def _extent(value: Any) -> tuple[int, int, bool]:
    """The rows and columns of the table that pandas makes of a value, and whether it has names."""
    if isinstance(value, dict):
        keys = sum(len(each) for each in value.values() if isinstance(each, dict))
        rows = max(map(_length, value.values()), default=1)
        return max(rows, keys, 1), len(value), True
    if not isinstance(value, list):
        return 1, 1, False
    names = set().union(*(row for row in value if isinstance(row, dict)))
    width = max(map(_length, value), default=1)
    return len(value), max(width, len(names), 1), bool(names)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _check_csv(text: str, limits: Limits) -> None:
    """The same for CSV, whose short records pandas fills up; lines within quotes count too."""
    rows = text.count("\n") + text.count("\r") - text.count("\r\n") - text.endswith(("\n", "\r"))
    reader = csv.reader(io.StringIO(text, newline=None))
    records = (each for each in reader if len(each) > 1 or "".join(each).strip())
    try:
        width = max(map(len, islice(records, 2)), default=0)
    except csv.Error as error:
        raise UndecodableInput(f"The CSV body cannot be read: {error}.") from None
    _check(rows, width, rows * width, limits, "The CSV body")
    check_texts(rows, width, limits, "The CSV body")


def _width(rows: Any) -> int:
    """The columns of rows; -1 of what is none."""
    are_rows = isinstance(rows, list) and rows and all(isinstance(row, list) for row in rows)
    widths = {len(row) for row in rows} if are_rows else set()
    return widths.pop() if len(widths) == 1 else -1


def _with_nan(text: str, nan: str) -> str:
    if nan == "raw" or ("NaN" not in text and "Infinity" not in text):
        return text
    return json.dumps(json.loads(text, parse_constant=_NOT_A_NUMBER.get(nan, _refuse)))


def _refuse(name: str) -> Any:
    raise ResultNotSerializable(
        f"The result holds {name}, which JSON does not have, and SCORING_NAN is error. Let the "
        "model return finite numbers, or set SCORING_NAN to null, string or raw."
    )
