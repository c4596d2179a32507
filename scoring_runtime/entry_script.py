"""The entry script: found, imported, checked, and called in the one way chosen at load."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from . import conversion, import_aliases
from .errors import (
    EntryScriptContract,
    EntryScriptFailed,
    EntryScriptNotFound,
    UndecodableInput,
    UnsupportedContentType,
    UnsupportedMethod,
)
from .messages import ScoringRequest
from .settings import Settings
from .telemetry import script_log

MODULE_NAME = "entry_module"

Arguments = dict[str, Any]
ToArguments = Callable[[ScoringRequest], Arguments]


@dataclass(frozen=True)
class EntryScript:
    """A loaded script.

    ``kind`` is ``text`` (run() gets the body as str), ``schema`` (typed arguments by name) or
    ``raw`` (the request itself). ``arguments`` makes the keyword arguments of one call.
    """

    path: Path
    init: Callable[[], Any]
    run: Callable[..., Any]
    kind: str
    arguments: ToArguments

    @property
    def is_async(self) -> bool:
        """Whether calling ``run`` gives a coroutine."""
        return _is_async(self.run)

    @property
    def schema_decorated(self) -> bool:
        """Whether ``@input_schema`` or ``@output_schema`` is on ``run``."""
        return self.kind == "schema"


def load(settings: Settings) -> EntryScript:
    """Import the entry script and decide how ``run()`` is called.

    Raises:
        EntryScriptNotFound: there is no such file (or no ``main`` module).
        EntryScriptFailed: importing it raised.
        EntryScriptContract: ``init`` or ``run`` is missing or has a signature that cannot work.
    """
    _extend_sys_path(settings)
    import_aliases.install()
    module = _import_script(settings)
    path = Path(str(module.__file__))
    for name in ("init", "run"):
        if not callable(getattr(module, name, None)):
            raise EntryScriptContract(
                f"User script at {path} does not have a {name}() function defined."
            )
    run = _run_of(module, path)
    kind, arguments = _choose(run, settings)
    return EntryScript(path, module.init, run, kind, arguments)


def _extend_sys_path(settings: Settings) -> None:
    root = Path(settings.app_root)
    places = [root]
    if settings.source_dir:
        places.append(root / settings.source_dir)
    if settings.script_path is not None:
        places.append(settings.script_path.parent)
    for place in map(str, places):
        if place not in sys.path:
            sys.path.append(place)


def _import_script(settings: Settings) -> ModuleType:
    path = settings.script_path
    if path is None:
        return _import_main(settings)
    if not path.is_file():
        raise EntryScriptNotFound(
            f"No such file or directory: the entry script {path} (AZUREML_ENTRY_SCRIPT or "
            f"--entry-script).{_content_of(path.parent)}"
        )
    loader = SourceFileLoader(MODULE_NAME, str(path))
    spec = importlib.util.spec_from_loader(MODULE_NAME, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    _forget_schemas()
    # dataclasses and pickle look a class's module up by name.
    sys.modules[MODULE_NAME] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        raise EntryScriptFailed(f"Importing the entry script {path} failed") from error
    return module


def _import_main(settings: Settings) -> ModuleType:
    try:
        return importlib.import_module("main")
    except ModuleNotFoundError as error:
        if error.name != "main":
            raise EntryScriptFailed("Importing main.py failed") from error
        raise EntryScriptNotFound(
            "No score script found. Expected score script main.py. Name yours with "
            "AZUREML_ENTRY_SCRIPT or --entry-script. Expected script to be found in PYTHONPATH: "
            f"{sys.path}.{_content_of(Path(settings.app_root))}"
        ) from None
    except BaseException as error:
        raise EntryScriptFailed("Importing main.py failed") from error


def _content_of(folder: Path) -> str:
    if not folder.is_dir():
        return f" The folder {folder} does not exist."
    return f" {folder} contains: {', '.join(sorted(os.listdir(folder))) or 'nothing'}."


def _run_of(module: ModuleType, path: Path) -> Callable[..., Any]:
    inner = getattr(module, "driver_module", None)
    if isinstance(inner, ModuleType) and hasattr(inner, "run"):
        script_log.info(
            "Found driver script at %s and the score script at %s", path, inner.__file__
        )
        run: Callable[..., Any] = inner.run
        return run
    script_log.info("Found user script at %s", path)
    run = module.run
    return run


def _choose(run: Callable[..., Any], settings: Settings) -> tuple[str, ToArguments]:
    parameters, with_headers = _parameters(run)
    raw, schema = _is_raw(run), _is_schema_decorated(run)
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
            return {name: conversion.text(_body(request, limit))}
        if request.method == "GET":
            return {name: conversion.query_text(request.query)}
        raise _no_such_method(request)

    return arguments


def _raw_arguments(name: str) -> ToArguments:
    from .aml_http import to_aml_request

    # The body stays as it was sent: a raw script reads Content-Encoding itself.
    return lambda request: {name: to_aml_request(request, request.body)}


def _schema_arguments(
    parameters: Mapping[str, inspect.Parameter], settings: Settings
) -> ToArguments:
    defaults = {name: each.default for name, each in parameters.items()}
    limit = settings.max_body_bytes

    def arguments(request: ScoringRequest) -> Arguments:
        values = _named_values(request, limit)
        found = {name: values.get(name, default) for name, default in defaults.items()}
        for name, value in found.items():
            if value is inspect.Parameter.empty:
                raise UndecodableInput(f"A value is not provided for the {name!r} parameter.")
        return found

    return arguments


def _named_values(request: ScoringRequest, limit: int) -> dict[str, Any]:
    if request.method == "GET":
        return conversion.query_values(request.query)
    if request.method != "POST":
        raise _no_such_method(request)
    if not conversion.is_json_type(request.header(b"content-type")):
        raise UnsupportedContentType("Expects Content-Type to be application/json")
    return conversion.json_object(_body(request, limit))


def _plus_headers(arguments: ToArguments, wanted: bool) -> ToArguments:
    if not wanted:
        return arguments
    from .aml_http import header_mapping

    return lambda request: {
        **arguments(request),
        "request_headers": header_mapping(request.headers),
    }


def _body(request: ScoringRequest, limit: int) -> bytes:
    encoding = request.header(b"content-encoding")
    return conversion.decompressed(request.body, encoding, limit) if encoding else request.body


def _no_such_method(request: ScoringRequest) -> UnsupportedMethod:
    return UnsupportedMethod(f"Method {request.method} does not score. Allowed: GET, POST.")


def _is_async(function: Callable[..., Any]) -> bool:
    unwrapped = inspect.unwrap(function)
    call = getattr(unwrapped, "__call__", None)  # noqa: B004  (the method, not whether it is one)
    return inspect.iscoroutinefunction(unwrapped) or inspect.iscoroutinefunction(call)


def _is_raw(run: Callable[..., Any]) -> bool:
    return import_aliases.raw_flag_of_installed_packages() or any(
        "__scoring_raw_http__" in getattr(each, "__dict__", {}) for each in _wrapped(run)
    )


def _wrapped(function: Any) -> list[Any]:
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


def _is_schema_decorated(run: Callable[..., Any]) -> bool:
    schema_util = sys.modules.get("inference_schema.schema_util")
    return schema_util is not None and bool(schema_util.is_schema_decorated(run))


def _forget_schemas() -> None:
    """inference-schema keeps schemas by module and function name; a new script begins afresh."""
    schema_util = sys.modules.get("inference_schema.schema_util")
    for table in ("__functions_schema__", "__versions__"):
        known = getattr(schema_util, table, {})
        for name in [name for name in known if name.startswith(f"{MODULE_NAME}.")]:
            del known[name]
