"""One call of ``run()``: request → arguments → result → response, in the scoring thread."""

from __future__ import annotations

import inspect
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeGuard

from ..errors import InputError, ResponseNotSendable, RunFailed, SchemaMismatch, ScoringRuntimeError
from ..messages import Headers, OwnHeaders, ScoringRequest, ScoringResponse
from ..settings.settings import Settings
from ..telemetry.logs import began, script_log
from ..values.content import Spec
from ..values.json_results import encoder
from .arguments import Arguments
from .entry_script import EntryScript

if TYPE_CHECKING:
    from ..formats.by_accept import Writer
    from .schema_arguments import SchemaArguments

JSON_HEADERS = OwnHeaders(
    [(b"content-type", b"application/json"), (b"x-ms-run-function-failed", b"False")]
)
_PLAIN = frozenset({dict, list, str, int, float, bool, tuple, type(None)})
_FAILED = b"x-ms-run-function-failed"
_END: Any = object()


class Invocation:
    """Calls a loaded entry script as its signature asks.

    Calling it, or awaiting :meth:`awaited` for an ``async def run``, gives the response.

    Raises:
        InputError: the client's fault (and whatever InputError ``run()`` raises itself).
        RunFailed: ``run()`` raised; the traceback is in the log.
        ResultNotSerializable: the result has no JSON form.
    """

    platform = "python"
    batch: tuple[int, float] | None = None
    """The most inputs in one call, and the seconds that the first waits; None: one at a time."""

    def __init__(
        self, script: EntryScript, settings: Settings, model: tuple[str, str] = ("model", "1")
    ) -> None:
        self.script = script
        self.began: Callable[[ScoringRequest], object] = began
        self.is_async, self.is_bound = script.is_async, True
        self.sees_headers = script.sees_headers
        self.takes_any_method = script.kind == "raw"
        self._run = script.run
        self._arguments = script.arguments
        self._encode = encoder(settings.nan_policy, strict=settings.strict_compat)
        self._schema_is_clients_fault = script.schema_decorated and not settings.strict_compat
        self._typed: SchemaArguments | None = None
        self.inputs: tuple[Spec, ...] = ()
        self.outputs: tuple[Spec, ...] = ()
        if self._schema_is_clients_fault:
            from .schema_arguments import SchemaArguments

            nan = settings.nan_policy
            self._typed = SchemaArguments(script, settings.limits, self._encode, model, nan)
            self.inputs = self._typed.inputs
        self.takes_tensors = self._typed is not None

    def __call__(self, request: ScoringRequest) -> ScoringResponse:
        arguments, write = self._begin(request)
        started = perf_counter()
        try:
            result = self._run(**arguments)
        except BaseException as error:
            return self._raised(error, started)
        return self._response(result, (perf_counter() - started) * 1000, write)

    async def awaited(self, request: ScoringRequest) -> ScoringResponse:
        """The same for an ``async def run``."""
        arguments, write = self._begin(request)
        started = perf_counter()
        try:
            result = self._run(**arguments)
            if inspect.isawaitable(result):
                result = await result
        except BaseException as error:
            return self._raised(error, started)
        return self._response(result, (perf_counter() - started) * 1000, write)

    def _begin(self, request: ScoringRequest) -> tuple[Arguments, Writer | None]:
        self.began(request)
        if request.enter is not None:
            request.enter()
        if self._typed is not None:
            return self._typed(request)
        return self._arguments(request), None

    def _response(self, result: Any, run_ms: float, write: Writer | None) -> ScoringResponse:
        if type(result) not in _PLAIN and _is_response(result):
            return _as_it_is(result, run_ms)
        headers: Headers = JSON_HEADERS
        try:
            if write is None:
                body = self._encode(result)
            else:
                body, headers = write(result)
        except InputError:
            raise
        except ScoringRuntimeError as error:
            script_log.error("%s", error)
            raise
        except Exception as error:  # of a generator that run() returned, read only now
            raise run_failed(error) from error
        return ScoringResponse(200, body, headers, run_ms)

    def _raised(self, error: BaseException, started: float) -> ScoringResponse:
        if isinstance(error, InputError):
            raise error
        if isinstance(error, ResponseNotSendable):
            script_log.error("%s", error)
            raise error
        if _is_http_exception(error):
            return self._aborted(error, (perf_counter() - started) * 1000)
        if self._schema_is_clients_fault:
            mismatch = _schema_mismatch(error)
            if mismatch is not None:
                raise mismatch from error
        raise run_failed(error) from error

    def _aborted(self, error: Any, run_ms: float) -> ScoringResponse:
        """``abort(418)`` in a script is an answer, not a failure, unless it says 5xx."""
        if error.response is not None:
            return _as_it_is(error.response, run_ms)
        failed = b"True" if error.code >= 500 else b"False"
        headers = ((b"content-type", b"application/json"), (_FAILED, failed))
        body = self._encode({"message": error.description})
        return ScoringResponse(error.code, body, headers, run_ms)


