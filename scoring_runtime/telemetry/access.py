"""The access log: one line for each input that was scored, or refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from time import monotonic
from typing import TypeAlias

from .logs import JsonFormatter, LineHandler, effective_handlers, log, printable

_FLUSH_SECONDS = 0.05
_FLUSH_LINES = 512
Entry: TypeAlias = tuple[float, str, int, float, int | str, str, str, str, str, str]
"""Its time, and what :meth:`AccessLog.add` is given."""
_waiting: deque[Entry] = deque()
"""Of all access logs of the process, in the order of their times."""


class AccessLog:
    """Lines such as ``POST /score 200 0.508ms 322 trigger=http client=… model=diabetes:1 [id]``.

    Those of up to 50 ms are written together, and before any other record that is later: to format
    and write each by itself would cost a third of the throughput of a fast model.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.is_kept = enabled and log.isEnabledFor(logging.INFO)
        self._flushed = 0.0
        self._at_once = not effective_handlers(log)[1]
        LineHandler.before = staticmethod(_write)

    def add(
        self,
        what: str,
        status: int,
        seconds: float,
        length: int | str,
        trigger: str,
        client: str = "",
        model: str = "",
        cache: str = "",
        request: str = "",
    ) -> None:
        """Note a line; it is written within 50 ms.

        Args:
            what: ``POST /score``, or the kind of an input and its name.
            status: of its answer.
            seconds: until it was answered.
            length: of the answer in bytes.
            trigger: by which it came.
            client: its address.
            model: what scored it, as name:version.
            cache: hit, miss or bypass.
            request: its id.
        """
        if not self.is_kept:
            return
        moment = time.time()
        _waiting.append(
            (moment, what, status, seconds, length, trigger, client, model, cache, request)
        )
        if self._at_once or len(_waiting) >= _FLUSH_LINES:
            self.flush()
        elif len(_waiting) == 1:
            # A lone one soon, so that the lines of several workers are in order too.
            pause = _FLUSH_SECONDS if monotonic() - self._flushed < _FLUSH_SECONDS else 0.0
            asyncio.get_running_loop().call_later(pause, self.flush)

    def flush(self) -> None:
        """Write the lines that wait, each with the time it was noted at."""
        _write(float("inf"))
        self._flushed = monotonic()


def _write(until: float) -> None:
    entries = []
    while _waiting and _waiting[0][0] <= until:
        try:
            entries.append(_waiting.popleft())
        except IndexError:  # another thread writes it
            break
    if not entries:
        return
    handlers, plain = effective_handlers(log)
    for handler in handlers if plain else ():
        if isinstance(handler, LineHandler) and handler.level <= logging.INFO:
            is_json = isinstance(handler.formatter, JsonFormatter)
            handler.write_lines(_as_json(entries) if is_json else _as_text(entries, handler))
    for entry in () if plain else entries:
        log.handle(_record(entry))


def _text(entry: Entry) -> str:
    _, what, status, seconds, length, trigger, client, model, cache, request = entry
    more = f" client={client}" if client else ""
    if model:
        more += f" model={model}"
    if cache:
        more += f" cache={cache}"
    return f"{what} {status} {seconds * 1000:.3f}ms {length} trigger={trigger}{more}" + (
        f" [{request}]" if request else ""
    )


def _as_text(entries: list[Entry], handler: logging.Handler) -> str:
    """The lines; what stands before them differs in its milliseconds only within one second."""
    lines, second, before, after = [], -1, "", ""
    for entry in entries:
        moment = entry[0]
        if int(moment) != second:
            second = int(moment)
            record = _record((float(second), "", *entry[2:]), "")
            before, _, after = handler.format(record).partition(",000")
        line = _text(entry)
        if not line.isprintable():
            line = printable(line)
        lines.append(f"{before},{int(moment % 1 * 1000):03d}{after}{line}\n")
    return "".join(lines)


def _as_json(entries: list[Entry]) -> str:
    formatter = JsonFormatter()
    return "".join([f"{formatter.format(_record(each))}\n" for each in entries])


def _record(entry: Entry, message: str | None = None) -> logging.LogRecord:
    """``fields`` are what JSON has of it; the id is in the text already."""
    moment, what, status, seconds, length, trigger, client, model, cache, request = entry
    text = _text(entry) if message is None else message
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None)
    record.created, record.msecs = moment, moment % 1 * 1000
    record.request_id = ""
    name, _, version = model.rpartition(":")
    record.fields = {
        "message": what,
        "status": status,
        "milliseconds": round(seconds * 1000, 3),
        "bytes": length if isinstance(length, int) else None,
        "trigger": trigger,
        "client": client,
        "model": name,
        "version": version,
        "cache": cache,
        "request_id": request,
    }
    return record
