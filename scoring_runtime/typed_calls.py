"""How a script with a schema is called when the body is not simply JSON by parameter names.

CSV, JSON Lines, npy, Arrow, V2 and the other kinds of JSON become the typed arguments that
``@input_schema`` declares; ``Accept`` chooses how the result is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .arguments import Arguments, wrapped_functions
from .array_values import array
from .coercion import frame_columns, matrix
from .conversion import decompressed, is_json_type, parse_json
from .entry_script import EntryScript
from .errors import SchemaMismatch, UndecodableInput, UnsupportedContentType
from .formats import table
from .formats.answers import Encode, Writer, writer
from .messages import ScoringRequest
from .payloads import DATATYPES, Columns, Content, Limits, Rows, Spec, Tensors

_PLAIN_ACCEPTS = (b"", b"*/*", b"application/json")
# The text that clients of azureml-inference-server-http know.
_EXPECTED = "Expects Content-Type to be application/json."
_KINDS = frozenset(
    {"dataframe_split", "dataframe_records", "instances", "inputs", "input_data", "data"}
)


class TypedCalls:
    """Makes run()'s arguments, and what writes its result.

    Args:
        script: with a schema.
        limits: how much a request may hold, JSON by parameter names apart.
        encode: writes JSON.
        model: name and version, which V2 answers show.
    """

    def __init__(
        self, script: EntryScript, limits: Limits, encode: Encode, model: tuple[str, str]
    ) -> None:
        self._plain = script.arguments
        self._types = parameter_types(script.run)
        self._with_headers = script.sees_headers
        self._limits = limits
        self._encode = encode
        self._model = model
        self.inputs = tuple(
            spec for name, each in self._types.items() for spec in _specs(name, each)
        )
        self._columns = _columns_of(self._types)

    def __call__(self, request: ScoringRequest) -> tuple[Arguments, Writer | None]:
        """The keyword arguments, and the writer when it is not plain JSON.

        Raises:
            InputError: as :func:`table.read` and ``answers.writer``; UndecodableInput when a
                parameter has no value.
        """
        said = request.header(b"content-type")
        infer = request.header(table.HEADER_LENGTH) or request.path.startswith("/v2/")
        if infer or (request.method == "POST" and not is_json_type(said)):
            if not said and not infer:
                raise UnsupportedContentType(f"{_EXPECTED} {table.supported()}")
            return self._of_content(request, self._read(request))
        accept = request.header(b"accept")
        try:
            arguments = self._plain(request)
        except UndecodableInput:
            if request.method != "POST" or not _has_other_kind(request, self._limits):
                raise
            return self._of_content(request, self._read(request))
        if accept in _PLAIN_ACCEPTS:
            return arguments, None
        return arguments, self._writer(request, table.Asked(Rows([])))

    def _read(self, request: ScoringRequest) -> table.Asked:
        try:
            return table.read(request, self._limits, names=self._columns)
        except UnsupportedContentType as error:
            raise UnsupportedContentType(f"{_EXPECTED} {error}") from None

    def _of_content(
        self, request: ScoringRequest, asked: table.Asked
    ) -> tuple[Arguments, Writer | None]:
        write = self._writer(request, asked)
        arguments = self._named(asked.content)
        if self._with_headers:
            from .aml_http import header_mapping

            arguments["request_headers"] = header_mapping(request.headers)
        return arguments, write

    def _writer(self, request: ScoringRequest, asked: table.Asked) -> Writer:
        return writer(
            request, asked._replace(predictions=False), self._encode, "output", self._model
        )

    def _named(self, content: Content) -> Arguments:
        if isinstance(content, Tensors):
            known = {name: each for name, each in content.tensors.items() if name in self._types}
            if known and len(known) == len(content.tensors):
                return {
                    name: _argument(Rows(each), name, self._types[name], self._limits)
                    for name, each in known.items()
                }
        name = _main_parameter(self._types)
        if isinstance(content, Tensors) and len(content.tensors) == 1:
            content = Rows(next(iter(content.tensors.values())))
        return {name: _argument(content, name, self._types[name], self._limits)}


def _has_other_kind(request: ScoringRequest, limits: Limits) -> bool:
    """Whether the body is JSON with data under a name that no parameter has."""
    encoding = request.header(b"content-encoding")
    body = decompressed(request.body, encoding, limits.bytes) if encoding else request.body
    try:
        value = parse_json(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not _KINDS.isdisjoint(value)


def parameter_types(run: Callable[..., Any]) -> dict[str, Any]:
    """The parameter types that ``@input_schema`` was given, by the parameter's name.

    inference-schema keeps them in the closures of its wrappers only.
    """
    found: dict[str, Any] = {}
    for each in wrapped_functions(run):
        inner = getattr(each, "_self_wrapper", None) or each
        code, cells = getattr(inner, "__code__", None), getattr(inner, "__closure__", None) or ()
        if code is not None and "param_type" in code.co_freevars:
            names = dict(zip(code.co_freevars, cells, strict=True))
            found[names["param_name"].cell_contents] = names["param_type"].cell_contents
    return found


def _main_parameter(types: Mapping[str, Any]) -> str:
    """The one that data go to: the first of arrays or tables, else the first."""
    if not types:
        raise UndecodableInput("run() declares no input that data of this kind could go to.")
    tables = [
        name
        for name, each in types.items()
        if hasattr(_sample(each), "dtype") or hasattr(_sample(each), "columns")
    ]
    return (tables or list(types))[0]


def _sample(parameter: Any) -> Any:
    return getattr(parameter, "sample_input", None)


def _argument(content: Content, name: str, parameter: Any, limits: Limits) -> Any:
    """The content as a value that the library takes: it converts lists, and keeps arrays and
    tables as they are, so that those have to be right."""
    sample = _sample(parameter)
    if hasattr(sample, "columns"):
        return _frame(content, sample, limits)
    if hasattr(sample, "dtype"):
        return _array(content, name, parameter, limits)
    return _plain_value(content)


def _array(content: Content, name: str, parameter: Any, limits: Limits) -> Any:
    spec = _spec(name, parameter)
    if isinstance(content, Columns) and len(spec.shape) == 1 and len(content.columns) == 1:
        content = Rows(next(iter(content.columns.values())))
    if isinstance(content, Rows) or len(spec.shape) != 2:
        values = content.values if isinstance(content, Rows) else _plain_value(content)
        made = array(values, spec, limits)
    else:
        made = matrix(content, spec, limits)
    dtype = parameter.sample_input.dtype
    return made.astype(dtype) if made.dtype != dtype else made


def _frame(content: Content, sample: Any, limits: Limits) -> Any:
    import pandas

    specs = _frame_specs(sample)
    frame = pandas.DataFrame(frame_columns(content, specs, limits))
    frame.columns = sample.columns
    try:
        return frame.astype(sample.dtypes.to_dict())
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise SchemaMismatch(f"The table's columns do not have their types: {text}") from error


def _plain_value(content: Content) -> Any:
    """Lists, or one object for each row."""
    if isinstance(content, Rows):
        values = content.values
        return values.tolist() if hasattr(values, "tolist") else values
    named = content.columns if isinstance(content, Columns) else content.tensors
    lists = {
        name: values.tolist() if hasattr(values, "tolist") else list(values)
        for name, values in named.items()
    }
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _specs(name: str, parameter: Any) -> list[Spec]:
    sample = _sample(parameter)
    return _frame_specs(sample) if hasattr(sample, "columns") else [_spec(name, parameter)]


def _frame_specs(sample: Any) -> list[Spec]:
    def datatype(kind: Any) -> str:
        return DATATYPES.get(str(kind), "FP64" if kind.kind in "fiub" else "BYTES")

    return [Spec(str(name), datatype(kind), (-1,)) for name, kind in sample.dtypes.items()]


def _spec(name: str, parameter: Any) -> Spec:
    sample = _sample(parameter)
    if not hasattr(sample, "dtype"):
        return Spec(name, "BYTES", (-1,))
    fixed = tuple(sample.shape[1:]) if getattr(parameter, "enforce_shape", True) else None
    shape = (-1, *(fixed if fixed is not None else [-1] * (sample.ndim - 1)))
    return Spec(name, DATATYPES.get(str(sample.dtype), "BYTES"), shape)


def _columns_of(types: Mapping[str, Any]) -> frozenset[str]:
    samples = (_sample(each) for each in types.values())
    return frozenset(
        str(name) for each in samples if hasattr(each, "columns") for name in each.columns
    )
