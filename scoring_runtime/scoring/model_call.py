"""One call of a model without a script: request → content → predict → response."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import orjson

from ..errors import SchemaMismatch, ScoringRuntimeError, UndecodableInput, WrongBatchLength
from ..formats import by_content_type
from ..formats.by_accept import Encode, Writer, writer
from ..formats.by_content_type import plain_rows
from ..messages import ScoringRequest, ScoringResponse
from ..script.batched import Entered, with_size
from ..script.call import JSON_HEADERS, run_failed
from ..settings.settings import Settings
from ..telemetry.logs import began, log
from ..values.body import parse_json, query_pairs
from ..values.content import NoCodeModel
from ..values.joined import joined, kind_of, size_of, split
from ..values.json_results import encoder
from ..values.wording import listed

_WAY_OUT = (
    " A file sample_input.json or .csv beside the model, or models register --sample, shows what "
    "it takes."
)


class ModelInvocation:
    """Calls a model's ``predict`` with what a request holds.

    Making it scores the model's example once, so that the first request does not pay for what
    libraries do at their first call, and so that the documents can show a result.

    Args:
        model: loaded, in this thread.
        name: of the model, and its version, which V2 answers show.
        version: the same.
        settings: limits, NaN policy.
    """

    is_async = False
    sees_headers = False
    takes_any_method = False
    takes_tensors = True
    batch: tuple[int, float] | None = None

    def __init__(self, model: NoCodeModel, name: str, version: str, settings: Settings) -> None:
        self.model = model
        self.began: Callable[[ScoringRequest], object] = began
        self.platform, self.inputs, self.outputs = model.platform, model.inputs, model.outputs
        self._identity = (name, version)
        self._limits = settings.limits.for_inputs(len(model.inputs))
        self._nan = settings.nan_policy
        self._own = model if isinstance(model, by_content_type.OwnBodies) else None
        if self._own is not None:
            self._encode: Encode = partial(self._own.encode, nan=settings.nan_policy)
        else:
            numbers = all(each.datatype != "BYTES" for each in model.outputs)
            strict = settings.strict_compat
            self._encode = encoder(settings.nan_policy, strict=strict, numbers=numbers)
        self._columns = frozenset(spec.name for spec in model.inputs if not spec.optional)
        self._as_text = model.reads_text
        self._quick, self._call = model.quick, model.call
        self.is_bound = model.is_bound
        self._default = model.methods[0] if model.methods else ""
        self._name = model.outputs[0].name if model.outputs else "predictions"
        self.example: Mapping[str, Any] | None = model.example
        self.example_result: Any = None
        self._warm_up()

    def __call__(self, request: ScoringRequest) -> ScoringResponse:
        """The response.

        Raises:
            InputError: the client's fault.
            RunFailed: the model raised; the traceback is in the log.
        """
        self.began(request)
        if request.enter is not None:
            request.enter()
        quick = self._quick
        if quick is not None and (rows := plain_rows(request)):
            started = perf_counter()
            given = quick(rows)
            if given is not None:
                result = self._called(self._call, given, {}, self._default)
                run_ms = (perf_counter() - started) * 1000
                return ScoringResponse(200, self._encode(result), JSON_HEADERS, run_ms)
        asked, methods, write = self._read(request)
        started = perf_counter()
        result = self._called(self._predicted, asked, methods)
        run_ms = (perf_counter() - started) * 1000
        body, headers = write(result)
        return ScoringResponse(200, body, headers, run_ms)

    def _read(self, request: ScoringRequest) -> tuple[by_content_type.Asked, list[str], Writer]:
        """What a request holds, the methods that it asks for, and what writes the answer."""
        asked = by_content_type.read(
            request, self._limits, names=self._columns, as_text=self._as_text, own=self._own
        )
        if asked.params and self.model.params is not None:
            asked = _with_method(asked)
        methods = self._methods(request, asked)
        if asked.params and self.model.params is not None:
            _check_params(asked.params, methods, self.model.params)
        name = methods[0] or self._name
        write = writer(request, asked, self._encode, name, self._identity, self._nan)
        return asked, methods, write

    async def awaited(self, request: ScoringRequest) -> ScoringResponse:
        """Models are not awaited; see :meth:`__call__`."""
        return self(request)

    def _predicted(self, asked: by_content_type.Asked, methods: list[str]) -> Any:
        if len(methods) == 1:
            return self.model.predict(asked.content, asked.params, methods[0])
        return {each: self.model.predict(asked.content, asked.params, each) for each in methods}

    def _called(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except ScoringRuntimeError:
            raise
        except BaseException as error:
            raise run_failed(error) from error

    def _methods(self, request: ScoringRequest, asked: by_content_type.Asked) -> list[str]:
        """What is asked for: by the query, by the body, or by the names of V2 outputs."""
        there = self.model.methods
        wanted = _from_query(request.query) or asked.method
        if asked.infer is not None and there and not wanted:
            return _outputs([each.name for each in asked.infer.outputs], there)
        if wanted and wanted not in there:
            known = f"It has: {', '.join(there)}." if there else "It has nothing to choose."
            raise UndecodableInput(f"The model has no method {wanted!r}. {known}")
        return [wanted or (there[0] if there else "")]

    def _warm_up(self) -> None:
        try:
            response = self(ScoringRequest(orjson.dumps(self.model.example)))
        except (ScoringRuntimeError, TypeError) as error:
            why = None if isinstance(error, SchemaMismatch) else error.__cause__
            log.warning(
                "The model's example does not score, so whether the model can is not known, and "
                "the documents show none: %s%s",
                f"{type(why).__name__}: {why}." if why else error,
                "" if self.model.params is None else _WAY_OUT,
            )
            self.example = None
        else:
            assert isinstance(response.body, bytes)
            self.example_result = parse_json(response.body)  # with SCORING_NAN=raw it has NaN


class BatchedModelInvocation(ModelInvocation):
    """The same for rows of several requests at once; see :class:`.batches.Batches`."""

    def __init__(self, model: NoCodeModel, name: str, version: str, settings: Settings) -> None:
        super().__init__(model, name, version, settings)
        self._json: Writer = lambda result: (self._encode(result), JSON_HEADERS)
        if model.joins_rows:
            self.batch = settings.max_batch_size, settings.max_batch_delay_ms / 1000
        else:
            log.warning("%s is not batched: it takes or gives a fixed number of rows.", name)

    def __call__(self, request: ScoringRequest) -> ScoringResponse:
        response = super().__call__(request)
        return with_size(response, 1) if self.batch is not None else response

    def entered(self, request: ScoringRequest) -> Entered:
        """What one request holds, as the model takes it."""
        self.began(request)
        if request.enter is not None:
            request.enter()
        rows = plain_rows(request) if self._quick is not None else None
        given = self._quick(rows) if self._quick is not None and rows else None
        params: Any = {}
        methods, write = [self._default], self._json
        if given is None:
            asked, methods, write = self._read(request)
            given, params = self._called(self.model.given, asked.content, asked.params)

        def finish(result: Any, run_ms: float) -> ScoringResponse:
            body, headers = write(result)
            return ScoringResponse(200, body, headers, run_ms)

        kind, size = kind_of(given), (1, 0)
        if kind is not None:
            kind, size = (kind, repr(params), *methods), size_of(given)
        return Entered(request, kind or object(), (given, params, methods), finish, *size)

    def together(self, inputs: Sequence[Entered]) -> Sequence[Any]:
        """The results; raises what the model raises, or WrongBatchLength."""
        _, params, methods = inputs[0].given
        given = joined([each.given[0] for each in inputs])
        results = {each: self._call(given, params, each) for each in methods}
        result = results if len(methods) > 1 else results[methods[0]]
        if len(inputs) == 1:
            return [result]
        rows = [each.rows for each in inputs]
        found = split(result, rows)
        if found is None:
            raise WrongBatchLength(
                f"The model was given {sum(rows)} rows of {len(rows)} requests, and does not give "
                "a result for each: it cannot be batched (SCORING_MAX_BATCH_SIZE)."
            )
        return found

    def failed(self, error: BaseException, run_ms: float) -> ScoringResponse:
        """Raises the error of the one input whose call has raised."""
        if isinstance(error, ScoringRuntimeError):
            raise error
        raise run_failed(error) from error


def _with_method(asked: by_content_type.Asked) -> by_content_type.Asked:
    """The request with the method that its parameters name, and without how its inputs were made
    by clients of MLServer, which the inputs say themselves."""
    params = {key: value for key, value in asked.params.items() if key != "content_type"}
    method = params.pop("method", "")
    if not isinstance(method, str):
        raise SchemaMismatch(f"method is {method!r}; expected is a name as text.")
    return asked._replace(params=params, method=asked.method or method)


def _check_params(
    params: Mapping[str, Any], methods: Sequence[str], known: Mapping[str, Collection[str]]
) -> None:
    """Refuse what the model could only ignore."""
    for method in methods:
        taken = known.get(method, ())
        if others := [name for name in params if name not in taken]:
            what = f"{method}() of the model" if method else "The model"
            there = f"It takes: {', '.join(taken)}." if taken else "It takes none."
            raise SchemaMismatch(f"{what} does not take the parameters {listed(others)}. {there}")


def _outputs(wanted: list[str], there: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in there:
            raise SchemaMismatch(f"The model has no output {name!r}. It has: {', '.join(there)}.")
    return wanted or [there[0]]


def _from_query(query: bytes) -> str:
    if b"method=" not in query:
        return ""
    return next((value for name, value in query_pairs(query) if name == "method"), "")
