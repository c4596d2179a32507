"""How a script with a schema is called when the body is not simply JSON by parameter names.

CSV, JSON Lines, npy, Arrow, V2 and the other kinds of JSON become the typed arguments that
``@input_schema`` declares; ``Accept`` chooses how the result is written.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ..errors import NotAcceptable, SchemaMismatch, UndecodableInput, UnsupportedContentType
from ..formats import by_content_type
from ..formats.by_accept import Encode, Writer, writer
from ..formats.mlflow_json import AZUREML_KINDS, KINDS
from ..messages import INFER_HEADER_LENGTH, ScoringRequest
from ..values.body import decoded_body, is_json_type, parse_json, query_values
from ..values.content import DATATYPES, Content, Limits, Rows, Spec, Tensors
from .arguments import Arguments, wrapped_functions
from .entry_script import EntryScript
from .standard_values import DATATYPE_OF, column_datatype, plain, standard_value

_PLAIN_ACCEPTS = (b"", b"*/*", b"application/json")
# The text that clients of azureml-inference-server-http know.
_EXPECTED = "Expects Content-Type to be application/json."
_KINDS = frozenset({*KINDS, *AZUREML_KINDS})
_MISSING = inspect.Parameter.empty
_DECLARED: Mapping[str, Any] = {"optional": False, "convert_to_provided_type": True}


class TypedCalls:
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
            InputError: as :func:`table.read` and ``answers.writer``; UndecodableInput when a
                parameter has no value.
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
        """A value that the library takes: it converts lists, and keeps arrays and tables."""
        parameter = self._types[name]
        sample = _sample(parameter)
        if hasattr(sample, "columns"):
            frames = _module("typed_frames")
            frame = frames.frame_argument(content, name, parameter, self._limits)
            return frames.as_json(frame, parameter.orient) if name in self._as_json else frame
        if hasattr(sample, "dtype"):
            spec = _array_spec(name, parameter)
            array = _module("typed_arrays").array_argument(content, spec, parameter, self._limits)
            return plain(array) if name in self._as_json else array
        return standard_value(content, sample, name, self._limits)


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


def _module(name: str) -> Any:
    """Of the package; imported when first needed, as it needs NumPy or pandas."""
    return import_module(f"scoring_runtime.script.{name}")


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
