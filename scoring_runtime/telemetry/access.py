"""The access log: one line for each input that was scored, or refused."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic
from typing import TypeAlias

from ..settings.secrets import masked_query
from .logs import JsonFormatter, LineHandler, effective_handlers, log, printable

_FLUSH_SECONDS = 0.05
_FLUSH_LINES = 512
Entry: TypeAlias = tuple[
    float, str, str, bytes, int, float, int | str, str, str, str, str, str, str
]
"""One line; what is not known is empty:

- the time of the answer, in seconds since 1970;
- the method of HTTP, or the kind of an input; the path, or the input's name; the query;
- the status of the answer, the seconds until then, and its length in bytes;
- the trigger, the client's address, what scored it as name:version;
- hit, miss or bypass of the cache; the name of the caller's key; the request's id.
"""
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

    def add(self, entry: Entry) -> None:
        """Note a line; it is written within 50 ms."""
        if not self.is_kept:
            return
        _waiting.append(entry)
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
    _, method, path, query, status, seconds, length, *about, request = entry
    end = _about(*about) + (f" [{printable(request)}]" if request else "")
    return f"{method} {_shown(path, query)} {status} {seconds * 1000:.3f}ms {length}{end}"


def _shown(path: str, query: bytes) -> str:
    return printable(f"{path}?{masked_query(query.decode('latin-1'))}" if query else path)


def _about(trigger: str, client: str, model: str, cache: str, key: str) -> str:
    names = {"trigger": trigger, "client": client, "model": model, "cache": cache, "key": key}
    return "".join(f" {name}={value}" for name, value in names.items() if value)


def _as_text(entries: list[Entry], handler: logging.Handler) -> str:
    """The lines; what many have in common is made once.

    What stands before them is that of a millisecond, which has many under load.
    """
    lines, second, last = [], -1, -1
    start = before = after = end = of_client = by_model = of_cache = of_key = by = ""
    for (
        moment, method, path, query, status, seconds, length,
        trigger, client, model, cache, key, request,
    ) in entries:  # fmt: skip
        thousandth = int(moment * 1000)
        if thousandth != last:
            last = thousandth
            if thousandth // 1000 != second:
                second = thousandth // 1000
                line = handler.format(_record((float(second), *entries[0][1:]), ""))
                before, _, after = line.partition(",000")
            start = f"{before},{thousandth % 1000:03d}{after}"
        same = client == of_client and model == by_model and cache == of_cache and key == of_key
        if not same or trigger != by:
            of_client, by_model, of_cache, of_key, by = client, model, cache, key, trigger
            end = _about(trigger, client, model, cache, key)
        if query or not path.isprintable():
            path = _shown(path, query)
        if not request.isprintable():
            request = printable(request)
        of = f" [{request}]" if request else ""
        lines.append(f"{start}{method} {path} {status} {seconds * 1000:.3f}ms {length}{end}{of}\n")
    return "".join(lines)


def _as_json(entries: list[Entry]) -> str:
    formatter = JsonFormatter()
    return "".join([f"{formatter.format(_record(each))}\n" for each in entries])


def _record(entry: Entry, message: str | None = None) -> logging.LogRecord:
    """``fields`` are what JSON has of it; the id is in the text already."""
    moment, method, path, _, status, seconds, length, *about, request = entry
    trigger, client, model, cache, key = about
    text = _text(entry) if message is None else message
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None)
    record.created, record.msecs = moment, int(moment * 1000) % 1000
    record.request_id = ""
    name, _, version = model.rpartition(":")
    record.fields = {
        "message": f"{method} {path}",
        "status": status,
        "milliseconds": round(seconds * 1000, 3),
        "bytes": length if isinstance(length, int) else None,
        "trigger": trigger,
        "client": client,
        "model": name,
        "version": version,
        "cache": cache,
        "key": key,
        "request_id": request,
    }
    return record
