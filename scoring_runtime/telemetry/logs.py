"""Logging: the loggers, format and ``logging.json`` that operators of AzureML images know."""

from __future__ import annotations

import builtins
import contextlib
import functools
import json
import logging
import logging.config
import math
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from time import perf_counter
from typing import Any

from ..errors import ConfigurationError
from ..messages import ScoringRequest

log = logging.getLogger("azmlinfsrv")
script_log = logging.getLogger("azmlinfsrv.user_script")
swagger_log = logging.getLogger("azmlinfsrv.swagger")
_print_log = logging.getLogger("azmlinfsrv.print")

request_id: ContextVar[str] = ContextVar("scoring_request_id", default="")
"""The id of the request that this thread or task works on, for log formats and scripts."""
enter: ContextVar[Callable[[], object]] = ContextVar("scoring_enter", default=lambda: None)
"""What ties the lines of a thread to the host's own invocation."""


def request_of(record: logging.LogRecord) -> str:
    """The id of the request that a record is of: what it says itself, or the context."""
    said: str | None = getattr(record, "request_id", None)
    return request_id.get() if said is None else said


@contextlib.contextmanager
def lines_of(request: str) -> Iterator[None]:
    """Within it, what is logged is of the request of this id."""
    token = request_id.set(request)
    try:
        yield
    finally:
        request_id.reset(token)


def began(request: ScoringRequest) -> None:
    """In a scoring thread, at each request: from now on its lines are that request's."""
    request_id.set(request.request_id)
    if request.enter is not None:
        enter.set(request.enter)
    if request.progress is not None and not request.progress.begun:
        request.progress.begun = perf_counter()


_traces: OrderedDict[str, str] = OrderedDict()
_MOST_TRACES = 20_000


def note_trace(request: str, trace: str) -> None:
    """Have the lines of a request, by its id, name its trace where they are JSON."""
    _traces[request] = trace
    if len(_traces) > _MOST_TRACES:
        _traces.popitem(last=False)


FORMAT = "%(asctime)s %(levelname).1s [%(process)d] %(name)s - %(message)s"
_TALLY_SECONDS = 60.0


class LineFormatter(logging.Formatter):
    """Times in UTC; each line of a request, also those of a traceback, ends with its id."""

    converter = staticmethod(time.gmtime)

    def __init__(self, fmt: str = FORMAT, datefmt: str | None = None, style: Any = "%") -> None:
        super().__init__(fmt, datefmt, style)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return _with_id(text, request_of(record))


def _with_id(text: str, request: str) -> str:
    end = f" [{printable(request)}]" if request else ""
    return text.replace("\n", f"{end}\n") + end


class RequestIds(logging.Filter):
    """Does the same for a handler with a format of its own, which the Functions worker has."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always kept."""
        request = request_of(record)
        if request:
            record.msg, record.args = _with_id(record.getMessage(), request), None
            if record.exc_info:
                text = record.exc_text or logging.Formatter().formatException(record.exc_info)
                record.exc_text = _with_id(text, request)
            record.request_id = ""
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a record, on one line: a traceback is a text in it."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_of(record),
            **getattr(record, "fields", {}),
        }
        said["trace_id"] = _traces.get(said["request_id"], "")
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        # Not orjson: a text may be none of Unicode's, as the names of files are.
        return json.dumps({name: value for name, value in said.items() if value not in ("", None)})


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


def configure_logging(
    level: str, places: list[Path], stream: str = "stdout", form: str = "text"
) -> None:
    """Configure logging from the first ``logging.json`` in ``places``, else to this stream.

    Without such a file the lines are text, or each is a JSON object: ``form`` is text or json.

    Raises:
        ConfigurationError: that file is not a logging configuration (``logging.config``).
    """
    escape_client_text()
    for place in places:
        path = place / "logging.json"
        if path.is_file():
            _load(path, level, stream, form)
            log.info("Loaded logging config from %s", path)
            return
    logging.config.dictConfig(_default_config(level, stream, form))


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


def redirect_print(*, only_of_requests: bool = False) -> None:
    """Send ``print()`` to standard output through the logger ``azmlinfsrv.print``."""
    real_print = builtins.print
    if getattr(real_print, "to_logger", False):
        return

    @functools.wraps(real_print)
    def print_to_logger(
        *values: object, sep: str | None = " ", file: Any = None, **more: Any
    ) -> None:
        to_log = file is None or file is sys.stdout
        if to_log and (request_id.get() or not only_of_requests):
            _print_log.info((" " if sep is None else sep).join(map(str, values)))
        else:
            real_print(*values, sep=sep, file=file, **more)

    print_to_logger.to_logger = True  # type: ignore[attr-defined]
    builtins.print = print_to_logger


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


class LineHandler(logging.StreamHandler[Any]):
    """The default handler: looks its stream up at each record, writes many lines at once."""

    before: Callable[[float], object] = staticmethod(lambda _: None)
    """Called before each record with its time, to write what is earlier."""

    def __init__(self, stream: str) -> None:
        self._name_of_stream = stream
        super().__init__(getattr(sys, stream))

    @property
    def stream(self) -> Any:
        return getattr(sys, self._name_of_stream)

    @stream.setter
    def stream(self, value: Any) -> None:
        """The stream is always the current one of ``sys``."""

    def emit(self, record: logging.LogRecord) -> None:
        self.before(record.created)
        super().emit(record)

    def write_lines(self, lines: str) -> None:
        """Write lines that are formatted already."""
        with self.lock, contextlib.suppress(OSError, ValueError):  # type: ignore[union-attr]
            self.stream.write(lines)
            self.flush()


def effective_handlers(logger: logging.Logger) -> tuple[list[logging.Handler], bool]:
    """The handlers of a logger's records, and whether all are as :func:`configure_logging` makes
    them."""
    found: list[logging.Handler] = []
    current: logging.Logger | None = logger
    filtered = any(not isinstance(each, ClientText) for each in logger.filters)
    while current is not None:
        found += current.handlers
        current = current.parent if current.propagate else None
    plain = not filtered and all(
        isinstance(each, LineHandler)
        and not each.filters
        and isinstance(each.formatter, LineFormatter | JsonFormatter)
        for each in found
    )
    return found, plain


def _load(path: Path, level: str, stream: str, form: str) -> None:
    """And where it says nothing of the host's own lines they go where they would without it."""
    try:
        config = _with_our_classes(json.loads(path.read_text(encoding="utf-8")))
        # What there is before the script is the host's: it is not to be silenced.
        config["disable_existing_loggers"] = False
        logging.config.dictConfig(config)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise ConfigurationError(f"{path} is not a logging configuration: {error}") from error
    if not log.hasHandlers():
        handler = LineHandler(stream)
        handler.setFormatter(_formatter(form))
        log.addHandler(handler)
        log.setLevel(level)


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


def _formatter(form: str) -> logging.Formatter:
    return JsonFormatter() if form == "json" else LineFormatter()


def _default_config(level: str, stream: str, form: str) -> dict[str, Any]:
    def to(stream: str) -> dict[str, str]:
        return {"()": f"{__name__}.LineHandler", "stream": stream, "formatter": "lines"}

    alone = {"level": level, "handlers": ["main"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": lambda: _formatter(form)}},
        "handlers": {"main": to(stream), "stderr": to("stderr")},
        "loggers": {
            "azmlinfsrv": alone,
            "uvicorn.error": {"level": "WARNING", "handlers": ["stderr"], "propagate": False},
        },
        "root": {"level": level, "handlers": ["main"]},
    }
