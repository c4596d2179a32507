"""Traces from an HTTP client, a message and a blob, as a receiver of OTLP has them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest
from azure.servicebus import ServiceBusClient
from azure.storage.blob import BlobServiceClient

from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings.settings import Settings
from scoring_runtime.telemetry import logs, tracing
from scoring_runtime.telemetry.spans import Spans
from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.collector import Collector, Span
from tests.hosts.functions import FunctionsHost, blob_event, host_of, message_event
from tests.hosts.standalone import StandaloneHost, free_port
from tests.hosts.waiting import until

# run() makes a span of its own, and says what is current.
SCRIPT = """
from opentelemetry import trace
from scoring_runtime import AMLResponse, InputError

def init():
    pass

def parts():
    yield b"a"
    yield b"b"

def run(data):
    if data == "refuse":
        raise InputError("not this one")
    if data == "raise":
        raise ValueError("the details are for the log")
    if data == "stream":
        return AMLResponse(parts(), 200)
    print("scoring", data)
    with trace.get_tracer("mine").start_as_current_span("own") as span:
        return trace.format_trace_id(span.get_span_context().trace_id)
"""
MODEL = {"scoring.model.name": "model", "scoring.model.version": "1"}


@dataclass
class Client:
    """A client's trace: what it sends, and of which span."""

    sampled: bool = True

    def __post_init__(self) -> None:
        self.trace, self.span = token_hex(16), token_hex(8)
        self.parent = f"00-{self.trace}-{self.span}-{'01' if self.sampled else '00'}"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture(scope="module")
def broker() -> Iterator[ServiceBusBroker]:
    with ServiceBusBroker() as started:
        for name in ("input", "output"):
            started.add_queue(name)
        yield started


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traced") / "score.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def blobs(azurite: Azurite) -> Iterator[BlobServiceClient]:
    with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        for name in ("traced-in", "traced-out"):
            service.create_container(name)
        yield service


@pytest.fixture(scope="module")
def host(
    collector: Collector,
    broker: ServiceBusBroker,
    azurite: Azurite,
    blobs: BlobServiceClient,
    script: Path,
) -> Iterator[StandaloneHost]:
    """All three triggers, and a cache."""
    environ = {
        **collector.environ,
        "OTEL_SERVICE_NAME": "diabetes",
        "CACHE_URL": "memory://",
        "TriggerConnectionString": azurite.connection_string,
        "ServiceBusConnectionString": broker.connection_string,
        "BLOB_INPUT_PATH": "traced-in/{name}.json",
        "BLOB_OUTPUT_PATH": "traced-out/{name}.json",
        "BLOB_POLL_SECONDS": "0.1",
    }
    with StandaloneHost(script, environ=environ) as started:
        yield started


def score(host: StandaloneHost | FunctionsHost, text: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{host.url}/score?code=k3y", content=text, headers=headers, timeout=60)


def carrier_of(span: Span) -> str:
    return f"00-{span.trace}-{span.id}-01"


def test_a_trace_from_an_http_client_is_whole(host: StandaloneHost, collector: Collector):
    """Its spans are below the client's, in their order; run() makes its own below ours."""
    client = Client()
    answer = score(host, "whole", traceparent=client.parent, tracestate="a=1,b=2")
    spans = collector.trace(client.trace, "POST /score", "cache", "queue", "run", "own")
    server, cache, queue = spans["POST /score"], spans["cache"], spans["queue"]
    run, own = spans["run"], spans["own"]
    assert (server.kind, server.parent, server.state) == ("server", client.span, "a=1,b=2")
    assert {cache.parent, queue.parent, run.parent} == {server.id}
    assert own.parent == run.id
    times = [server.began, *cache[-3:-1], *queue[-3:-1], run.began, *own[-3:-1], run.ended]
    assert times == sorted(times) and run.ended <= server.ended
    assert answer.headers["traceresponse"] == carrier_of(server)
    assert answer.json() == client.trace
    port = host.port
    assert server.service == "diabetes"
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/score",
        "http.request.body.size": 5,
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/score",
        "url.query": "code=***",
        "server.address": "127.0.0.1",
        "server.port": port,
        "client.address": "127.0.0.1",
        "user_agent.original": answer.request.headers["user-agent"],
        "scoring.request_id": answer.headers["x-request-id"],
        **MODEL,
    }
    assert run.attributes == MODEL
    assert cache.attributes == {"scoring.cache.result": "miss"}

    again = Client()
    score(host, "whole", traceparent=again.parent)
    spans = collector.trace(again.trace, "POST /score", "cache")  # which no run() was needed for
    assert spans["cache"].attributes == {"scoring.cache.result": "hit"}