class InFlask(Invocation):
    """The same for a script that uses flask: ``request``, ``jsonify()`` and ``g`` work in run()."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        from flask import Flask

        self._app = Flask(self.script.path.stem)

    def __call__(self, request: ScoringRequest) -> ScoringResponse:
        with self._context(request):
            return super().__call__(request)

    async def awaited(self, request: ScoringRequest) -> ScoringResponse:
        """The same for an ``async def run``."""
        with self._context(request):
            return await super().awaited(request)

    def _context(self, request: ScoringRequest) -> Any:
        from .aml_http import to_aml_request

        return self._app.request_context(to_aml_request(request, request.body).environ)


def _as_it_is(response: Any, run_ms: float) -> ScoringResponse:
    from .aml_http import response_parts

    if response.status_code >= 500:
        response.headers["x-ms-run-function-failed"] = "True"
    try:
        body, headers = response_parts(response)
    except ResponseNotSendable as error:
        script_log.error("%s", error)
        raise
    return ScoringResponse(response.status_code, body, headers, run_ms)


def _is_response(result: Any) -> bool:
    wrappers = sys.modules.get("werkzeug.wrappers")
    return wrappers is not None and isinstance(result, wrappers.Response)


def _is_http_exception(error: BaseException) -> TypeGuard[Any]:
    exceptions = sys.modules.get("werkzeug.exceptions")
    return (
        exceptions is not None
        and isinstance(error, exceptions.HTTPException)
        and (error.code is not None or error.response is not None)
    )


def run_failed(error: BaseException) -> RunFailed:
    """Log what the script raised; the result is what its caller is told."""
    # The first frame is ours; what the user wants to see begins below it.
    where = error.__traceback__.tb_next if error.__traceback__ else None
    lines = traceback.format_exception(type(error), error, where or error.__traceback__)
    script_log.error("Encountered Exception: %s", "".join(lines))
    return RunFailed(
        "An unexpected error occurred in scoring script. Check the logs for more info."
    )


# --- the parts of a streaming response, made in the scoring thread --------------------------------


def close_stream(body: Iterator[bytes]) -> None:
    """Close a generator that is left before its end."""
    close = getattr(body, "close", None)
    if close is not None:
        close()


def next_chunk(body: Iterator[bytes]) -> bytes | None:
    """The next part, None at the end; RunFailed when making it raised, or it is no bytes."""
    try:
        part = next(body, _END)
        if part is not _END and not isinstance(part, bytes | bytearray | memoryview):
            raise TypeError(f"a part of the answer is {_got(part)}; expected are text or bytes")
        return None if part is _END else bytes(part)
    except InputError:
        raise
    except BaseException as error:
        raise run_failed(error) from error


def joined_stream(body: Iterator[bytes]) -> bytes:
    """All parts as one, the stream closed after it."""
    try:
        return b"".join(iter(partial(next_chunk, body), None))
    finally:
        close_stream(body)


# --- whose fault it is ----------------------------------------------------------------------------


def _schema_mismatch(error: BaseException) -> SchemaMismatch | None:
    """The client's fault, when it was inference-schema's conversion that raised."""
    converting = [
        frame.f_locals
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "_deserialize_input_argument"
        and frame.f_globals.get("__name__") == "inference_schema.schema_decorators"
    ]
    if not converting:
        return None
    outer, inner = converting[0], converting[-1]
    inside = "".join(map(_step, converting, converting[1:]))
    return SchemaMismatch(
        f"The value of the {outer['param_name']!r} parameter does not fit its schema: "
        f"{f'{inside}: ' if inside else ''}expected {_expected(inner['param_type'])}, got "
        f"{_got(inner['input_data'])}. ({_first_line(error)})"
    )


def _step(outer: dict[str, Any], inner: dict[str, Any]) -> str:
    """Which element of the outer value the inner one is."""
    if isinstance(outer["input_data"], dict):
        return f"[{inner['param_name']!r}]"
    place = next(n for n, each in enumerate(outer["input_data"]) if each is inner["input_data"])
    return f"[{place}]"


def _expected(parameter_type: Any) -> str:
    sample: Any = getattr(parameter_type, "sample_input", None)
    if hasattr(sample, "columns"):
        columns = ", ".join(f"{name} ({kind})" for name, kind in sample.dtypes.items())
        orient = getattr(parameter_type, "orient", "records")
        return f"a data frame as {orient} with the columns {columns}"
    if hasattr(sample, "dtype"):
        shape = ", ".join(["any", *map(str, sample.shape[1:])])
        kind = "text" if sample.dtype.kind in "US" else sample.dtype
        return f"an array of {kind} with the shape ({shape})"
    return f"a value of type {type(sample).__name__} such as {reprlib.repr(_example(sample))}"


def _example(sample: Any) -> Any:
    """A sample whose parts are parameter types themselves, as the values it stands for."""
    sample = getattr(sample, "sample_input", sample)
    if isinstance(sample, dict):
        return {name: _example(each) for name, each in sample.items()}
    return [_example(each) for each in sample] if isinstance(sample, list) else sample


def _got(value: Any) -> str:
    sizes: list[str] = []
    current = value
    while isinstance(current, list) and len(sizes) < 8:
        sizes.append(str(len(current)))
        current = current[0] if current else None
    if sizes:
        return f"a list of {' x '.join(sizes)} ({type(current).__name__} inside)"
    return f"{type(value).__name__} {reprlib.repr(value)}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
