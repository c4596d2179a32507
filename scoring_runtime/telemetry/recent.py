"""The last inputs of each trigger, and what else the workers tell of themselves in words.

A process keeps its own. Once a second, and before they are read, it writes them as JSON to its page
of shared memory: the others read them there, and the process that replaces it goes on with them.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import orjson

from ..messages import Progress
from .metrics import OUTCOMES, SCORED, TRIGGERS, Metrics

KEPT = 10
FIELDS = (
    "time", "what", "status", "outcome", "milliseconds", "queue_milliseconds", "run_milliseconds",
    "request_id", "model",
)  # fmt: skip
"""Of one input. Times are in seconds since 1970, and null where there was no wait or no run()."""
_LENGTH_BYTES = 4
_LONGEST_TEXT = 100
_Entry: TypeAlias = "tuple[float, str, int, int, float, float, Progress, str] | list[Any]"


class Ring:
    """The last inputs of one trigger in this process: those that failed are kept for longer."""

    __slots__ = ("failed", "in_flight", "last")

    def __init__(self) -> None:
        self.last: deque[_Entry] = deque(maxlen=KEPT)
        self.failed: deque[_Entry] = deque(maxlen=KEPT)
        self.in_flight = 0

    def add(
        self,
        what: str,
        status: int,
        outcome: int,
        seconds: float,
        run_ms: float,
        progress: Progress,
        request_id: str,
    ) -> None:
        """Keep it.

        Args:
            what: the path, or the kind and name of the input.
            status: of its answer.
            outcome: SCORED, REFUSED, …
            seconds: from its receipt to its answer.
            run_ms: in run(); below 0 where that is not known.
            progress: of the input.
            request_id: by which the log has its lines.
        """
        entry = (time.time(), what, status, outcome, seconds, run_ms, progress, request_id)
        self.last.append(entry)
        if outcome != SCORED:
            self.failed.append(entry)


class Recent:
    """The rings of this process, and the notes of all.

    Args:
        metrics: whose pages are used.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.more: dict[str, Callable[[], Any]] = {}
        """What a note says beside: called when it is written."""
        self._rings = {each: Ring() for each in TRIGGERS}
        self._began = time.time()
        for trigger, said in _parsed(bytes(metrics.note)).get("triggers", {}).items():
            if ring := self._rings.get(trigger):
                ring.last.extend(said["last"])
                ring.failed.extend(said["failed"])
        metrics.publish_by(self._publish)

    def of(self, trigger: str) -> Ring:
        """The ring of a trigger."""
        return self._rings[trigger]

    def notes(self) -> list[tuple[int, dict[str, Any]]]:
        """The process of each worker, 0 if it is gone, and its note: ``began``, ``triggers`` with
        their ``in_flight``, ``last`` and ``failed``, and what else was told it."""
        read = ((process, _parsed(note)) for process, note in self._metrics.notes())
        return [(process, note) for process, note in read if note]

    def _publish(self) -> None:
        place, most = self._metrics.note, KEPT
        note = self._note(most)
        while len(note) > len(place) - _LENGTH_BYTES and most > 1:  # texts are bounded: 1 fits
            most //= 2
            note = self._note(most)
        place[:_LENGTH_BYTES] = bytes(_LENGTH_BYTES)  # until all of it is there
        place[_LENGTH_BYTES : _LENGTH_BYTES + len(note)] = note
        place[:_LENGTH_BYTES] = len(note).to_bytes(_LENGTH_BYTES, "little")

    def _note(self, most: int) -> bytes:
        triggers = {
            trigger: {
                "in_flight": ring.in_flight,
                "last": [_shown(each) for each in list(ring.last)[-most:]],
                "failed": [_shown(each) for each in list(ring.failed)[-most:]],
            }
            for trigger, ring in self._rings.items()
        }
        more = {name: said() for name, said in self.more.items()}
        note = {"process": os.getpid(), "began": self._began, "triggers": triggers, **more}
        return orjson.dumps(note)


def _shown(entry: _Entry) -> list[Any]:
    """The values of FIELDS."""
    if isinstance(entry, list):
        return entry
    moment, what, status, outcome, seconds, run_ms, progress, request_id = entry
    waited = progress.begun - progress.received if progress.begun else None
    if run_ms < 0 and waited is not None:
        run_ms = (seconds - waited) * 1000
    return [
        round(moment, 3),
        _short(what),
        status,
        OUTCOMES[outcome],
        round(seconds * 1000, 3),
        None if waited is None else round(waited * 1000, 3),
        None if run_ms < 0 else round(run_ms, 3),
        _short(request_id),
        _short(progress.model),
    ]


def _short(text: str) -> str:
    cut = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
    return cut.encode("utf-8", "replace").decode()


def _parsed(note: bytes) -> dict[str, Any]:
    """A note, or nothing while there is none, or it is just being written."""
    length = int.from_bytes(note[:_LENGTH_BYTES], "little")
    try:
        found: dict[str, Any] = orjson.loads(note[_LENGTH_BYTES : _LENGTH_BYTES + length])
    except orjson.JSONDecodeError:
        return {}
    return found
