"""``@batched`` on ``run()``: it is given a list of inputs, and gives a list as long."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeVar, overload

from ..errors import EntryScriptContract, WrongBatchLength
from ..messages import OwnHeaders, ScoringRequest, ScoringResponse
from ..settings.settings import Settings
from ..telemetry.logs import script_log
from .arguments import schema_carrier, wrapped_functions
from .call import JSON_HEADERS, Invocation
from .entry_script import EntryScript

_MARK = "__scoring_batch__"
_Run = TypeVar("_Run", bound=Callable[..., Any])


class Entered(NamedTuple):
    """An input as it was read: those of one ``kind`` go together.

    ``finish`` makes the answer of its own result and the milliseconds of the call; ``rows`` and
    ``values`` are what it takes of the limits.
    """

    request: ScoringRequest
    kind: Hashable
    given: Any
    finish: Callable[[Any, float], ScoringResponse]
    rows: int = 1
    values: int = 0


def with_size(response: ScoringResponse, size: int) -> ScoringResponse:
    """The response with how many inputs its batch had."""
    status, body, headers, run_ms = response
    if headers is JSON_HEADERS:
        return ScoringResponse(status, body, _json_headers(size), run_ms)
    return ScoringResponse(status, body, (*headers, (b"x-batch-size", b"%d" % size)), run_ms)


@functools.lru_cache(256)
def _json_headers(size: int) -> OwnHeaders:
    return OwnHeaders((*JSON_HEADERS, (b"x-batch-size", b"%d" % size)))


@dataclass
class Batch:
    """What ``@batched`` says of a ``run()``; ``is_served``: a call is that of one request, whose
    arguments wait for those of others."""

    run: Callable[..., Any]
    max_size: int
    max_wait: float
    is_served: bool = False


class _Gathered(dict[str, Any]):
    """The arguments of one request."""


@overload
def batched(run: _Run, /) -> _Run: ...
@overload
def batched(*, max_size: int = 64, max_wait_ms: float = 0) -> Callable[[_Run], _Run]: ...
def batched(run: Any = None, /, *, max_size: int = 64, max_wait_ms: float = 0) -> Any:
    """Have ``run()`` called with up to ``max_size`` inputs that wait together.

    It gets a list of what it would have got, for each of its parameters, and returns a list as
    long. It stands right above ``def run``, below ``@input_schema`` and ``@rawhttp``.

    Args:
        run: the function, when the decorator is written without brackets.
        max_size: inputs in one call, from 1.
        max_wait_ms: how long the first of them waits for others; 0: not at all.

    Raises:
        EntryScriptContract: a value is not allowed, or it stands above ``@input_schema``.
    """
    if not (isinstance(max_size, int) and max_size >= 1 and max_wait_ms >= 0):
        raise EntryScriptContract(
            f"@batched(max_size={max_size!r}, max_wait_ms={max_wait_ms!r}) is not allowed. "
            "Allowed: a whole number from 1, and milliseconds from 0."
        )
    if run is None:
        return functools.partial(batched, max_size=max_size, max_wait_ms=max_wait_ms)
    if schema_carrier(run) is not None:
        raise EntryScriptContract("@batched has to stand below @input_schema, right above def run.")
    batch = Batch(run, max_size, max_wait_ms / 1000)

    @functools.wraps(run)
    def one(*args: Any, **kwargs: Any) -> Any:
        # inference-schema finds the function in the last of these variables, by their names.
        return _Gathered(kwargs) if batch.is_served else run(*args, **kwargs)

    setattr(one, _MARK, batch)
    return one


def batch_of(run: Callable[..., Any]) -> Batch | None:
    """What ``@batched`` says of this ``run()``; None without it."""
    marks = (getattr(each, "__dict__", {}).get(_MARK) for each in wrapped_functions(run))
    return next((mark for mark in marks if mark is not None), None)


class BatchedInvocation(Invocation):
    """Calls a ``@batched`` run() with the inputs of several requests.

    Flask's request, of which there would be several, is not known in it.
    """

    def __init__(
        self, script: EntryScript, settings: Settings, model: tuple[str, str], batch: Batch
    ) -> None:
        super().__init__(script, settings, model)
        self._gathered = batch
        self.batch = batch.max_size, batch.max_wait
        batch.is_served = True
        self.is_async, self.is_bound = False, True

    def __call__(self, request: ScoringRequest) -> ScoringResponse:
        started = perf_counter()
        try:
            entered = self.entered(request)
            started = perf_counter()
            [result] = self.together([entered])
        except WrongBatchLength as error:
            script_log.error("%s", error)
            raise
        except BaseException as error:
            return with_size(self._raised(error, started), 1)
        return with_size(entered.finish(result, (perf_counter() - started) * 1000), 1)

    def entered(self, request: ScoringRequest) -> Entered:
        """The arguments of one request, converted as its schema says; see :class:`Entered`."""
        arguments, write = self._begin(request)
        gathered = self._run(**arguments)
        if not isinstance(gathered, _Gathered):
            raise EntryScriptContract("@batched has to stand right above def run.")

        def finish(result: Any, run_ms: float) -> ScoringResponse:
            return self._response(result, run_ms, write)

        return Entered(request, None, gathered, finish)

    def together(self, inputs: Sequence[Entered]) -> Sequence[Any]:
        """The results; raises what run() raises, or WrongBatchLength."""
        lists = {name: [each.given[name] for each in inputs] for name in inputs[0].given}
        result = self._gathered.run(**lists)
        if inspect.isawaitable(result):
            result = asyncio.get_event_loop().run_until_complete(result)
        if hasattr(result, "tolist") and not hasattr(result, "columns"):
            result = list(result)  # an array's rows, a series' values
        got = f"one of {len(result)}" if isinstance(result, list | tuple) else type(result).__name__
        if got != f"one of {len(inputs)}":
            raise WrongBatchLength(
                f"run() is @batched and was given a list of {len(inputs)}; expected is a list as "
                f"long, got {got}."
            )
        return list(result)

    def failed(self, error: BaseException, run_ms: float) -> ScoringResponse:
        """The answer to the one input whose call has raised, or the error that it is."""
        return self._raised(error, perf_counter() - run_ms / 1000)