@pytest.mark.parametrize("trigger", ["", "service_bus"])
def test_an_answer_that_comes_later_is_of_its_requests_trace(
    trigger: str, broker: ServiceBusBroker, collector: Collector, script: Path
):
    """It is scored when the request has ended, by the same process or by who gets the message."""
    environ = {
        **collector.environ,
        "CACHE_URL": "memory://",
        "SCORING_LATER_TRIGGER": trigger,
        "ServiceBusConnectionString": broker.connection_string,
    }
    client = Client()
    with StandaloneHost(script, environ=environ) as host:
        accepted = score(host, "later", prefer="respond-async", traceparent=client.parent)
        assert accepted.status_code == 202
        names = ("POST /score", "later /score", "cache", "queue", "run", "own")
        spans = collector.trace(client.trace, *names)
    server, later, run = spans["POST /score"], spans["later /score"], spans["run"]
    assert (later.kind, later.parent) == ("consumer", server.id)
    assert later.attributes == {
        "scoring.request_id": accepted.headers["x-request-id"],
        "http.response.status_code": 200,
        **MODEL,
    }
    assert run.parent == later.id
    assert server.attributes["http.response.status_code"] == 202


@pytest.mark.parametrize(
    ("text", "status", "failed", "exceptions"),
    [("refuse", 400, False, []), ("raise", 500, True, ["ValueError"])],
)
def test_an_error_is_told_where_it_was(
    host: StandaloneHost,
    collector: Collector,
    text: str,
    status: int,
    failed: bool,
    exceptions: list[str],
):
    """The client's fault is no failure of the service; the script's exception is that of run()."""
    client = Client()
    assert score(host, text, traceparent=client.parent).status_code == status
    spans = collector.trace(client.trace, "POST /score", "cache", "queue", "run")
    assert (spans["run"].failed, spans["POST /score"].failed) == (failed, failed)
    assert spans["run"].exceptions == exceptions
    assert spans["run"].attributes["error.type"] == (exceptions or ["InputError"])[0]
    assert spans["POST /score"].attributes.get("error.type") == ("500" if failed else None)


def test_a_stream_has_its_span_and_health_has_none(host: StandaloneHost, collector: Collector):
    """It ends after its last part."""
    stream, others = Client(), Client()
    for path in ("/", "/health/ready", "/metrics", "/nothing"):
        httpx.get(f"{host.url}{path}", headers={"traceparent": others.parent})
    assert score(host, "stream", traceparent=stream.parent).content == b"ab"
    spans = collector.trace(stream.trace, "POST /score", "cache", "queue", "run")
    assert spans["POST /score"].ended > spans["run"].ended
    assert [each for each in collector.spans if each.trace == others.trace] == []


@pytest.mark.parametrize("name", ["traceparent", "Diagnostic-Id"])
def test_a_trace_from_a_message_is_whole(
    host: StandaloneHost, collector: Collector, broker: ServiceBusBroker, name: str
):
    """It goes on in the reply's properties, below the span of its sending."""
    client = Client()
    about = {name: client.parent, "tracestate": "a=1"}
    broker.send("input", name.encode(), message_id=f"m-{name}", properties=about)
    broker.wait_for(lambda: broker.messages("output"), 60)
    [reply] = broker.take_all("output")
    names = ("process input", "cache", "queue", "run", "own", "send output")
    spans = collector.trace(client.trace, *names)
    process, send = spans["process input"], spans["send output"]
    assert (process.kind, process.parent, process.state) == ("consumer", client.span, "a=1")
    assert {spans[each].parent for each in ("cache", "queue", "run", "send output")} == {process.id}
    assert (send.kind, reply.application_properties) == (
        "producer",
        {
            "status": 200,
            "x-model-name": MODEL["scoring.model.name"],
            "x-model-version": MODEL["scoring.model.version"],
            "traceparent": carrier_of(send),
            "tracestate": "a=1",
        },
    )
    assert process.attributes == {
        "messaging.system": "servicebus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "input",
        "messaging.message.id": f"m-{name}",
        "messaging.message.body.size": len(name),
        "scoring.request_id": f"m-{name}",
        "scoring.status": 200,
        **MODEL,
    }
    assert send.attributes["messaging.destination.name"] == "output"
    assert send.attributes["messaging.message.conversation_id"] == f"m-{name}"


