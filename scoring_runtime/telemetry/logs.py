"""Logging: the loggers, format and ``logging.json`` that operators of AzureML images know."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import json
import logging
import logging.config
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

log = logging.getLogger("azmlinfsrv")
script_log = logging.getLogger("azmlinfsrv.user_script")
swagger_log = logging.getLogger("azmlinfsrv.swagger")
_print_log = logging.getLogger("azmlinfsrv.print")

request_id: ContextVar[str] = ContextVar("scoring_request_id", default="")
"""The id of the request that this thread or task works on, for log formats and scripts."""

FORMAT = "%(asctime)s %(levelname).1s [%(process)d] %(name)s - %(message)s"
_FLUSH_SECONDS = 0.05
_FLUSH_LINES = 512
_TALLY_SECONDS = 60.0


class LineFormatter(logging.Formatter):
    """One line a record, times in UTC, the request id where there is one."""

    converter = staticmethod(time.gmtime)

    def __init__(self, fmt: str = FORMAT, datefmt: str | None = None, style: Any = "%") -> None:
        super().__init__(fmt, datefmt, style)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        current = request_id.get()
        return f"{line} [{printable(current)}]" if current and record.name != log.name else line


class ClientText(logging.Filter):
    """Escapes what clients could have put into a record of ours, for whatever handler there is.

    A record is one line; those after it, of a traceback, are indented, so that no text of a client
    looks like a record. What scripts log and print themselves stays as it is.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always kept."""
        text = record.getMessage()
        # The script's failures, and asyncio's, are told with a traceback in the message.
        record.msg = (printable if record.name in _ONE_LINE else _indented)(text)
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = _indented(logging.Formatter().formatException(record.exc_info))
        return True


class RootAccessFilter(logging.Filter):
    """Leaves out the health probe's own lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "GET / HTTP/1.1" not in record.getMessage()


def configure_logging(level: str, places: list[Path], stream: str = "stdout") -> None:
    """Configure logging from the first ``logging.json`` in ``places``, else to this stream.

    Raises:
        ConfigurationError: that file is not a logging configuration (``logging.config``).
    """
    escape_client_text()
    for place in places:
        path = place / "logging.json"
        if path.is_file():
            _load(path)
            log.info("Loaded logging config from %s", path)
            return
    logging.config.dictConfig(_default_config(level, stream))


