"""Batches: inputs that wait together are scored by one call.

A batch that raises is halved until the bad input fails alone: of n inputs with a bad one that takes
at most 2·log2(n)+1 calls. Each input gets its own answer or its own error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from ..errors import WrongBatchLength
from ..messages import ScoringRequest, ScoringResponse
from ..script.batched import Entered, with_size
from ..telemetry.logs import log
from ..values.content import Limits


class Outcome(NamedTuple):
    """The place of an input among those that were given, and its answer or its error.

    ``is_bad``: its own call has raised, whatever came of that.
    """

    place: int
    response: ScoringResponse | None
    error: BaseException | None
    is_bad: bool = False


Placed = tuple[int, Entered]
Begin = Callable[[Sequence[int]], Collection[int]]


class Batches:
    """Scores all that waits.

    Args:
        callee: ``entered`` reads a request, ``together`` gives the results of several or raises,
            ``failed`` the answer to one whose own call has raised, unless that is an error. Its
            ``batch`` is the most inputs of one call and the seconds that the first waits.
        limits: how much the inputs of one call may hold together.
        observe: is told how many inputs each call has.
    """

    def __init__(
        self, callee: Any, limits: Limits, observe: Callable[[float], object] = lambda _: None
    ) -> None:
        self.max_size, self.max_wait = callee.batch
        self.observe = observe
        self._callee, self._limits = callee, limits

    def __call__(self, requests: Sequence[ScoringRequest], begin: Begin) -> Iterator[list[Outcome]]:
        """The outcomes of all requests, as they come about.

        ``begin`` is called right before a call with the places of its inputs, and gives those that
        are still wanted.
        """
        groups: dict[Hashable, list[Placed]] = {}
        for place, request in enumerate(requests):
            try:
                entered = self._callee.entered(request)
            except BaseException as error:
                yield [self._failed(place, error, 0)]
            else:
                groups.setdefault(entered.kind, []).append((place, entered))
        for group in groups.values():
            for inputs in self._within_limits(group):
                wanted = begin([place for place, _ in inputs])
                yield self._called([each for each in inputs if each[0] in wanted])

    def _within_limits(self, group: list[Placed]) -> Iterator[list[Placed]]:
        rows = values = 0
        inputs: list[Placed] = []
        for each in group:
            rows, values = rows + each[1].rows, values + each[1].values
            if inputs and (rows > self._limits.rows or values > self._limits.values):
                yield inputs
                rows, values, inputs = each[1].rows, each[1].values, []
            inputs.append(each)
        yield inputs

    def _called(self, inputs: list[Placed]) -> list[Outcome]:
        if not inputs:
            return []
        started = perf_counter()
        self.observe(len(inputs))
        try:
            self._enter(inputs[0][1].request)
            results = self._callee.together([entered for _, entered in inputs])
        except WrongBatchLength as error:
            log.error("%s", error)
            return [Outcome(place, None, WrongBatchLength(str(error))) for place, _ in inputs]
        except BaseException as error:
            if len(inputs) == 1:
                return [self._failed(inputs[0][0], error, (perf_counter() - started) * 1000)]
        else:
            run_ms = (perf_counter() - started) * 1000
            return [
                self._finished(place, entered, result, run_ms, len(inputs))
                for (place, entered), result in zip(inputs, results, strict=True)
            ]
        return self._halved(inputs)

    def _halved(self, inputs: list[Placed]) -> list[Outcome]:
        """The outcomes of inputs whose call together has raised."""
        middle = len(inputs) // 2
        outcomes, rest = self._called(inputs[:middle]), inputs[middle:]
        if len(rest) > 1 and not any(each.is_bad for each in outcomes):
            return outcomes + self._halved(rest)  # where the bad one has to be
        return outcomes + self._called(rest)

    def _finished(
        self, place: int, entered: Entered, result: Any, run_ms: float, size: int
    ) -> Outcome:
        try:
            self._enter(entered.request)
            return Outcome(place, with_size(entered.finish(result, run_ms), size), None)
        except BaseException as error:
            return Outcome(place, None, error)

    def _failed(self, place: int, error: BaseException, run_ms: float) -> Outcome:
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next  # the first frame is of this module
        try:
            response = self._callee.failed(error, run_ms)
        except BaseException as own:
            return Outcome(place, None, own, is_bad=True)
        return Outcome(place, with_size(response, 1), None, is_bad=True)

    def _enter(self, request: ScoringRequest) -> None:
        self._callee.began(request)
        if request.enter is not None:
            request.enter()
