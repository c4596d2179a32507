"""How a script with a schema is called when the body is not simply JSON by parameter names.

CSV, JSON Lines, npy, V2 and the other kinds of JSON become what JSON by names would hold: lists,
records or single values, which inference-schema converts. What comes as an array (npy, V2) stays
one where one is declared: the library keeps it as it is, so dtype and shape have to be right here.
``Accept`` chooses how the result is written.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import NotAcceptable, SchemaMismatch, UndecodableInput, UnsupportedContentType
from ..formats import by_content_type
from ..formats.by_accept import Encode, Writer, writer
from ..formats.guarded_json import check_memory
from ..formats.mlflow_json import AZUREML_KINDS, KINDS
from ..messages import INFER_HEADER_LENGTH, ScoringRequest
from ..values.body import decoded_body, is_json_type, parse_json, query_values
from ..values.content import (
    DATATYPES,
    UNLIMITED,
    Columns,
    Content,
    Limits,
    Rows,
    Spec,
    Tensors,
    TextRows,
)
from ..values.wording import check_rows, short, uneven
from .arguments import Arguments, wrapped_functions
from .entry_script import EntryScript

DATATYPE_OF = {bool: "BOOL", int: "INT64", float: "FP64"}
"""Of a scalar sample's type; BYTES for any other."""
# Of a value of a table while inference-schema writes it as JSON text and pandas reads that.
_BYTES_A_CELL = 100
_PLAIN_ACCEPTS = (b"", b"*/*", b"application/json")
# The text that clients of azureml-inference-server-http know.
_EXPECTED = "Expects Content-Type to be application/json."
_KINDS = frozenset({*KINDS, *AZUREML_KINDS})
_MISSING = inspect.Parameter.empty
_DECLARED: Mapping[str, Any] = {"optional": False, "convert_to_provided_type": True}


