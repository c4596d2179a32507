"""Receives traces as a collector does: by OTLP over HTTP, and as Application Insights."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.hosts.waiting import until

KINDS = ("", "internal", "server", "client", "producer", "consumer")


class Span(NamedTuple):
    """A span as it was received; ids in hexadecimal, times in nanoseconds."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    attributes: dict[str, Any]
    failed: bool
    exceptions: list[str]
    began: int
    ended: int
    service: str


class Collector:
    """``with Collector() as collector``: OTLP at ``url``, and ``connection_string``."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.items: list[dict[str, Any]] = []
        """What Application Insights would have got."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                kind, answer = collector.receive(self.path, body)
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.connection_string = (
            f"InstrumentationKey=0a1b2c3d-4e5f-6789-abcd-ef0123456789;IngestionEndpoint={self.url}"
        )
        self.environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def receive(self, path: str, body: bytes) -> tuple[str, bytes]:
        if path == "/v1/traces":
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
            return "application/x-protobuf", ExportTraceServiceResponse().SerializeToString()
        found = json.loads(body)
        self.items += found
        said = {"itemsReceived": len(found), "itemsAccepted": len(found), "errors": []}
        return "application/json", json.dumps(said).encode()

    def trace(self, trace_id: str, *names: str) -> dict[str, Span]:
        """The spans of a trace by name, once all of these names have come."""

        def found() -> dict[str, Span] | None:
            there = {each.name: each for each in list(self.spans) if each.trace == trace_id}
            return there if set(names) <= set(there) else None

        spans: dict[str, Span] = until(found)
        assert set(spans) == set(names)
        return spans


def _spans(request: ExportTraceServiceRequest) -> list[Span]:
    found = []
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for each in scope.spans:
                events = [_attributes(event.attributes) for event in each.events]
                found.append(
                    Span(
                        each.name,
                        KINDS[each.kind],
                        each.trace_id.hex(),
                        each.span_id.hex(),
                        each.parent_span_id.hex(),
                        each.trace_state,
                        _attributes(each.attributes),
                        each.status.code == 2,
                        [event["exception.type"] for event in events],
                        each.start_time_unix_nano,
                        each.end_time_unix_nano,
                        service,
                    )
                )
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in pairs}
