"""How ``run()`` is called: chosen once from its signature and decorators, used for each request."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime
from types import SimpleNamespace
from typing import Any

from ..errors import (
    EntryScriptContract,
    UndecodableInput,
    UnsupportedContentType,
    UnsupportedMethod,
)
from ..formats import guarded_json
from ..messages import ScoringRequest
from ..settings.settings import Settings
from ..telemetry.logs import script_log
from ..values import body as conversion
from ..values.content import Limits
from . import import_aliases

Arguments = dict[str, Any]
ToArguments = Callable[[ScoringRequest], Arguments]


def choose(run: Callable[..., Any], settings: Settings) -> tuple[str, ToArguments]:
    """``text``, ``schema`` or ``raw``, and what makes run()'s keyword arguments from a request.

    Raises:
        EntryScriptContract: run() has a signature that cannot be called so.
    """
    if not settings.strict_compat:
        _mend_dates()
    parameters, with_headers = _parameters(run)
    raw, schema = _is_raw(run), schema_carrier(run) is not None
    if raw and schema:
        raise EntryScriptContract("run() cannot be decorated with both @rawhttp and @input_schema")
    if schema:
        names = ", ".join(parameters)
        script_log.info(
            "run() is decorated with @input_schema. Server will invoke it with the following "
            "arguments: %s.",
            names,
        )
        return "schema", _plus_headers(_schema_arguments(parameters, settings), with_headers)
    first = _first_alone(parameters)
    if first == "mini_batch":
        script_log.warning(
            "run(mini_batch) looks like a script of a batch endpoint (ParallelRunStep), which gets "
            "a list of files; here run() gets the body of one request. scoring-runtime batch "
            "runs it as it was meant."
        )
    if raw:
        script_log.info(
            "run() is decorated with @rawhttp. Server will invoke it with the request object."
        )
        return "raw", _plus_headers(_raw_arguments(first), with_headers)
    script_log.info("run() is not decorated. Server will invoke it with the input in JSON string.")
    return "text", _plus_headers(_text_arguments(first, settings), with_headers)


def _parameters(run: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    try:
        parameters = dict(inspect.signature(run).parameters)
    except (TypeError, ValueError) as error:
        raise EntryScriptContract(f"The parameters of run() cannot be read: {error}") from error
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(each.kind not in named for each in parameters.values()):
        raise EntryScriptContract(
            "run() cannot accept positional-only arguments, *args, or **kwargs."
        )
    with_headers = parameters.pop("request_headers", None) is not None
    if not parameters:
        raise EntryScriptContract(
            'run() needs to accept an argument other than "request_headers".'
            if with_headers
            else "run() needs to accept an argument for input data."
        )
    return parameters, with_headers


def _first_alone(parameters: Mapping[str, inspect.Parameter]) -> str:
    first, *others = parameters.values()
    needed = [each.name for each in others if each.default is inspect.Parameter.empty]
    if needed:
        raise EntryScriptContract(
            f"run() gets its input as {first.name!r}; its other parameters need defaults, but "
            f"{', '.join(map(repr, needed))} has none. Declare typed arguments with @input_schema."
        )
    return first.name


def _text_arguments(name: str, settings: Settings) -> ToArguments:
    limit = settings.max_body_bytes

    def arguments(request: ScoringRequest) -> Arguments:
        if request.method == "POST":
            return {name: conversion.text(conversion.decoded_body(request, limit))}
        if request.method == "GET":
            return {name: conversion.query_text(request.query)}
        raise UnsupportedMethod("Method not allowed", "OPTIONS, GET, POST")

    return arguments


def _raw_arguments(name: str) -> ToArguments:
    from .aml_http import to_aml_request

    # The body stays as it was sent: a raw script reads Content-Encoding itself.
    return lambda request: {name: to_aml_request(request, request.body)}


def _schema_arguments(
    parameters: Mapping[str, inspect.Parameter], settings: Settings
) -> ToArguments:
    defaults = {name: each.default for name, each in parameters.items()}
    limits = settings.limits._replace(values=sys.maxsize)  # by names, memory alone is limited

    def arguments(request: ScoringRequest) -> Arguments:
        values = _named_values(request, limits)
        found = {name: values.get(name, default) for name, default in defaults.items()}
        for name, value in found.items():
            if value is inspect.Parameter.empty:
                raise UndecodableInput(f"A value is not provided for the {name!r} parameter.")
        return found

    return arguments


def _named_values(request: ScoringRequest, limits: Limits) -> dict[str, Any]:
    if request.method == "GET":
        return conversion.query_values(request.query)
    if request.method != "POST":
        raise UnsupportedMethod("Method not allowed", "OPTIONS, GET, POST")
    if not conversion.is_json_type(request.header(b"content-type")):
        raise UnsupportedContentType("Expects Content-Type to be application/json")
    body = conversion.decoded_body(request, limits.bytes)
    guarded_json.check(body, limits, "POST body", "Send fewer values at once.")
    return conversion.json_object(body)


def _plus_headers(arguments: ToArguments, wanted: bool) -> ToArguments:
    if not wanted:
        return arguments
    from .aml_http import header_mapping

    return lambda request: {
        **arguments(request),
        "request_headers": header_mapping(request.headers),
    }


def _is_raw(run: Callable[..., Any]) -> bool:
    return import_aliases.raw_flag_of_installed_packages() or any(
        "__scoring_raw_http__" in getattr(each, "__dict__", {}) for each in wrapped_functions(run)
    )


def wrapped_functions(function: Any) -> list[Any]:
    """The function and whatever its decorators hold, with or without ``functools.wraps``."""
    found: list[Any] = []
    waiting = [function]
    while waiting:
        each = waiting.pop()
        if callable(each) and not any(each is known for known in found):
            found.append(each)
            waiting += [getattr(each, "__wrapped__", None)]
            waiting += [_content(cell) for cell in getattr(each, "__closure__", None) or ()]
    return found


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def is_async(run: Callable[..., Any]) -> bool:
    """Whether ``run``, or anything its decorators hold, is ``async def``: its result may need
    awaiting."""
    return any(
        inspect.iscoroutinefunction(each) or inspect.iscoroutinefunction(_call_method(each))
        for each in wrapped_functions(run)
    )


def schema_carrier(run: Callable[..., Any]) -> Any:
    """What inference-schema finds the schema of ``run`` by, or None when it is not decorated.

    The library keeps schemas by module and function name. It finds the function at the end of a
    chain of closures, which other decorators may lead elsewhere; a bare name leads nowhere else.
    """
    util = sys.modules.get("inference_schema.schema_util")
    if util is None:
        return None
    for each in wrapped_functions(run):
        name = SimpleNamespace(
            __name__=getattr(each, "__name__", "<unknown>"),
            __module__=getattr(each, "__module__", "<unknown>"),
        )
        if util.is_schema_decorated(name):
            return name
    return None


def _mend_dates() -> None:
    """Have inference-schema read a date: it calls ``date.strptime``, which Python 3.14 brought."""
    module = sys.modules.get("inference_schema.parameter_types.standard_py_parameter_type")
    kind = getattr(module, "StandardPythonParameterType", None)
    if kind is None or hasattr(date, "strptime") or hasattr(kind, "_reads_dates"):
        return
    deserialize = kind.deserialize_input

    def deserialize_input(parameter: Any, value: Any) -> Any:
        if parameter.sample_data_type is date:
            return datetime.strptime(value, module.DATE_FORMAT).date()  # type: ignore[union-attr]
        return deserialize(parameter, value)

    kind.deserialize_input, kind._reads_dates = deserialize_input, True


def _call_method(value: Any) -> Any:
    return getattr(type(value), "__call__", None)  # noqa: B004  (the method, not whether it is one)