def printable(text: str) -> str:
    """A text on one line: control characters, line ends and marks of direction are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _indented(text: str) -> str:
    return "\n    ".join(map(printable, text.rstrip("\n").split("\n")))


_ONE_LINE = (log.name, swagger_log.name)
_client_text = ClientText()


def escape_client_text() -> None:
    """Have the records that can hold a client's text escaped, whatever formats them."""
    for name in (*_ONE_LINE, script_log.name, "asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(_client_text)  # which is added once


def quiet_sdks() -> None:
    """Keep the lines that Azure's SDKs, and watchfiles, write for each request out of the log."""
    for name in ("azure.core", "azure.identity", "azure.storage", "msal", "watchfiles"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It writes a traceback for each link that is closed; the trigger says what is to be known.
    logging.getLogger("azure.servicebus").setLevel(logging.CRITICAL)


def redirect_print() -> None:
    """Send ``print()`` to standard output through the logger ``azmlinfsrv.print``."""
    real_print = builtins.print
    if getattr(real_print, "to_logger", False):
        return

    @functools.wraps(real_print)
    def print_to_logger(
        *values: object, sep: str | None = " ", file: Any = None, **more: Any
    ) -> None:
        if file is None or file is sys.stdout:
            _print_log.info((" " if sep is None else sep).join(map(str, values)))
        else:
            real_print(*values, sep=sep, file=file, **more)

    print_to_logger.to_logger = True  # type: ignore[attr-defined]
    builtins.print = print_to_logger


def metrics_text(metrics: Mapping[str, Callable[[], float]]) -> str:
    """Metrics in Prometheus' text format; names that end with ``_total`` are counters."""
    lines = []
    for name, value in metrics.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# TYPE {name} {kind}", f"{name} {value():g}"]
    return "\n".join(lines) + "\n"


class Tally:
    """Warnings that may come in floods: each text is one line a minute at most, with a count."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._said: dict[str, float] = {}

    def add(self, text: str) -> None:
        """Count it; it is logged by the next :meth:`flush` that may."""
        self._counts[text] += 1

    def flush(self, now: float) -> None:
        """Log each text whose last line is a minute old; ``now`` is in seconds, of any clock."""
        for text, count in list(self._counts.items()):
            if now - self._said.get(text, -math.inf) >= _TALLY_SECONDS:
                self._said[text] = now
                del self._counts[text]
                log.warning("%s (%d since the last such line)", text, count)


class AccessLog:
    """One line for each scored request: ``POST /score 200 0.508ms 322``.

    The lines of up to 50 ms are written together: formatting and writing each by itself would
    cost a third of the throughput of a fast model. :meth:`flush` writes what waits.
    """

    def __init__(self, level: int = logging.INFO, *, enabled: bool = True) -> None:
        self._level = level
        self._enabled = enabled and log.isEnabledFor(level)
        self._waiting: list[tuple[float, str]] = []

    def add(self, line: str) -> None:
        """Note a line; it is written within 50 ms by the loop that runs."""
        if not self._enabled:
            return
        waiting = self._waiting
        waiting.append((time.time(), line))
        if len(waiting) == 1:
            # Asked for once a flush: before Python 3.12 it takes a system call.
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        elif len(waiting) >= _FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait, each with the time it was noted at."""
        lines, self._waiting = self._waiting, []
        handlers, plain = _effective_handlers(log)
        if plain:
            if not "".join([line for _, line in lines]).isprintable():
                lines = [(moment, printable(line)) for moment, line in lines]
            self._write(handlers, lines)
        else:
            for moment, line in lines:
                log.handle(self._record(moment, line))

    def _record(self, moment: float, line: str) -> logging.LogRecord:
        record = log.makeRecord(log.name, self._level, __file__, 0, line, (), None)
        record.created, record.msecs = moment, moment % 1 * 1000
        return record

    def _write(self, handlers: list[logging.Handler], lines: list[tuple[float, str]]) -> None:
        for handler in handlers:
            if not isinstance(handler, _LineHandler) or self._level < handler.level:
                continue
            prefix = _PrefixPerSecond(handler, self)
            handler.write_lines("".join([f"{prefix(moment)}{line}\n" for moment, line in lines]))


class _PrefixPerSecond:
    """What stands before a line; only its milliseconds differ within one second."""

    def __init__(self, handler: logging.Handler, access: AccessLog) -> None:
        self._handler, self._access = handler, access
        self._second, self._before, self._after = -1, "", ""

    def __call__(self, moment: float) -> str:
        if int(moment) != self._second:
            self._second = int(moment)
            line = self._handler.format(self._access._record(float(self._second), ""))
            self._before, _, self._after = line.partition(",000")
        return f"{self._before},{int(moment % 1 * 1000):03d}{self._after}"


class _LineHandler(logging.StreamHandler[Any]):
    """The default handler: looks its stream up at each record, writes many lines at once."""

    def __init__(self, stream: str) -> None:
        self._name_of_stream = stream
        super().__init__(getattr(sys, stream))

    @property
    def stream(self) -> Any:
        return getattr(sys, self._name_of_stream)

    @stream.setter
    def stream(self, value: Any) -> None:
        """The stream is always the current one of ``sys``."""

    def write_lines(self, lines: str) -> None:
        with self.lock, contextlib.suppress(OSError, ValueError):  # type: ignore[union-attr]
            self.stream.write(lines)
            self.flush()


def _effective_handlers(logger: logging.Logger) -> tuple[list[logging.Handler], bool]:
    found: list[logging.Handler] = []
    current: logging.Logger | None = logger
    filtered = any(not isinstance(each, ClientText) for each in logger.filters)
    while current is not None:
        found += current.handlers
        current = current.parent if current.propagate else None
    plain = not filtered and all(
        isinstance(each, _LineHandler)
        and not each.filters
        and isinstance(each.formatter, LineFormatter)
        for each in found
    )
    return found, plain


def _load(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        logging.config.dictConfig(_with_our_classes(config))
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise ConfigurationError(f"{path} is not a logging configuration: {error}") from error


def _with_our_classes(value: Any) -> Any:
    """Configurations written for the old server name its classes; ours take their place."""
    if isinstance(value, dict):
        return {key: _with_our_classes(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_our_classes(each) for each in value]
    return _OLD_CLASSES.get(value, value) if isinstance(value, str) else value


_OLD_CLASSES = {
    "azureml_inference_server_http.log_config.AMLLogFormatter": f"{__name__}.LineFormatter",
    "azureml_inference_server_http.log_config.RootAccessFilter": f"{__name__}.RootAccessFilter",
}


def _default_config(level: str, stream: str) -> dict[str, Any]:
    def to(stream: str) -> dict[str, str]:
        return {"()": f"{__name__}._LineHandler", "stream": stream, "formatter": "lines"}

    alone = {"level": level, "handlers": ["main"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": f"{__name__}.LineFormatter"}},
        "handlers": {"main": to(stream), "stderr": to("stderr")},
        "loggers": {
            "azmlinfsrv": alone,
            "uvicorn.error": {"level": "WARNING", "handlers": ["stderr"], "propagate": False},
        },
        "root": {"level": level, "handlers": ["main"]},
    }
