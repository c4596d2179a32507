"""The metrics: declared here once, counted in a page of memory that all workers of a service see.

A page has one cell for each number, in an order that follows from what is served: no client can
make a new one, and each worker knows the places of all. Only its event loop writes to a page, so
counting is an addition; prometheus-client's own counters take ten times as long.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple, TypeAlias

from ..errors import InputError, NotServing, RunTimeout, ScoringRuntimeError
from ..messages import Progress
from .pages import HEAD, Pages

OUTCOMES = ("scored", "refused", "failed", "timeout", "unavailable")
"""What becomes of an input: answered; the client's fault; run() failed, took too long; not now."""
SCORED, REFUSED, FAILED, TIMEOUT, UNAVAILABLE = range(5)
TRIGGERS = ("http", "blob", "service_bus")
REASONS = ("too_many", "too_slow", "unread", "too_many_bytes", "head_too_large", "malformed")
"""Why a connection is refused, or ended."""
KEY_REASONS = ("no_key", "wrong_key", "no_admin_key")
CHANGES = ("switched", "refused")
"""What has become of a change of the model."""
UNKNOWN = ("unknown", "")
"""Name and version of what a request names that is not served."""
_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_LAGS = (0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
NOTE_CELLS = 2048
"""Of a page, after its numbers: what a process tells the others in words, see ``recent``."""
_OF_INPUTS, _OF_MODELS, _TRIGGER = ("model", "version", "trigger"), ("model", "version"), "trigger"


class Metric(NamedTuple):
    """One metric. ``name`` is that of its samples; ``buckets`` only of a histogram.

    ``over``: what its value is over several workers. ``only_with``: a trigger, or another part
    without which it is not there.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    over: Callable[[list[float]], float] = sum
    only_with: str = ""

    @property
    def kind(self) -> str:
        """``counter``, ``histogram`` or ``gauge``."""
        if self.buckets:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

    @property
    def size(self) -> int:
        """Cells of one set of labels: a histogram has its sum, its buckets and what is above."""
        return len(self.buckets) + 2 if self.buckets else 1


REQUESTS = Metric(
    "scoring_requests_total",
    "Inputs by what became of them: scored; refused, the client's fault; failed, by run(); "
    "timeout; unavailable, the service could not take them. Of blobs and messages each try.",
    (*_OF_INPUTS, "outcome"),
)
REQUEST_SECONDS = Metric(
    "scoring_request_seconds",
    "From an input's receipt to its answer.",
    _OF_INPUTS,
    _SECONDS,
)
QUEUE_SECONDS = Metric(
    "scoring_queue_seconds",
    "From an input's receipt until a scoring thread takes it up; not of answers from the cache.",
    _OF_INPUTS,
    _SECONDS,
)
RUN_SECONDS = Metric(
    "scoring_run_seconds",
    "In run(), or in the model; of a batch that of the whole batch.",
    _OF_INPUTS,
    _SECONDS,
)
BATCH_SIZE = Metric(
    "scoring_batch_size", "Inputs scored by one call.", _OF_MODELS, _SIZES, only_with="batches"
)
QUEUE_DEPTH = Metric("scoring_queue_depth", "Inputs that wait for a scoring thread.", _OF_MODELS)
IN_FLIGHT = Metric("scoring_in_flight", "Inputs that wait or are being scored.", _OF_MODELS)
LAG_SECONDS = Metric(
    "scoring_trigger_lag_seconds",
    "From the last change of a blob, or the enqueueing of a message, to its answer.",
    (_TRIGGER,),
    _LAGS,
)
RETRIES = Metric("scoring_retries_total", "Inputs that were left to be tried again.", (_TRIGGER,))
DEAD_LETTERS = Metric(
    "scoring_dead_letters_total", "Messages that were dead-lettered.", only_with="service_bus"
)
ERROR_DOCUMENTS = Metric(
    "scoring_error_documents_total", "Error documents written for blobs.", only_with="blob"
)
TRIGGER_UP = Metric(
    "scoring_trigger_up", "1 while a trigger can take inputs, else 0.", (_TRIGGER,), over=min
)
CONNECTIONS = Metric(
    "scoring_connections", "Open connections of the standalone host.", only_with="connections"
)
CONNECTIONS_REFUSED = Metric(
    "scoring_connections_refused_total",
    "Connections that the standalone host refused, or ended with an error.",
    ("reason",),
    only_with="connections",
)
UNAUTHORIZED = Metric(
    "scoring_unauthorized_total",
    "Requests that were refused: without a key, with a wrong one, or with one that does not open "
    "that route.",
    ("why",),
    only_with="keys",
)
CACHE_HITS = Metric("scoring_cache_hits_total", "Answers from the cache.", only_with="cache")
CACHE_MISSES = Metric(
    "scoring_cache_misses_total", "Results that had to be computed.", only_with="cache"
)
CACHE_BYPASSES = Metric(
    "scoring_cache_bypasses_total", "Requests that the cache did not look at.", only_with="cache"
)
CACHE_ERRORS = Metric(
    "scoring_cache_errors_total", "Times that Redis did not answer, or refused.", only_with="cache"
)
CACHE_SAVED = Metric(
    "scoring_cache_saved_milliseconds_total",
    "Time of run() that hits did not take.",
    only_with="cache",
)
BREAKER_OPEN = Metric(
    "scoring_cache_breaker_open",
    "1 while Redis is left alone, else 0.",
    over=max,
    only_with="cache",
)
RECORDED = Metric(
    "scoring_records_total",
    "Requests with their answers, and what scripts collected, that were written to files.",
    only_with="records",
)
RECORDS_DROPPED = Metric(
    "scoring_records_dropped_total",
    "Those that were not: they came too quickly, or there was no room for them.",
    only_with="records",
)
_COUNTED = (REQUESTS, REQUEST_SECONDS, QUEUE_SECONDS, RUN_SECONDS)
MODEL_CHANGES = Metric(
    "scoring_model_changes",
    "Changes of the model since the start: switched to another version, or refused.",
    ("change",),
    over=max,
    only_with="changes",
)
METRICS = (
    *_COUNTED, BATCH_SIZE, QUEUE_DEPTH, IN_FLIGHT, LAG_SECONDS, RETRIES, DEAD_LETTERS,
    ERROR_DOCUMENTS, TRIGGER_UP, CONNECTIONS, CONNECTIONS_REFUSED, UNAUTHORIZED, CACHE_HITS,
    CACHE_MISSES, CACHE_BYPASSES, CACHE_ERRORS, CACHE_SAVED, BREAKER_OPEN, RECORDED,
    RECORDS_DROPPED, MODEL_CHANGES,
)  # fmt: skip
MODEL_INFO = Metric(
    "scoring_model_info",
    "What is served, and the SHA-256 over its files; once they have been read.",
    ("name", "version", "sha256"),
)
"""Beside those of the pages; and ``process_*`` of each worker, as prometheus-client has them."""

_REQUEST = len(OUTCOMES)
_QUEUE = _REQUEST + REQUEST_SECONDS.size
_RUN = _QUEUE + QUEUE_SECONDS.size
_REQUEST_COUNTS, _QUEUE_COUNTS, _RUN_COUNTS = _REQUEST + 1, _QUEUE + 1, _RUN + 1
BLOCK = _RUN + RUN_SECONDS.size
"""Cells of the metrics of inputs for one set of labels, which lie side by side."""
Models: TypeAlias = Sequence[tuple[str, str]]


class Layout:
    """Which cell of a page holds what.

    Args:
        models: name and version of each that is served.
    """

    def __init__(self, models: Models) -> None:
        self.places: dict[tuple[Metric, tuple[str, ...]], int] = {}
        self.cells = HEAD
        for of_inputs in product([*models, UNKNOWN], TRIGGERS):
            labels = (*of_inputs[0], of_inputs[1])
            for outcome in OUTCOMES:  # in the order that Inputs.ended() knows
                self._place(REQUESTS, (*labels, outcome))
            for metric in _COUNTED[1:]:
                self._place(metric, labels)
        for metric in METRICS[len(_COUNTED) :]:
            triggers = TRIGGERS if metric is TRIGGER_UP else TRIGGERS[1:]  # clients of http wait
            choices = {_TRIGGER: triggers, "reason": REASONS, "why": KEY_REASONS}
            choices["change"] = CHANGES
            of_models = [tuple(each) for each in models] if metric.labels == _OF_MODELS else None
            for one in of_models or product(*(choices[name] for name in metric.labels)):
                self._place(metric, one)
        self.note = self.cells
        self.cells += NOTE_CELLS

    def _place(self, metric: Metric, labels: tuple[str, ...]) -> None:
        self.places[metric, labels] = self.cells
        self.cells += metric.size


class Number:
    """A counter or a gauge."""

    __slots__ = ("_at", "_page")

    def __init__(self, page: memoryview[float], at: int) -> None:
        self._page, self._at = page, at

    @property
    def value(self) -> float:
        """What this process's page has."""
        return self._page[self._at]

    def add(self, amount: float = 1.0) -> None:
        """Count it."""
        self._page[self._at] += amount

    def set(self, value: float) -> None:
        """Only of a gauge."""
        self._page[self._at] = value


class Histogram:
    """How values are spread; from any thread."""

    def __init__(self, page: memoryview[float], at: int, buckets: tuple[float, ...]) -> None:
        self._page, self._at, self._buckets = page, at, buckets
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count a value."""
        with self._lock:
            self._page[self._at] += value
            self._page[self._at + 1 + bisect_left(self._buckets, value)] += 1.0


class _Place(NamedTuple):
    """Where the inputs are counted that one model scores: in the page, and what stands there, which
    is quicker to read from a list."""

    model: str
    page: memoryview[float]
    own: list[float]


class Inputs:
    """Counts the inputs of one trigger."""

    def __init__(self, places: dict[str, _Place], unknown: _Place) -> None:
        self._places, self._unknown = places, unknown

    def ended(self, progress: Progress, outcome: int, seconds: float, run_seconds: float) -> str:
        """Count an input; in the event loop, before it is answered; what it is counted for.

        Args:
            progress: of the input.
            outcome: SCORED, REFUSED, …
            seconds: from its receipt to its answer.
            run_seconds: in run(); below 0 where that is not known, and the time until now is taken.
        """
        model, page, own = self._places.get(progress.model, self._unknown)
        own[outcome] = page[outcome] = own[outcome] + 1.0
        own[_REQUEST] = page[_REQUEST] = own[_REQUEST] + seconds
        at = _REQUEST_COUNTS + bisect_left(_SECONDS, seconds)
        own[at] = page[at] = own[at] + 1.0
        if begun := progress.begun:
            waited = begun - progress.received
            if run_seconds < 0:
                run_seconds = seconds - waited
            own[_QUEUE] = page[_QUEUE] = own[_QUEUE] + waited
            at = _QUEUE_COUNTS + bisect_left(_SECONDS, waited)
            own[at] = page[at] = own[at] + 1.0
            own[_RUN] = page[_RUN] = own[_RUN] + run_seconds
            at = _RUN_COUNTS + bisect_left(_SECONDS, run_seconds)
            own[at] = page[at] = own[at] + 1.0
        return model


class Metrics:
    """What one process counts, and what all of its service have counted.

    Args:
        models: name and version of each that is served.
        default: which of them a request means that names none, if any.
        triggers: those that are on; the others are not shown.
        others: which of the models scores what names none of them, if any.
        pages: of all workers; without them this process is the only one.
        number: of the page that is this process's.
    """

    def __init__(
        self,
        models: Models,
        default: tuple[str, str] | None,
        triggers: Sequence[str],
        others: tuple[str, str] | None = None,
        pages: Pages | None = None,
        number: int = 0,
    ) -> None:
        self.layout = Layout(models)
        self.pages = pages or Pages.of_children(1, self.layout.cells)
        self._page = self.pages.take(number)
        self._named = _named(models, default or UNKNOWN)
        self._unknown = others or UNKNOWN
        self._places: dict[tuple[str, str, str], _Place] = {}
        self._publishers: list[Callable[[], object]] = []
        self.parts = set(triggers)
        """What there is to be counted: triggers, ``cache``, ``batches``, ``connections``,
        ``records``."""
        for (metric, _), at in self.layout.places.items():
            if metric.kind == "gauge":  # of the process that had the page before
                self._page[at] = 0.0

    def number(self, metric: Metric, *labels: str) -> Number:
        """A counter or a gauge of this process."""
        return Number(self._page, self.layout.places[metric, labels])

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """A histogram of this process."""
        return Histogram(self._page, self.layout.places[metric, labels], metric.buckets)

    def inputs(self, trigger: str) -> Inputs:
        """What counts the inputs of a trigger."""

        def place(model: tuple[str, str]) -> _Place:
            if (place := self._places.get((*model, trigger))) is None:
                at = self.layout.places[REQUESTS, (*model, trigger, OUTCOMES[0])]
                page = self._page[at : at + _RUN + RUN_SECONDS.size]
                name = ":".join(model) if model != UNKNOWN else ""
                self._places[*model, trigger] = place = _Place(name, page, list(page))
            return place

        places = {wanted: place(model) for wanted, model in self._named.items()}
        return Inputs(places, place(self._unknown))

    @property
    def note(self) -> memoryview:
        """The bytes of this process's note."""
        return self._page[self.layout.note :].cast("B")

    def notes(self) -> list[tuple[int, bytes]]:
        """The process of each page, 0 if it is gone, and its note."""
        return self.pages.bytes_from(self.layout.note)

    def publish_by(self, publisher: Callable[[], object]) -> None:
        """Have ``publisher`` set gauges at each :meth:`publish`."""
        self._publishers.append(publisher)

    def publish(self) -> None:
        """Set the gauges; once a second, and before they are read."""
        for each in self._publishers:
            each()

    def read(self) -> Iterator[tuple[Metric, tuple[str, ...], list[float]]]:
        """Each metric, its labels, and its cells over all workers; gauges over those that live."""
        pages = self.pages.read()
        living = [cells for process, cells in pages if process]
        for (metric, labels), at in self.layout.places.items():
            if not self._is_on(metric, labels):
                continue
            if metric.kind == "gauge":
                yield metric, labels, [metric.over([cells[at] for cells in living] or [0.0])]
            else:
                columns = zip(*(cells[at : at + metric.size] for _, cells in pages), strict=True)
                yield metric, labels, [sum(each) for each in columns]

    def _is_on(self, metric: Metric, labels: tuple[str, ...]) -> bool:
        """Whether there is what it counts."""
        if metric.only_with and metric.only_with not in self.parts:
            return False
        if _TRIGGER not in metric.labels:
            return True
        return labels[metric.labels.index(_TRIGGER)] in self.parts


def _named(models: Models, default: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Each way to name a model; a name alone is its last version."""
    found = {name: (name, version) for name, version in models}
    return {
        **found,
        **{f"{name}:{version}": (name, version) for name, version in models},
        "": default,
    }


def outcome_of(error: Exception) -> int:
    """Which of the outcomes an error is."""
    kinds = ((InputError, REFUSED), (NotServing, UNAVAILABLE), (RunTimeout, TIMEOUT))
    if not isinstance(error, ScoringRuntimeError):
        return FAILED
    return next((outcome for kind, outcome in kinds if isinstance(error, kind)), FAILED)


def outcome_of_status(status: int) -> int:
    """The same for what run() has answered."""
    return SCORED if status < 400 else REFUSED if status < 500 else FAILED