class SchemaArguments:
    """Makes run()'s arguments, and what writes its result.

    Args:
        script: with a schema.
        limits: how much a request may hold, JSON by parameter names apart.
        encode: writes JSON.
        model: name and version, which V2 answers show.
        nan: what NaN becomes in V2 JSON, as ``encode`` has it.
    """

    def __init__(
        self,
        script: EntryScript,
        limits: Limits,
        encode: Encode,
        model: tuple[str, str],
        nan: str = "null",
    ) -> None:
        self._plain = script.arguments
        declared = declarations(script.run)
        self._types = {name: each["param_type"] for name, each in declared.items()}
        _leave_texts_whole(self._types)
        # The library asks whether an optional value is true, which no array or table answers.
        self._as_json = {
            name
            for name, each in declared.items()
            if each["optional"] or not each["convert_to_provided_type"]
        }
        self._with_headers = script.sees_headers
        self._defaults = _defaults(script.run)
        self._answers_itself = _may_answer_itself(script.run)
        self._encode = encode
        self._model, self._nan = model, nan
        self._main = _main_parameter(self._types)
        self._optional = self._defaults.get(self._main, _MISSING) is not _MISSING
        self.inputs = tuple(
            spec for name, each in self._types.items() for spec in _specs(name, each)
        )
        self._limits = limits.for_inputs(len(self.inputs))
        main = _sample(self._types.get(self._main))
        self._columns = frozenset(str(name) for name in getattr(main, "columns", ()))
        self._members = frozenset(main) if isinstance(main, dict) else self._columns

    def __call__(self, request: ScoringRequest) -> tuple[Arguments, Writer | None]:
        """The keyword arguments, and the writer when it is not plain JSON.

        Raises:
            InputError: as :func:`.by_content_type.read` and :func:`.by_accept.writer`;
                UndecodableInput when a parameter has no value.
        """
        said, accept, length = _said(request)
        infer = length or request.path.startswith("/v2/")
        if infer or (request.method == "POST" and not is_json_type(said)):
            if not said and not infer:
                raise UnsupportedContentType(f"{_EXPECTED} {by_content_type.supported()}")
            return self._of_content(request, self._read(request))
        other = None
        try:
            arguments = self._plain(request)
            if self._optional and arguments[self._main] is self._defaults[self._main]:
                other = self._other_kind(request)
        except UndecodableInput:
            other = self._other_kind(request)
            if other is None:
                raise
        if other is not None:
            return self._of_content(request, *other)
        if accept in _PLAIN_ACCEPTS:
            return arguments, None
        return arguments, self._writer(request, by_content_type.Asked(Rows([])))

    def _read(self, request: ScoringRequest) -> by_content_type.Asked:
        try:
            return by_content_type.read(request, self._limits, names=self._columns)
        except UnsupportedContentType as error:
            if by_content_type.is_known(request.header(b"content-type")):
                raise
            raise UnsupportedContentType(f"{_EXPECTED} {error}") from None

    def _other_kind(
        self, request: ScoringRequest
    ) -> tuple[by_content_type.Asked, Arguments] | None:
        """The data of JSON that has them under a name that no parameter has, and the values that
        it has by the names of parameters."""
        if request.method != "POST" or not self._types:
            return None
        body = decoded_body(request, self._limits.bytes)
        try:
            value = parse_json(body, exact=False)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or self._main in value:
            return None
        named = {name: value[name] for name in self._defaults if name in value}
        if _KINDS.isdisjoint(value.keys() - named.keys()):
            return None
        rest = {name: each for name, each in value.items() if name not in named}
        return by_content_type.read_json(rest, self._limits), named

    def _of_content(
        self, request: ScoringRequest, asked: by_content_type.Asked, named: Mapping[str, Any] = {}
    ) -> tuple[Arguments, Writer | None]:
        write = self._writer(request, asked)
        beside = {**query_values(request.query), **asked.params, **named}
        given = self._distributed(asked.content)
        arguments = {
            name: given[name] if name in given else beside.get(name, default)
            for name, default in self._defaults.items()
        }
        missing = next((name for name, value in arguments.items() if value is _MISSING), None)
        if missing is not None:
            raise UndecodableInput(
                f"A value is not provided for the {missing!r} parameter. Data of this kind go to "
                f"{self._main!r}; send others by name in params, or all by name in JSON."
            )
        if self._with_headers:
            from .aml_http import header_mapping

            arguments["request_headers"] = header_mapping(request.headers)
        return arguments, write

    def _writer(self, request: ScoringRequest, asked: by_content_type.Asked) -> Writer:
        asked = asked._replace(predictions=False)
        try:
            return writer(request, asked, self._encode, "output", self._model, self._nan)
        except NotAcceptable as error:
            if not self._answers_itself:
                raise
            return _refusal(error)

    # --- parameters ---------------------------------------------------------------------------

    def _distributed(self, content: Content) -> Arguments:
        """Arrays with the names of parameters go to those, anything else to the main one."""
        if not self._types:
            raise UndecodableInput(
                "run() declares no @input_schema, so that data of this kind could go to no "
                "parameter: send JSON by the names of the parameters."
            )
        if not isinstance(content, Tensors) or self._members == content.tensors.keys():
            return {self._main: self._argument(content, self._main)}
        known = {name: each for name, each in content.tensors.items() if name in self._types}
        if not known:
            return {self._main: self._argument(content, self._main)}
        rest = {name: each for name, each in content.tensors.items() if name not in known}
        if rest and (self._main in known or not self._members.issuperset(rest)):
            raise SchemaMismatch(
                f"Unknown inputs: {str(list(rest)[:20])[1:-1]}. Expected: "
                f"{str(list(self._types))[1:-1]}."
            )
        made = {name: self._argument(Rows(each), name) for name, each in known.items()}
        if rest:
            made[self._main] = self._argument(Tensors(rest), self._main)
        return made

    def _argument(self, content: Content, name: str) -> Any:
        """A value that the library takes: it converts lists, and keeps arrays."""
        parameter, limits = self._types[name], self._limits
        sample = _sample(parameter)
        if isinstance(content, Tensors) and len(content.tensors) == 1:
            only, values = next(iter(content.tensors.items()))
            content = content if only in self._members else Rows(values)
        check_rows(_length(content), limits, f"The input {name!r}")
        if hasattr(sample, "columns"):
            return _oriented(_table(content, name, parameter, limits), parameter.orient)
        if hasattr(sample, "dtype"):
            made = _array(content, _array_spec(name, parameter), parameter, limits)
            return _plain(made) if name in self._as_json else made
        return _standard(content, sample, name)