def test_a_trace_from_a_blob_is_whole(
    host: StandaloneHost, collector: Collector, blobs: BlobServiceClient
):
    """It goes on in the document's metadata, below the span of its writing."""
    client = Client()
    about = {"traceparent": client.parent}
    blobs.get_blob_client("traced-in", "a.json").upload_blob(b"blob", metadata=about)
    output = blobs.get_blob_client("traced-out", "a.json")
    until(output.exists)
    names = ("process traced-in", "cache", "queue", "run", "own", "write traced-out")
    spans = collector.trace(client.trace, *names)
    process, write = spans["process traced-in"], spans["write traced-out"]
    assert (process.kind, process.parent) == ("consumer", client.span)
    assert (write.kind, write.parent) == ("producer", process.id)
    assert output.get_blob_properties().metadata["traceparent"] == carrier_of(write)
    request_id = process.attributes.pop("scoring.request_id")
    assert request_id == output.get_blob_properties().metadata["requestid"]
    assert process.attributes == {
        "faas.trigger": "datasource",
        "faas.document.collection": "traced-in",
        "faas.document.operation": "insert",
        "faas.document.name": "a.json",
        "scoring.body.size": 4,
        "scoring.status": 200,
        **MODEL,
    }


def test_a_trace_that_its_caller_left_out_goes_on_without_spans(
    host: StandaloneHost, collector: Collector, broker: ServiceBusBroker
):
    """Not the script's either, which sees the trace all the same."""
    http, message, last = Client(sampled=False), Client(sampled=False), Client()
    answer = score(host, "left out", traceparent=http.parent)
    assert answer.json() == http.trace
    _, trace, span, flags = answer.headers["traceresponse"].split("-")
    assert (trace, flags) == (http.trace, "00") and span != http.span
    about = {"traceparent": message.parent}
    broker.send("input", b"left out too", message_id="l", properties=about)
    broker.wait_for(lambda: broker.messages("output"), 60)
    [reply] = broker.take_all("output")
    assert reply.application_properties["traceparent"].startswith(f"00-{message.trace}-")
    assert reply.application_properties["traceparent"].endswith("-00")
    score(host, "last", traceparent=last.parent)
    collector.trace(last.trace, "POST /score", "cache", "queue", "run", "own")
    left_out = {http.trace, message.trace}
    assert [each for each in collector.spans if each.trace in left_out] == []


def test_a_trace_is_whole_on_functions(collector: Collector, script: Path):
    """Below the host's span of the invocation, or what the input says where that is not of it."""
    http, blob, message = Client(), Client(), Client()
    with ServiceBusBroker() as broker, ExitStack() as stack:
        for name in ("input", "output"):
            broker.add_queue(name)
        bus = ServiceBusClient.from_connection_string(broker.connection_string)
        receiver = stack.enter_context(stack.enter_context(bus).get_queue_receiver("input"))
        settings = {
            "TriggerConnectionString": "UseDevelopmentStorage=true",
            "ServiceBusConnectionString": broker.connection_string,
            "APPLICATIONINSIGHTS_CONNECTION_STRING": collector.connection_string,
        }
        host = stack.enter_context(host_of(script, **collector.environ, **settings))
        answer = score(host, "http", traceparent=http.parent)
        event = blob_event("input/a.json", b"blob")
        said = {"type": "json", "value": json.dumps({"traceparent": blob.parent})}
        event["metadata"]["Metadata"] = said
        assert host.deliver("score_blob", event).failure == ""
        about = {"Diagnostic-Id": message.parent}
        broker.send("input", b"message", message_id="f", properties=about)
        [received] = receiver.receive_messages(1, max_wait_time=10)
        assert host.deliver("score_message", message_event(received)).failure == ""
        receiver.complete_message(received)
        [reply] = broker.take_all("output")
        inner = ("queue", "run", "own")
        server = collector.trace(http.trace, "POST /score", *inner)["POST /score"]
        consumer = collector.trace(blob.trace, "process input", *inner)["process input"]
        spans = collector.trace(message.trace, "process input", "send output", *inner)
    assert server.parent == http.span and answer.headers["traceresponse"] == carrier_of(server)
    assert (consumer.parent, consumer.attributes["faas.document.name"]) == (blob.span, "a.json")
    assert spans["process input"].parent == message.span
    assert reply.application_properties["traceparent"] == carrier_of(spans["send output"])
    assert collector.items == []  # which the host sends


