"""One table of inputs through every trigger of both hosts: the same bytes, the same outcomes.

HTTP, blob (a container and a watched folder) and queue of the standalone host as a process; HTTP,
blob and queue of Microsoft's Functions worker library, with the listeners of the Functions host
played by the test. Runs that fail are tried once here, so that they end at once.
"""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import httpx
import orjson
import pytest
from azure.servicebus import ServiceBusClient
from azure.servicebus.exceptions import MessageLockLostError
from azure.storage.blob import BlobServiceClient

from tests.hosts.azurite import Azurite
from tests.hosts.broker import BrokerMessage, ServiceBusBroker
from tests.hosts.functions import FunctionsHost, blob_event, message_event
from tests.hosts.sites import Containers, Folders, Site, message
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.hosts.waiting import until

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
PATIENCE = 40.0
SCRIPT_OF = {"text": "parity_text.py", "schema": "parity_schema.py", "raw": "trigger_raw.py"}
EXTENSIONS = {
    "application/json": "json",
    "text/csv": "csv",
    "application/xml": "xml",
    "application/octet-stream": "bin",
}


@dataclass(frozen=True)
class Case:
    """One input, the status and perhaps the body that HTTP answers it with.

    `reason` is that of its dead letter, if it ends as one.
    """

    name: str
    script: str
    body: bytes
    status: int = 200
    result: bytes | None = None
    reason: str = ""
    content_type: str = "application/json"

    @property
    def file(self) -> str:
        """The name of its blob, whose extension says the content type too."""
        return f"{self.name.replace(' ', '-')}.{EXTENSIONS[self.content_type]}"


BYTES = "application/octet-stream"
CASES = [
    Case("text", "text", "grüße €".encode(), 200, '{"got":"grüße €"}'.encode()),
    Case("empty text", "text", b"", 200, b'{"got":""}'),
    Case("not UTF-8", "text", b"\xff\xfe", 400, None, "UndecodableInput"),
    Case("refused", "text", b"refuse", 400, b'{"message": "not this one"}', "InputError"),
    Case("aborted", "text", b"abort", 418, None, "Status418"),
    Case("raises", "text", b"fail", 500, None, "RunFailed"),
    Case("exits", "text", b"exit", 500, None, "RunFailed"),
    Case("not serialisable", "text", b"object", 500, None, "ResultNotSerializable"),
    Case(
        "typed",
        "schema",
        '{"data": [[1, 2], [0.5, 0]], "name": "nü"}'.encode(),
        200,
        '{"sums":[3.0,0.5],"name":"nü","kind":"float64"}'.encode(),
    ),
    Case("shape", "schema", b'{"data": [[1, 2, 3]], "name": "n"}', 400, None, "SchemaMismatch"),
    Case("missing", "schema", b'{"data": [[1, 2]]}', 400, None, "UndecodableInput"),
    Case("not JSON", "schema", b"{", 400, None, "UndecodableInput"),
    Case(
        "content type",
        "schema",
        b"{}",
        415,
        None,
        "UnsupportedContentType",
        content_type="application/xml",
    ),
    Case("all bytes", "raw", bytes(range(256)), 200, bytes(range(256)), content_type=BYTES),
    Case("100 kB", "raw", bytes(range(256)) * 400, 200, bytes(range(256)) * 400),
    Case("no bytes", "raw", b"", 200, b""),
    Case("empty result", "raw", b"nothing", 200, b""),
    Case("204", "raw", b"204", 204, b""),
    Case("stream", "raw", b"stream", 200, b"".join(bytes([n]) * 3 for n in range(5))),
    Case("stream that fails", "raw", b"broken stream", 500, None, "RunFailed"),
    Case("own type", "raw", b"csv", 200, b"a,b\n1,2\n"),
    Case("value", "raw", b"value", 200, b'{"a":[0,1,2],"nan":null}'),
    *(Case(f"status {n}", "raw", b"status %d" % n, n, "chosen: ü".encode()) for n in (201, 302)),
    *(
        Case(f"status {n}", "raw", b"status %d" % n, n, "chosen: ü".encode(), f"Status{n}")
        for n in (404, 422, 500, 503)
    ),
]


class Ending(NamedTuple):
    """What became of an input: where its answer went, the answer, and what the place says of it.

    `place` is `output` or `error` for blobs, `reply` or `reply and dead letter` for messages, and
    `failed` where nothing is written because the Functions host is to try again.
    """

    place: str
    body: bytes = b""
    status: int = 0
    content_type: str = ""
    reason: str = ""
    description: str = ""


CUT_OFF = Ending("connection cut off")
"""A part of the answer had been sent when its stream failed."""

Endings: TypeAlias = dict[str, Ending]


# --- places ---------------------------------------------------------------------------------------