def _said(request: ScoringRequest) -> tuple[bytes, bytes, bytes]:
    """Content type, Accept and the length of a V2 header, in one pass: each request comes here."""
    said = accept = length = b""
    for name, value in request.headers:
        if name == b"content-type":
            said = said or value
        elif name == b"accept":
            accept = accept or value
        elif name == INFER_HEADER_LENGTH:
            length = length or value
    return said, accept, length


def _defaults(run: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(run).parameters
    return {name: each.default for name, each in parameters.items() if name != "request_headers"}


def _may_answer_itself(run: Callable[..., Any]) -> bool:
    """Whether the script knows AMLResponse: then its content types are its own affair, and what
    is acceptable is known only once run() has answered."""
    werkzeug = sys.modules.get("werkzeug.wrappers")
    if werkzeug is None:
        return False
    found = [
        value
        for each in wrapped_functions(run)
        if getattr(each, "__module__", "") == getattr(run, "__module__", None)
        for value in getattr(each, "__globals__", {}).values()
    ]
    return any(
        (isinstance(value, type) and issubclass(value, werkzeug.Response))
        or hasattr(value, "AMLResponse")
        for value in found
    )


def _refusal(error: NotAcceptable) -> Writer:
    def write(result: Any) -> Any:
        raise error

    return write


def declarations(run: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """What ``@input_schema`` was given, by the parameter's name, in the order of run()'s.

    inference-schema keeps it in the closures of its wrappers only.
    """
    found: dict[str, dict[str, Any]] = {}
    for each in wrapped_functions(run):
        inner = getattr(each, "_self_wrapper", None) or each
        code, cells = getattr(inner, "__code__", None), getattr(inner, "__closure__", None) or ()
        if code is not None and "param_type" in code.co_freevars:
            contents = [cell.cell_contents for cell in cells]
            given = dict(zip(code.co_freevars, contents, strict=True))
            found[given["param_name"]] = {**_DECLARED, **given}
    return {name: found[name] for name in inspect.signature(run).parameters if name in found}


def _main_parameter(types: Mapping[str, Any]) -> str:
    """The one that data go to: the first of arrays or tables, else the first."""
    tables = [
        name
        for name, each in types.items()
        if hasattr(_sample(each), "dtype") or hasattr(_sample(each), "columns")
    ]
    return next(iter(tables or types), "")


def _sample(parameter: Any) -> Any:
    return getattr(parameter, "sample_input", None)


def _leave_texts_whole(types: Mapping[str, Any]) -> None:
    """Text in an array may be longer than in its sample, at which numpy would cut it silently."""
    for each in types.values():
        sample = _sample(each)
        if isinstance(sample, dict):
            _leave_texts_whole(sample)
        elif getattr(getattr(sample, "dtype", None), "kind", "") in ("U", "S"):
            import numpy as np

            any_length = {"dtype": np.dtype(sample.dtype.kind)}  # which the library converts to
            each.sample_input = sample.view(type("Texts", (np.ndarray,), any_length))


# --- what V2 clients are told ---------------------------------------------------------------------


def _specs(name: str, parameter: Any) -> list[Spec]:
    sample = _sample(parameter)
    if hasattr(sample, "columns"):
        kinds = sample.dtypes.items()
        return [Spec(str(each), column_datatype(kind), (-1,)) for each, kind in kinds]
    if hasattr(sample, "dtype"):
        return [_array_spec(name, parameter)]
    return [Spec(name, DATATYPE_OF.get(type(sample), "BYTES"), (-1,))]


def _array_spec(name: str, parameter: Any) -> Spec:
    sample = parameter.sample_input
    fixed = tuple(sample.shape[1:]) if parameter.enforce_shape else (-1,) * (sample.ndim - 1)
    return Spec(name, DATATYPES.get(str(sample.dtype), "BYTES"), (-1, *fixed))


# --- arrays ---------------------------------------------------------------------------------------


def _array(content: Content, spec: Spec, parameter: Any, limits: Limits) -> Any:
    """An array with the dtype and shape that the parameter enforces, or lists for the library."""
    dtype = parameter.sample_input.dtype
    if isinstance(content, Rows):
        values = content.values
    else:
        datatype = spec.datatype if parameter.enforce_column_type else "FP64"
        table, typed = _columns(content, spec.name), getattr(content, "typed", True)
        columns = {
            name: _as_json(each, Spec(name, datatype, (-1,)), typed, parameter.enforce_column_type)
            for name, each in table.items()
        }
        if dtype.names is not None:
            return _records(columns)
        values = next(iter(columns.values())) if len(columns) == 1 else _rows(columns)
    if parameter.enforce_shape:
        values = _fitted(values, spec)
    return _checked(values, spec, parameter, limits) if hasattr(values, "dtype") else values


def _checked(values: Any, spec: Spec, parameter: Any, limits: Limits) -> Any:
    import numpy as np

    from ..values.arrays import array, checked

    dtype = parameter.sample_input.dtype
    if not parameter.enforce_shape:
        spec = spec._replace(shape=(-1,) * values.ndim)
    if parameter.enforce_column_type and str(dtype) in DATATYPES:
        values = array(values, spec, limits)
    else:
        values = checked(values, spec, limits)
        if parameter.enforce_column_type and values.dtype.kind != dtype.kind:
            return values.tolist()
        values = values.astype(dtype) if parameter.enforce_column_type else values
    # As from JSON: in C order, and the script may write to it.
    return np.require(values, requirements=["C", "W"])


def _fitted(values: Any, spec: Spec) -> Any:
    """Rows of one value each as those values, and the other way round, as the shape has them."""
    if spec.shape[1:] == (1,):
        return _wide(values)
    if len(spec.shape) != 1:
        return values
    if hasattr(values, "dtype"):
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    alone = isinstance(values, list) and all(_is_alone(each) for each in values)
    return [each[0] for each in values] if alone else values


# --- tables ---------------------------------------------------------------------------------------


def _table(content: Content, name: str, parameter: Any, limits: Limits) -> dict[str, list[Any]]:
    """The columns of a data frame as JSON has them, in the order of the sample's."""
    from ..values.arrays import empty_batch
    from ..values.inputs import check_names, split

    kinds = {
        str(each): column_datatype(kind) for each, kind in parameter.sample_input.dtypes.items()
    }
    names, typed = list(kinds), getattr(content, "typed", not isinstance(content, TextRows))
    if isinstance(content, Rows):
        found = split(_wide(content.values) if len(names) == 1 else content.values, names)
    else:
        found = _columns(content, name)
    if parameter.apply_column_names and len(found) == len(names):
        found = dict(zip(names, found.values(), strict=True))
    elif parameter.enforce_shape:
        check_names(found, names, "column")
    rows = len(next(iter(found.values()), ()))
    if rows == 0:
        raise empty_batch(name)
    memory = rows * len(found) * _BYTES_A_CELL
    check_memory(memory, limits, f"The input {name!r}", "Send fewer rows at once.")
    ordered = [each for each in names if each in found]
    ordered += [each for each in found if each not in kinds]
    specs = [Spec(each, kinds.get(each, "BYTES"), (-1,)) for each in ordered]
    enforced = parameter.enforce_column_type
    return {spec.name: _as_json(found[spec.name], spec, typed, enforced) for spec in specs}


def _wide(values: Any) -> Any:
    """Single values as rows of one."""
    if hasattr(values, "dtype"):
        return values[:, None] if values.ndim == 1 else values
    flat = isinstance(values, list) and not any(isinstance(row, list) for row in values)
    return [[each] for each in values] if flat else values


def _oriented(columns: dict[str, list[Any]], orient: str) -> Any:
    """A table as the parameter's JSON is laid out."""
    if orient == "values":
        return _rows(columns)
    if orient == "split":
        return {"columns": list(columns), "data": _rows(columns)}
    if orient == "columns":
        places = [{str(at): each for at, each in enumerate(v)} for v in columns.values()]
        return dict(zip(columns, places, strict=True))
    records = _records(columns)
    return {str(at): each for at, each in enumerate(records)} if orient == "index" else records


def _rows(columns: Mapping[str, Any]) -> list[list[Any]]:
    return [list(row) for row in zip(*columns.values(), strict=True)]


def _records(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _columns(content: Columns | Tensors, name: str) -> dict[str, Any]:
    """Columns, or arrays by name of which each is a column, equally long."""
    columns = {each: v if _is_many(v) else [v] for each, v in content[0].items()}
    if wrong := uneven({repr(each): len(values) for each, values in columns.items()}):
        raise SchemaMismatch(f"The columns for {name!r} are {wrong}.")
    return columns


def _as_json(values: Any, spec: Spec, typed: bool, enforced: bool) -> list[Any]:
    """A column as a list; CSV fields as the sample has them, and empty ones None."""
    if getattr(values, "ndim", 1) == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if not typed and spec.datatype != "BYTES":
        from ..values.inputs import column

        try:
            values = column(values, spec, UNLIMITED, typed)
        except SchemaMismatch:
            if enforced:
                raise
    listed: list[Any] = _plain(values)
    return [None if each != each or (each == "" and not typed) else each for each in listed]


def column_datatype(kind: Any) -> str:
    """The datatype of a column of pandas; BYTES stands for whatever is neither number nor boolean.

    Categories are those of their values; nullable integers are FP64, which has a missing value.
    """
    kind = getattr(getattr(kind, "categories", None), "dtype", kind)
    return DATATYPES.get(str(kind), "FP64" if kind.kind in "fiu" else "BYTES")


def _plain(values: Any) -> Any:
    """Arrays as lists, anything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def _length(content: Content) -> int:
    if isinstance(content, Rows):
        return len(content.values) if _is_many(content.values) else 1
    return max((len(each) for each in content[0].values() if _is_many(each)), default=0)


def _is_many(values: Any) -> bool:
    return isinstance(values, list) or bool(getattr(values, "shape", ()))


def _is_alone(value: Any) -> bool:
    return _is_many(value) and len(value) == 1


# --- Python's own values --------------------------------------------------------------------------


def _standard(content: Content, sample: Any, name: str) -> Any:
    """An object, a list or a single value, whichever the sample is."""
    typed = getattr(content, "typed", True)
    if isinstance(sample, dict):
        if isinstance(content, Rows):
            names = ", ".join(repr(key) for key in list(sample)[:20]) or "names of its own"
            raise SchemaMismatch(
                f"The parameter {name!r} takes an object with {names}; got rows without names."
            )
        return {k: _member(each, sample.get(k), k, typed) for k, each in content[0].items()}
    if isinstance(sample, list | tuple):
        return _list(content, sample, name, typed)
    value = content.values if isinstance(content, Rows) else [*_columns(content, name).values()]
    return _like(_alone(value, f"The parameter {name!r} takes", sample), sample, name, typed)


def _alone(value: Any, takes: str, sample: Any) -> Any:
    """The single value in lists of one."""
    while _is_many(value):
        if len(value) != 1:
            raise SchemaMismatch(f"{takes} one value, such as {short(sample)}; got {len(value)}.")
        value = value[0]
    return value


def _member(values: Any, sample: Any, key: str, typed: bool) -> Any:
    """A list where the sample has one, else the value of the only row."""
    sample = getattr(sample, "sample_input", sample)
    many = isinstance(sample, list | tuple) or hasattr(sample, "dtype")
    if sample is not None and not many and not hasattr(sample, "columns"):
        values = _alone(values, f"{key!r} takes", sample)
    return _like(values, sample, key, typed)


def _list(content: Content, sample: Any, name: str, typed: bool) -> Any:
    first = sample[0] if sample else None
    single = type(first) in (bool, int, float, str)
    if isinstance(content, Rows):
        values = content.values
        if single and _is_many(values) and all(_is_alone(each) for each in values):
            values = [each[0] for each in _plain(values)]
        return _like(values, sample, name, typed)
    columns = {each: _plain(values) for each, values in _columns(content, name).items()}
    if isinstance(first, dict) or not sample:
        like = first or {}
        return [
            {key: _like(value, like.get(key), key, typed) for key, value in row.items()}
            for row in _records(columns)
        ]
    if not single:
        return _like(_rows(columns), sample, name, typed)
    if len(columns) != 1:
        raise SchemaMismatch(
            f"The parameter {name!r} takes a list of single values; got a table of "
            f"{len(columns)} columns."
        )
    return _like(next(iter(columns.values())), sample, name, typed)


def _like(value: Any, sample: Any, name: str, typed: bool = True) -> Any:
    """A value of JSON as it is; one from an array, or a text, as the sample has it."""
    if typed and not hasattr(value, "tolist"):
        return value
    return _as_sample(_plain(value), sample, name, typed)


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