def test_one_in_a_hundred_is_sampled(collector: Collector, script: Path):
    """Of those that begin here: all spans of each, and none of the others'; a caller decides."""
    collector.spans.clear()
    environ = {
        **collector.environ,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    }
    client = Client()
    with StandaloneHost(script, environ=environ) as host, httpx.Client(timeout=60) as session:
        answers = [session.post(f"{host.url}/score", content=b"x") for _ in range(2000)]
        session.post(f"{host.url}/score", content=b"x", headers={"traceparent": client.parent})
    sampled = {
        each.headers["traceresponse"][3:35] for each in answers if "traceresponse" in each.headers
    }
    assert 2 <= len(sampled) <= 60  # 20 are expected; with 1 or 61 something is wrong
    of_each = {
        trace: [each.name for each in collector.spans if each.trace == trace]
        for trace in {*sampled, client.trace}
    }
    assert {tuple(sorted(each)) for each in of_each.values()} == {
        ("POST /score", "own", "queue", "run")
    }
    assert len(collector.spans) == 4 * (len(sampled) + 1)
    low = max(int(each[16:], 16) for each in sampled) / 2**64
    assert low < 0.01  # by its id, as others with this sampler decide too


def test_what_is_away_holds_nothing_up(script: Path):
    """Answers come, and the host ends, though nobody takes the spans."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with StandaloneHost(script, environ=environ) as host:
        assert score(host, "x").status_code == 200
        assert host.stop(timeout=30) == 0


LOADED = """
import sys
def init(): ...
def run(data): return sorted({each.partition(".")[0] for each in sys.modules})
"""


@pytest.mark.parametrize(
    "said", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}]
)
def test_without_traces_nothing_of_them_is_loaded(
    said: dict[str, str], write_script: WriteScript, tmp_path: Path
):
    """Whatever else is on."""
    environ = {"CACHE_URL": "memory://", "BLOB_INPUT_FOLDER": str(tmp_path / "in")}
    if said:
        environ |= {**said, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with StandaloneHost(write_script(LOADED), environ=environ) as host:
        answer = score(host, "x", traceparent=Client().parent)
    assert "traceresponse" not in answer.headers
    assert "opentelemetry" not in answer.json() and "uvicorn" in answer.json()


# --- Application Insights -------------------------------------------------------------------------


def test_application_insights_get_requests_exceptions_and_the_scripts_lines(
    collector: Collector, script: Path
):
    """Also by the names that the old server has for them."""
    collector.items.clear()
    environ = {
        "APPLICATIONINSIGHTS_CONNECTION_STRING": collector.connection_string,
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
        "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
        "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
        "SERVICE_NAME": "diabetes",
    }
    with StandaloneHost(script, environ=environ) as host:
        answer = score(host, "insights")
        score(host, "raise", **{"x-request-id": "the-id", "x-ms-client-request-id": "c"})
    items: dict[str, list[dict[str, Any]]] = {}
    for each in collector.items:
        items.setdefault(each["data"]["baseType"], []).append(each)
    good, bad = (each["data"]["baseData"] for each in items["RequestData"])
    assert (good["name"], good["responseCode"], good["success"]) == ("POST /score", "200", True)
    assert good["properties"]["Response Value"] == answer.text
    assert good["properties"]["Request Id"] == answer.headers["x-request-id"]
    assert good["properties"]["Service Name"] == "diabetes"
    assert (bad["responseCode"], bad["success"]) == ("500", False)
    assert bad["properties"]["Client Request Id"] == "c"
    [error] = [each["data"]["baseData"]["exceptions"][0] for each in items["ExceptionData"]]
    assert (error["typeName"], error["message"]) == ("ValueError", "the details are for the log")
    lines = {each["data"]["baseData"]["message"]: each for each in items["MessageData"]}
    printed = lines["scoring insights"]
    assert printed["tags"]["ai.operation.id"] == items["RequestData"][0]["tags"]["ai.operation.id"]
    assert printed["data"]["baseData"]["properties"]["Request Id"] == answer.headers["x-request-id"]
    [told] = [text for text in lines if text.startswith("Encountered Exception")]
    assert lines[told]["data"]["baseData"]["properties"]["Request Id"] == "the-id"
    assert not [text for text in lines if "POST /score" in text]


@pytest.mark.parametrize(
    ("environ", "connection"),
    [
        ({"AML_APP_INSIGHTS_ENABLED": "true", "AML_APP_INSIGHTS_KEY": "no"}, ""),
        (
            {
                "AML_APP_INSIGHTS_ENABLED": "true",
                "AML_APP_INSIGHTS_KEY": "0a1b2c3d-4e5f-6789-abcd-ef0123456789",
            },
            "InstrumentationKey=0a1b2c3d-4e5f-6789-abcd-ef0123456789",
        ),
        ({"APPLICATIONINSIGHTS_CONNECTION_STRING": "a", "OTEL_SDK_DISABLED": "TRUE"}, ""),
    ],
)
def test_application_insights_are_named_as_in_the_images_of_azureml(
    environ: dict[str, str], connection: str
):
    """A key counts only when it is enabled and is one."""
    assert Settings.from_environ(environ).app_insights_connection == connection


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """For Application Insights the start fails; OTLP is asked for by platforms too."""
    monkeypatch.setitem(sys.modules, "azure.monitor", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    name = "APPLICATIONINSIGHTS_CONNECTION_STRING"
    asked = Settings.from_environ({name: "a", "OTEL_TRACES_EXPORTER": "otlp"})
    with pytest.raises(ConfigurationError, match=rf"^{name} .*scoring-runtime\[appinsights\]"):
        tracing.check(asked)
    tracing.check(asked, on_functions=True)
    assert tracing.spans_of(asked, on_functions=True) is None
    assert "pip install 'scoring-runtime[otel]'" in caplog.text


# --- in this process ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", ["1.5", "-0.1", "x"])
def test_a_share_that_is_none_stops_the_start(share: str):
    """The message names variable, value and what is allowed."""
    said = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}
    tracing.check(Settings.from_environ(said))  # nobody asks for traces
    said["OTEL_TRACES_EXPORTER"] = "otlp"
    with pytest.raises(ConfigurationError, match=f"'{share}', which is not allowed.*0 to 1"):
        tracing.check(Settings.from_environ(said))


def test_a_sampler_that_is_not_known_is_said(caplog: pytest.LogCaptureFixture):
    """As the specification asks: a warning, and the default."""
    for known in ("", "ParentBased_TraceIdRatio", "always_off", "ratio"):
        said = {"OTEL_TRACES_SAMPLER": known, "OTEL_TRACES_EXPORTER": "otlp"}
        tracing.check(Settings.from_environ(said))
        is_said = "OTEL_TRACES_SAMPLER has the value 'ratio', which is not known" in caplog.text
        assert is_said == (known == "ratio")
    assert "always_on, always_off, traceidratio" in caplog.text


HIGH, LOW = "f" * 16, "0" * 15 + "1"


@pytest.mark.parametrize(
    ("sampler", "parent", "begins"),
    [
        ("parentbased_always_off", None, False),
        ("parentbased_always_off", f"00-{HIGH}{HIGH}-{LOW}-01", True),
        ("parentbased_always_off", f"00-{HIGH}{HIGH}-{LOW}-00", False),
        ("always_on", f"00-{HIGH}{HIGH}-{LOW}-00", True),
        ("always_off", f"00-{HIGH}{HIGH}-{LOW}-01", False),
        ("traceidratio", f"00-{HIGH}{LOW}-{LOW}-00", True),
        ("traceidratio", f"00-{LOW}{HIGH}-{LOW}-01", False),
        ("", None, True),
        ("of_a_package", f"00-{HIGH}{HIGH}-{LOW}-00", False),
        # Of none of these a trace goes on: another version, ids of zeros, something else.
        ("parentbased_always_off", f"ff-{HIGH}{HIGH}-{LOW}-01", False),
        ("parentbased_always_off", f"00-{'0' * 32}-{LOW}-01", False),
        ("parentbased_always_off", f"00-{HIGH}{HIGH}-{'0' * 16}-01", False),
        ("parentbased_always_off", "|guid.1.", False),
    ],
)
def test_the_samplers_decide_as_the_specification_says(
    sampler: str, parent: str | None, begins: bool
):
    """By the caller's flag or by the trace's id."""
    said = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    settings = Settings.from_environ(said)
    spans = Spans(settings, *tracing.sampling(settings), otlp=False, app_insights="")
    headers = [(b"traceparent", parent.encode())] if parent else []
    begin = spans.begin_of(headers)
    trace = begin and begin("a", "server", 0.0, dict)
    assert (trace is not None and trace.recorded) == begins
    known = parent is not None and parent.startswith("00-") and "0" * 16 not in parent
    assert (trace is not None) == (begins or known)
    if trace is not None and known and parent is not None:
        assert trace.trace_id == parent[3:35]
    spans.close()


def test_lines_of_a_traced_request_name_its_trace_in_json():
    """And those of others do not; as many are remembered as may be under way."""
    for number in range(20_001):
        logs.note_trace(f"t-{number}", f"trace-{number}")
    said = {}
    for name in ("t-0", "t-20000", ""):
        with logs.lines_of(name):
            record = logs.log.makeRecord("azmlinfsrv", 20, "", 0, "hello", (), None)
            said[name] = json.loads(logs.JsonFormatter().format(record)).get("trace_id")
    assert said == {"t-0": None, "t-20000": "trace-20000", "": None}