class Queues:
    """An input and an output queue of their own."""

    def __init__(self, broker: ServiceBusBroker, name: str) -> None:
        self._broker, self.input, self.output = broker, f"{name}-in", f"{name}-out"
        for each in (self.input, self.output):
            broker.add_queue(each)
        self.environ = {
            "ServiceBusConnectionString": broker.connection_string,
            "SERVICEBUS_INPUT_QUEUE": self.input,
            "SERVICEBUS_OUTPUT_QUEUE": self.output,
            "SERVICEBUS_MAX_ATTEMPTS": "1",
        }

    def send(self, cases: list[Case]) -> None:
        for case in cases:
            self._broker.send(
                self.input, case.body, message_id=case.name, content_type=case.content_type
            )

    def wait_for(self, count: int) -> None:
        def is_done() -> bool:
            waiting = self._broker.counts(self.input)
            return not waiting.active and not waiting.locked

        self._broker.wait_for(lambda: len(self._broker.messages(self.output)) >= count, PATIENCE)
        self._broker.wait_for(is_done, PATIENCE)

    def endings(self) -> Endings:
        replies = self._broker.messages(self.output)
        letters = {each.message_id: each for each in self._broker.dead_letters(self.input)}
        assert len({each.correlation_id for each in replies}) == len(replies)
        return {each.correlation_id: self._ending(each, letters) for each in replies}

    def _ending(self, reply: BrokerMessage, letters: dict[str, BrokerMessage]) -> Ending:
        assert reply.answers == reply.correlation_id
        letter = letters.get(reply.correlation_id)
        return Ending(
            "reply and dead letter" if letter else "reply",
            reply.body,
            int(reply.application_properties["status"]),
            str(reply.content_type),
            letter.application_properties["DeadLetterReason"] if letter else "",
            letter.application_properties["DeadLetterErrorDescription"] if letter else "",
        )


PATHS = {
    "BLOB_INPUT_PATH": "input/{name}",
    "BLOB_OUTPUT_PATH": "output/{name}.out",
    "BLOB_ERROR_PATH": "output/{name}.error",
}


def endings_of(site: Site, cases: list[Case]) -> Endings:
    """Of the documents; folders keep no status and no type."""
    until(lambda: len(site.documents()) >= len(cases))
    found = {name.rpartition(".")[0]: name for name in site.documents()}
    assert sorted(found) == sorted(case.file for case in cases)
    assert len(site.documents()) == len(cases)
    endings = {}
    for case in cases:
        name = found[case.file]
        place = "output" if name.endswith(".out") else "error"
        ending = Ending(place, site.document(name) or b"")
        if isinstance(site, Folders) and b'"request_id"' in ending.body:
            ending = Ending(place, description=message(ending.body))
        if isinstance(site, Containers):
            said = site.output.get_blob_client(name).get_blob_properties()
            kind = str(said.content_settings.content_type)
            ending = ending._replace(status=int(said.metadata["status"]), content_type=kind)
        endings[case.name] = ending
    return endings


# --- ways -----------------------------------------------------------------------------------------


def through_http(url: str, cases: list[Case]) -> Endings:
    endings = {}
    with httpx.Client(timeout=30, follow_redirects=False) as client:
        for case in cases:
            headers = {"content-type": case.content_type}
            try:
                answer = client.post(f"{url}/score", content=case.body, headers=headers)
            except httpx.RemoteProtocolError:
                endings[case.name] = CUT_OFF
                continue
            kind = answer.headers.get("content-type", "")
            endings[case.name] = Ending("answer", answer.content, answer.status_code, kind)
    return endings


def through_blobs_of_functions(host: FunctionsHost, cases: list[Case]) -> Endings:
    """As the host's blob listener: the outputs that are given are written."""
    endings = {}
    for case in cases:
        event = blob_event(f"input/{case.file}", case.body, ContentType=case.content_type)
        done = host.deliver("score_blob", event)
        if done.failure:
            assert done.outputs == {}
            endings[case.name] = Ending("failed", reason=reason_in(done.failure))
        else:
            [(place, body)] = done.outputs.items()
            endings[case.name] = Ending(place, without_id(body))
    return endings


def without_id(body: bytes) -> bytes:
    """An error document without the id of its request."""
    with contextlib.suppress(ValueError):
        document = json.loads(body)
        if isinstance(document, dict) and document.pop("request_id", ""):
            return orjson.dumps(document)
    return body


def reason_in(failure: str) -> str:
    """The name of the error in what the function raised."""
    return failure.partition("TryAgain: ")[2].partition(":")[0]


def through_queue_of_functions(
    host: FunctionsHost, broker: ServiceBusBroker, queues: Queues, cases: list[Case]
) -> Endings:
    """As the host's message listener: lock, call, complete; what is dead-lettered is gone."""
    queues.send(cases)
    with (
        ServiceBusClient.from_connection_string(broker.connection_string) as client,
        client.get_queue_receiver(queues.input) as receiver,
    ):
        for _ in cases:
            [message] = receiver.receive_messages(1, max_wait_time=10)
            done = host.deliver("score_message", message_event(message))
            assert done.failure == ""
            with contextlib.suppress(MessageLockLostError):
                receiver.complete_message(message)
    queues.wait_for(len(cases))
    return queues.endings()


