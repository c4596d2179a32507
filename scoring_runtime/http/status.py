"""``/status``: what is served, what comes in, and the settings in force, as JSON.

Numbers are those of all workers, and so are the last inputs: each worker tells of its own once a
second (``telemetry.recent``). Nothing of what was sent is in it, nor a secret.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from itertools import accumulate
from typing import Any

from ..connections.named import triggers
from ..messages import ScoringResponse
from ..release import VERSION
from ..scoring.diagnosis import diagnosis
from ..scoring.runtime import Runtime, State
from ..scoring.served import Served, default
from ..settings.markdown import described
from ..settings.settings import Settings, environment_name
from ..telemetry.history import COLUMNS, STEP_SECONDS, History, resident_bytes
from ..telemetry.metrics import (
    DEAD_LETTERS,
    ERROR_DOCUMENTS,
    IN_FLIGHT,
    LAG_SECONDS,
    OUTCOMES,
    QUEUE_DEPTH,
    REQUESTS,
    RETRIES,
    TRIGGER_UP,
    Metric,
)
from ..telemetry.recent import FIELDS, KEPT
from ..telemetry.request_ids import Ids
from ..values.body import query_pairs
from .messages import HttpRequest
from .model_routes import json_response

_LIMITS = (
    ("a body, as sent and after decompression", "max_body_bytes", "bytes"),
    ("bodies of one process together", "max_bytes_in_flight", "bytes"),
    ("rows of one request", "max_rows", ""),
    ("values of one request", "max_values", ""),
    ("columns of one request", "max_columns", ""),
    ("requests that wait", "queue_size", ""),
    ("connections of one process", "max_connections", ""),
    ("waiting and scoring of one request", "scoring_timeout_ms", "ms"),
    ("silence within a request", "idle_timeout_seconds", "s"),
)
_LIBRARIES = {
    "numpy": "numpy", "pandas": "pandas", "sklearn": "scikit-learn", "onnxruntime": "onnxruntime",
    "mlflow": "mlflow-skinny", "xgboost": "xgboost", "lightgbm": "lightgbm", "torch": "torch",
    "tensorflow": "tensorflow", "uvicorn": "uvicorn", "azure.functions": "azure-functions",
}  # fmt: skip
_WORST_FIRST = (State.FAILED, State.TRANSITIONING, State.UNHEALTHY, State.HEALTHY)
_NEVER_LOOKED: tuple[State | None, float] = (None, 0.0)


class Status:
    """The route ``/status``; with ``?since=`` only what history there is since then.

    Args:
        runtime: whose it is.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._metrics = runtime, runtime.metrics
        self._settings = described(runtime.settings)
        self._limits = _limits(runtime.settings)
        self._default = default(runtime.served, runtime.settings)
        self._history = History(runtime.metrics)
        self._versions: dict[str, str] = {}
        self._states: dict[Served, tuple[State | None, float]] = {}
        runtime.on_started(lambda _: self._models_told())
        runtime.recent.more["models"] = self._models_told
        runtime.recent.more["troubles"] = lambda: runtime.troubles

    async def __call__(self, request: HttpRequest, ids: Ids) -> ScoringResponse:
        said = dict(query_pairs(request.query)).get("since", "0")
        since = float(said) if said.replace(".", "", 1).isdecimal() else 0.0
        response = json_response(self.document(since))
        return response._replace(headers=(*response.headers, (b"cache-control", b"no-store")))

    def document(self, since: float = 0.0) -> dict[str, Any]:
        """All of it; the fields are described in docs/http.md."""
        self._metrics.publish()
        notes = self._runtime.recent.notes()
        living = [note for process, note in notes if process]
        values = self._values()
        now = time.time()
        began = min(note["began"] for note in living)
        return {
            "service": self._runtime.settings.service_name,
            "state": self._runtime.state.value,
            "ready": self._runtime.readiness is State.HEALTHY,
            "error": self._error(),
            "time": round(now, 3),
            "uptime_seconds": round(now - began, 3),
            "versions": self._versions_there(),
            "workers": [_worker(note) for note in living],
            "memory_bytes": sum(resident_bytes(note["process"]) for note in living),
            "models": [self._model(each, living, values) for each in self._runtime.served],
            "triggers": [
                self._trigger(each, [note for _, note in notes], living, values)
                for each in triggers(self._runtime.settings)
            ],
            "changes": _changes(self._runtime.changes) or None,
            "limits": self._limits,
            "settings": self._settings,
            "history": {
                "columns": COLUMNS,
                "step_seconds": STEP_SECONDS,
                "rows": self._history.since(since),
            },
        }

    def _error(self) -> str | None:
        failure = self._runtime.failure
        return diagnosis(failure, self._runtime.settings) if failure is not None else None

    def _values(self) -> Mapping[tuple[Metric, tuple[str, ...]], list[float]]:
        return {(metric, labels): cells for metric, labels, cells in self._metrics.read()}

    def _models_told(self) -> dict[str, tuple[str, float]]:
        """The state of each model in this process, and since when."""
        for each in self._runtime.served:
            state, _ = self._states.get(each, _NEVER_LOOKED)
            if (now := self._runtime.state_of(each)) is not state:
                self._states[each] = now, time.time()
        return {
            model.identity: (state.value, round(since, 3))
            for model, (state, since) in self._states.items()
            if state is not None
        }

    def _model(self, model: Served, notes: Sequence[Any], values: Mapping[Any, Any]) -> Any:
        states = [note["models"][model.identity] for note in notes if "models" in note]
        order = [each.value for each in _WORST_FIRST]
        state, since = min(states, key=lambda each: order.index(each[0]))
        failed = (each for note in notes for ring in note["triggers"].values()
                  for each in ring["failed"] if self._is_of(model, each[-1]))  # fmt: skip
        last = max(failed, default=None, key=lambda each: each[0])
        identity = (model.name, model.version)
        return {
            "name": model.name,
            "version": model.version,
            "default": model is self._default,
            "paths": self._paths(model),
            "kind": "entry script" if model.folder is None else "model without a script",
            "state": state,
            "since": since,
            "sha256": self._runtime.digests.get(identity),
            "waiting": values[QUEUE_DEPTH, identity][0],
            "in_flight": values[IN_FLIGHT, identity][0],
            "last_error": dict(zip(FIELDS, last, strict=True)) if last else None,
            **self._signature(model),
        }

    def _is_of(self, model: Served, named: str) -> bool:
        if not named or self._runtime.has_script:
            return model is self._default
        last = [each for each in self._runtime.served if each.name == model.name][-1]
        return named == model.identity or (named == model.name and model is last)

    def _paths(self, model: Served) -> list[str]:
        own = f"/score/{model.name}/{model.version}"
        return ["/score", own] if model is self._default else [own]

    def _signature(self, model: Served) -> dict[str, Any]:
        if self._runtime.state_of(model) in (State.TRANSITIONING, State.FAILED):
            return {"platform": None, "takes_tensors": None, "inputs": [], "outputs": []}
        loaded = self._runtime.loaded(model)
        return {
            "platform": loaded.platform,
            "takes_tensors": loaded.takes_tensors,
            "inputs": [each._asdict() for each in loaded.inputs],
            "outputs": [each._asdict() for each in loaded.outputs],
        }

    def _trigger(
        self,
        trigger: str,
        notes: Sequence[Any],
        living: Sequence[Any],
        values: Mapping[Any, Any],
    ) -> dict[str, Any]:
        rings = [note["triggers"][trigger] for note in notes]
        troubles = (note.get("troubles", {}).get(trigger) for note in living)
        counted = dict.fromkeys(OUTCOMES, 0.0)
        for (metric, labels), cells in values.items():
            if metric is REQUESTS and labels[2] == trigger:
                counted[labels[3]] += cells[0]
        of_this = {
            "retries": values.get((RETRIES, (trigger,))),
            "dead_letters": values.get((DEAD_LETTERS, ())) if trigger == "service_bus" else None,
            "error_documents": values.get((ERROR_DOCUMENTS, ())) if trigger == "blob" else None,
        }
        return {
            "name": trigger,
            "up": bool(values[TRIGGER_UP, (trigger,)][0]),
            "trouble": next(filter(None, troubles), None),
            "listens": self._runtime.listens.get(trigger, {}),
            "in_flight": self._in_flight(trigger, living, values),
            "counted": counted,
            **{name: cells[0] for name, cells in of_this.items() if cells},
            "lag_seconds": _lag(values.get((LAG_SECONDS, (trigger,)))),
            "last": _newest(each for ring in rings for each in ring["last"]),
            "last_failed": _newest(each for ring in rings for each in ring["failed"]),
        }

    def _in_flight(self, trigger: str, living: Sequence[Any], values: Mapping[Any, Any]) -> float:
        """Requests of clients are what is in flight and came by no other trigger."""
        if trigger != "http":
            return float(sum(note["triggers"][trigger]["in_flight"] for note in living))
        others = [each for each in triggers(self._runtime.settings) if each != "http"]
        every: float = sum(cells[0] for (metric, _), cells in values.items() if metric is IN_FLIGHT)
        return max(0.0, every - sum(self._in_flight(each, living, values) for each in others))

    def _versions_there(self) -> dict[str, str]:
        """Looked up once all is loaded: to look takes milliseconds."""
        if self._versions or self._runtime.state is State.TRANSITIONING:
            return self._versions
        self._versions = {"scoring-runtime": VERSION, "python": platform.python_version()}
        for module, distribution in _LIBRARIES.items():
            if module in sys.modules:
                try:
                    self._versions[distribution] = metadata.version(distribution)
                except metadata.PackageNotFoundError:
                    continue
        return self._versions


