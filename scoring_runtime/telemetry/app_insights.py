"""Application Insights: requests and exceptions from spans, the script's log lines, and the names
that queries of the old server's users have.

Source of the names: azureml-inference-server-http 1.5.1, ``server/appinsights_client.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from azure.monitor.opentelemetry.exporter import AzureMonitorLogExporter, AzureMonitorTraceExporter
from opentelemetry import context as contexts
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from ..settings.settings import Settings
from .logs import log, request_of, script_log

# The longest value of a property that Application Insights keep.
_LONGEST_VALUE = 8192
_NO_TEXT = "Scoring request response payload is a non serializable object or raw binary"
_NOT_THE_SCRIPTS = (log.name, "azure", "opentelemetry", "urllib3", "msal", "uvicorn")


def exporter(connection: str) -> Any:
    """What sends spans."""
    logging.getLogger("azure").setLevel(logging.WARNING)  # it writes a line for each request
    return AzureMonitorTraceExporter(connection_string=connection)


def send_lines(connection: str, resource: Resource) -> Callable[[], object]:
    """Send what the script prints and logs from now on; what is given back ends that."""
    provider = LoggerProvider(resource=resource)
    exporter = AzureMonitorLogExporter(connection_string=connection)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    handler = _Lines(provider)
    for name in (script_log.name, "azmlinfsrv.print", ""):
        logging.getLogger(name).addHandler(handler)
    return provider.shutdown


def details(settings: Settings, headers: dict[bytes, bytes], body: Any) -> dict[str, str]:
    """Of an answer's headers and body, by the old names; the body as a text, cut where it is long,
    unless ``APP_INSIGHTS_LOG_RESPONSE_ENABLED`` is off."""
    said = {
        "Container Id": settings.hostname,
        "Request Id": headers.get(b"x-request-id", b"").decode("latin-1"),
        "Client Request Id": headers.get(b"x-ms-client-request-id", b"").decode("latin-1"),
        "Workspace Name": settings.workspace_name,
        "Service Name": settings.service_name,
    }
    if settings.app_insights_log_response:
        said["Response Value"] = _text(body)
    return {name: value for name, value in said.items() if value}


def _text(body: Any) -> str:
    try:
        whole = len(body) <= _LONGEST_VALUE
        return str(body[:_LONGEST_VALUE].decode("utf-8", "strict" if whole else "ignore"))
    except (TypeError, UnicodeDecodeError):  # a stream, or no text
        return _NO_TEXT


class _Lines(logging.Handler):
    """Sends records of the script, with the request's id and, by the context, its trace."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__(logging.INFO)
        self._logger = provider.get_logger("scoring_runtime")

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] not in _NOT_THE_SCRIPTS or record.name.startswith(
            f"{log.name}."
        )

    def emit(self, record: logging.LogRecord) -> None:
        attributes: dict[str, Any] = {"logger": record.name}
        if request := request_of(record):
            attributes["Request Id"] = request
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            attributes["exception.type"] = type(error).__qualname__
            attributes["exception.message"] = str(error)
            attributes["exception.stacktrace"] = logging.Formatter().formatException(
                record.exc_info
            )
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                context=contexts.get_current(),
                severity_number=SeverityNumber(min(record.levelno // 10, 5) * 4 + 1),
                severity_text=record.levelname,
                body=record.getMessage(),
                attributes=attributes,
            )
        )