class Parts(NamedTuple):
    azurite: Azurite
    service: BlobServiceClient
    broker: ServiceBusBroker
    folder: Path


def through_standalone(parts: Parts, script: str, cases: list[Case]) -> dict[str, Endings]:
    queues = Queues(parts.broker, f"{script}-standalone")
    containers = Containers(parts.service, parts.azurite.connection_string, BLOB_MAX_ATTEMPTS="1")
    path, environ = SCRIPTS / SCRIPT_OF[script], {**containers.environ, **queues.environ}
    with StandaloneHost(path, environ=environ) as host:
        for case in cases:
            containers.put(case.file, case.body, case.content_type)
        queues.send(cases)
        http = through_http(host.url, cases)
        queues.wait_for(len(cases))
        blobs, messages = endings_of(containers, cases), queues.endings()
    return {"standalone http": http, "standalone blob": blobs, "standalone queue": messages}


def through_folders(parts: Parts, script: str, cases: list[Case]) -> dict[str, Endings]:
    folders = Folders(parts.folder / script, BLOB_MAX_ATTEMPTS="1", **PATHS)
    for case in cases:
        folders.put(case.file, case.body)
    with folders.host(SCRIPTS / SCRIPT_OF[script]):
        return {"standalone folder": endings_of(folders, cases)}


def through_functions(parts: Parts, script: str, cases: list[Case]) -> dict[str, Endings]:
    queues = Queues(parts.broker, f"{script}-functions")
    environ = clean_environ(
        AZUREML_ENTRY_SCRIPT=str(SCRIPTS / SCRIPT_OF[script]),
        TriggerConnectionString=parts.azurite.connection_string,
        **queues.environ,
    )
    with FunctionsHost(ROOT, environ) as host:
        return {
            "functions http": through_http(host.url, cases),
            "functions blob": through_blobs_of_functions(host, cases),
            "functions queue": through_queue_of_functions(host, parts.broker, queues, cases),
        }


WAYS = (
    "standalone http",
    "standalone blob",
    "standalone folder",
    "standalone queue",
    "functions http",
    "functions blob",
    "functions queue",
)


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Endings]]:
    """Every input of the table through every way: script, way, case."""
    found: dict[str, dict[str, Endings]] = {script: {} for script in SCRIPT_OF}
    with ExitStack() as stack:
        azurite, broker = Azurite(), ServiceBusBroker(max_message_size=1_000_000)
        for each in (azurite, broker):
            stack.enter_context(each)
        service = BlobServiceClient.from_connection_string(azurite.connection_string)
        parts = Parts(
            azurite, stack.enter_context(service), broker, tmp_path_factory.mktemp("ways")
        )
        pool = stack.enter_context(ThreadPoolExecutor(3))
        running = [
            (script, pool.submit(way, parts, script, [c for c in CASES if c.script == script]))
            for script in SCRIPT_OF
            for way in (through_standalone, through_functions, through_folders)
        ]
        for script, answered in running:
            found[script].update(answered.result())
    return found


# --- promises -------------------------------------------------------------------------------------


def expected(case: Case, answer: Ending, way: str) -> Ending:
    """What design.md says becomes of an input, where HTTP gave this answer.

    A 5xx is a try that failed. Folders and the output bindings of Functions keep the bytes only.
    """
    failed, refused = case.status >= 500, 400 <= case.status < 500
    if way == "standalone http" and case.name == "stream that fails":
        return CUT_OFF
    if way.endswith("http"):
        return answer
    if way.endswith("queue") and (failed or refused):
        text = f"{description_of(case, answer)} [{case.name}]"
        return answer._replace(place="reply and dead letter", reason=case.reason, description=text)
    if way.endswith("queue"):
        return answer._replace(place="reply")
    if way == "functions blob" and failed:
        return Ending("failed", reason=case.reason)
    place = "error" if failed or refused else "output"
    if way == "standalone folder" and place == "error" and not case.reason.startswith("Status"):
        return Ending(place, description=str(json.loads(answer.body)["message"]))
    return answer._replace(place=place) if way == "standalone blob" else Ending(place, answer.body)


def description_of(case: Case, answer: Ending) -> str:
    """The message of the error document, or what the script answered itself."""
    own = case.reason.startswith("Status")
    return answer.body.decode() if own else str(json.loads(answer.body)["message"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_way_gives_the_bytes_of_http_and_the_documented_outcome(
    case: Case, endings: dict[str, dict[str, Endings]]
):
    found = {way: endings[case.script][way][case.name] for way in WAYS}
    answer = found["functions http"]
    assert answer.status == case.status
    assert case.result is None or answer.body == case.result
    assert found == {way: expected(case, answer, way) for way in WAYS}