def _worker(note: Mapping[str, Any]) -> dict[str, Any]:
    process = note["process"]
    held = resident_bytes(process)
    return {"process": process, "began": round(note["began"], 3), "memory_bytes": held}


def _changes(said: Mapping[str, Any]) -> dict[str, Any]:
    """Without the diagnosis of a refusal but its last line, the cause; the log has the whole."""
    last = said.get("last")
    if not last or not last.get("reason"):
        return dict(said)
    return {**said, "last": {**last, "reason": last["reason"].strip().rpartition("\n")[2]}}


def _newest(entries: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """The last inputs of all workers, the newest first."""
    oldest_first = sorted(entries, key=lambda each: each[0])
    newest = oldest_first[: -KEPT - 1 : -1]  # also of those in one millisecond
    return [dict(zip(FIELDS, each, strict=True)) for each in newest]


def _lag(cells: Sequence[float] | None) -> dict[str, float | None] | None:
    """The mean since the start, and within which bucket half and 99 % of them are."""
    count = sum(cells[1:]) if cells else 0
    if not cells or not count:
        return None
    bounds = (*LAG_SECONDS.buckets, None)
    reached = list(zip(accumulate(cells[1:]), bounds, strict=True))

    def within(share: float) -> float | None:
        return next(bound for total, bound in reached if total >= share * count)

    return {"mean": round(cells[0] / count, 3), "p50": within(0.5), "p99": within(0.99)}


def _limits(settings: Settings) -> list[dict[str, Any]]:
    return [
        {
            "what": what,
            "value": getattr(settings, each),
            "unit": unit,
            "setting": environment_name(each),
        }
        for what, each, unit in _LIMITS
    ]
