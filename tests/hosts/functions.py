"""The Functions host for tests: Microsoft's Python worker library behind a small HTTP front.

The library keeps its state in module globals, so `FunctionsHost` runs it in a child process. Unlike
in the real host, front and worker share a loop; as there, the first route by function name wins.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import uvicorn
from werkzeug.datastructures import MultiDict
from werkzeug.http import dump_cookie

Strings = Mapping[str, str]
Values = Mapping[str, "Message"]
Channel = Callable[..., Awaitable[Any]]
Reply = tuple[int, list[tuple[str, str]], bytes]
Event = dict[str, dict[str, dict[str, str]]]


_invocation: ContextVar[str] = ContextVar("invocation", default="")


class Message(SimpleNamespace):
    """Stands in for every RPC message; the constants are members of their enums."""

    Failure, Success = 0, 1
    undefined, out, inout = 0, 1, 2
    SameSite = SimpleNamespace(**{"None": None}, Lax="Lax", Strict="Strict", ExplicitNone="None")
    return_value: Any = None
    output_data: Sequence[Message] = ()

    def WhichOneof(self, group: str) -> str | None:
        return "data" if group == "rpc_data" else next(iter(vars(self)), None)

    def failure(self) -> str | None:
        failed = self.result.status != self.Success
        return "{message}\n{stack_trace}".format(**vars(self.result.exception)) if failed else None

    def to_json(self) -> dict[str, str]:
        [(kind, value)] = vars(self).items()
        raw = value if isinstance(value, bytes) else str(value).encode()
        return {"type": kind, "value": base64.b64encode(raw).decode()}


class Protos:
    """The RPC messages; a Nullable is its value, and a timestamp the seconds since 1970."""

    Timestamp = staticmethod(lambda seconds: seconds)
    NullableBool = NullableString = NullableTimestamp = staticmethod(lambda value: value)
    NullableDouble = staticmethod(lambda value: int(value))

    def __getattr__(self, name: str) -> type[Message]:
        return Message


class Function:
    """An indexed function; its route, which may have {name} and {*rest}, matches in any case."""

    def __init__(self, metadata: Message, route_prefix: str) -> None:
        self.name, self.id = metadata.name, metadata.function_id
        self.bindings: list[dict[str, Any]] = [json.loads(b) for b in metadata.raw_bindings]
        self.trigger = next((b for b in self.bindings if b["type"] == "httpTrigger"), {})
        self.level = str(self.trigger.get("authLevel", "")).lower()
        self.methods = [method.upper() for method in self.trigger.get("methods") or ()]
        self.route = (self.trigger.get("route") or self.name) if self.trigger else None
        path = "/".join(filter(None, f"{route_prefix}/{self.route}".split("/")))
        pattern = re.sub(r"/\\\{(?:\\\*)+(\w+)\\\}", r"(?:/(?P<\1>.*))?", re.escape(f"/{path}"))
        pattern = re.sub(r"/\\\{(\w+)\\\?\\\}", r"(?:/(?P<\1>[^/]+))?", pattern)
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", pattern) + "/?"
        self._pattern = re.compile(pattern, re.IGNORECASE | re.DOTALL)

    def match(self, method: str, raw_path: str) -> dict[str, str] | None:
        found = self._pattern.fullmatch(_decoded(raw_path)) if self.trigger else None
        if found is None or (self.methods and method not in self.methods):
            return None
        return {name: value for name, value in found.groupdict().items() if value}

    def describe(self) -> dict[str, Any]:
        http = {"route": self.route, "methods": self.methods, "authLevel": self.level}
        return {"name": self.name, **http, "bindings": self.bindings}


class Worker:
    """The worker library on the event loop that awaits these methods; one per process."""

    async def start(self, app_dir: Path) -> None:
        """Worker init (imports and indexes the app, in its directory), then functions metadata."""
        os.chdir(app_dir)
        sys.path.insert(0, os.getcwd())
        self._library: Any = import_module("azure_functions_runtime")
        self._library.start_threadpool_executor()
        about = Message(function_app_directory=os.getcwd(), capabilities={})
        if failure := (await self._call("worker_init_request", about)).failure():
            raise RuntimeError(failure)
        reply = await self._call("functions_metadata_request", about)
        if not reply.function_metadata_results:
            raise RuntimeError(f"no functions in {os.getcwd()}")
        host = json.loads(Path("host.json").read_text()) if Path("host.json").exists() else {}
        prefix = host.get("extensions", {}).get("http", {}).get("routePrefix", "api")
        self.functions = {m.name: Function(m, prefix) for m in reply.function_metadata_results}

    async def _call(self, name: str, message: Message) -> Message:
        properties = {"host": "127.0.0.1", "protos": Protos()}
        request = Message(request=Message(**{name: message}), properties=properties)
        reply: Message = await getattr(self._library, name)(request)
        return reply

    async def invoke(self, event: Message) -> Message:
        token = _invocation.set(event.invocation_id)
        try:
            return await self._call("invocation_request", event)
        finally:
            _invocation.reset(token)

    def event(
        self, function_name: str, inputs: Values, metadata: Values, traceparent: str = ""
    ) -> Message:
        """One event of any trigger: input values by binding name, and the trigger metadata."""
        trace_parent = traceparent or f"00-{uuid.uuid4().hex}-{os.urandom(8).hex()}-01"
        return Message(
            invocation_id=str(uuid.uuid4()),
            function_id=self.functions[function_name].id,
            input_data=[Message(name=name, data=data) for name, data in inputs.items()],
            trigger_metadata=metadata,
            trace_context=Message(trace_parent=trace_parent, trace_state="", attributes={}),
            retry_context=Message(retry_count=0, max_retry_count=0, exception=None),
        )

    def http_event(
        self, function_name: str, method: str, url: str, headers: Strings, body: bytes
    ) -> Message:
        """One HTTP event: the body goes as bytes, and what has no value is left out."""
        function, parts = self.functions[function_name], urlsplit(url)
        http = Message(method=method, url=url, headers=headers)
        http.query = {name: ",".join(values) for name, values in parse_qs(parts.query).items()}
        http.params = function.match(method, parts.path) or {}
        http.body = Message(bytes=body) if body else Message()
        inputs = {function.trigger["name"]: Message(http=http)}
        return self.event(function_name, inputs, {}, headers.get("traceparent", ""))


class Front:
    """ASGI app: requests become invocations, and so do JSON events sent to `/__invoke__/NAME`.

    As in the host, request bodies without a content-length are lost, and 404 (no such route and
    method), 401 (keys are checked, and this is not `test-key`) and 500 (failed) have no body.
    """

    def __init__(self, worker: Worker, check_keys: bool) -> None:
        self._worker, self._check_keys = worker, check_keys
        self._functions = sorted(worker.functions.values(), key=lambda function: function.name)

    async def __call__(self, scope: Mapping[str, Any], receive: Channel, send: Channel) -> None:
        body = bytearray()
        while (message := await receive()).get("more_body"):
            body += message["body"]
        status, headers, content = await self._answer(scope, bytes(body + message.get("body", b"")))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Mapping[str, Any], body: bytes) -> Reply:
        method, path, query = scope["method"], scope["raw_path"].decode(), scope["query_string"]
        if (name := path.removeprefix("/__invoke__/")) in self._worker.functions:
            return await self._answer_event(name, json.loads(body))
        function = next((f for f in self._functions if f.match(method, path) is not None), None)
        if function is None:
            return 404, [], b""
        raw = MultiDict((k.decode(), v.decode(errors="replace")) for k, v in scope["headers"])
        headers = {name: ",".join(values) for name, values in raw.lists()}
        keys = [headers.get("x-functions-key"), *parse_qs(query.decode()).get("code", ())]
        if self._check_keys and function.level != "anonymous" and "test-key" not in keys:
            return 401, [], b""
        path = quote(_decoded(path), safe="/%!$&'()*+,:;=@~")
        url = f"http://{headers['host']}{path}" + (f"?{query.decode()}" if query else "")
        body = body if "content-length" in headers else b""
        event = self._worker.http_event(function.name, method, url, headers, body)
        return _reply(await self._worker.invoke(event))

    async def _answer_event(self, name: str, event: Mapping[str, Mapping[str, Strings]]) -> Reply:
        inputs = {key: _from_json(item) for key, item in event.get("inputs", {}).items()}
        metadata = {key: _from_json(item) for key, item in event.get("metadata", {}).items()}
        request = self._worker.event(name, inputs, metadata)
        response = await self._worker.invoke(request)
        status = "Failure" if (failure := response.failure()) else "Success"
        returned = response.return_value and response.return_value.to_json()
        outputs = {output.name: output.data.to_json() for output in response.output_data}
        reply = {"status": status, "exception": failure, "return": returned, "outputs": outputs}
        reply["invocation_id"] = request.invocation_id
        return 200, [("content-type", "application/json")], json.dumps(reply).encode()


def _decoded(raw_path: str) -> str:
    return unquote(re.sub("%(?=2[fF])", "%25", raw_path))


def _reply(response: Message) -> Reply:
    if failure := response.failure():
        logging.getLogger("azure.functions").error("invocation failed: %s", failure)
        return 500, [], b""
    http = response.return_value.http
    cookies = [("set-cookie", _set_cookie(cookie)) for cookie in http.cookies or ()]
    return int(http.status_code), [*http.headers.items(), *cookies], http.body.bytes


def _set_cookie(cookie: Message) -> str:
    value, path, domain = quote(cookie.value, safe=""), cookie.path or "/", cookie.domain or None
    flags = {"secure": cookie.secure, "httponly": cookie.http_only, "samesite": cookie.same_site}
    validity = {"max_age": cookie.max_age, "expires": cookie.expires, "sync_expires": False}
    return dump_cookie(cookie.name, value, path=path, domain=domain, **flags, **validity)


def _from_json(item: Strings) -> Message:
    kind, value = item["type"], item["value"]
    return Message(**{kind: base64.b64decode(value) if kind == "bytes" else value})


def _typed(value: Any) -> dict[str, str]:
    """Bytes and text as they are, and everything else as JSON."""
    if isinstance(value, bytes):
        return {"type": "bytes", "value": base64.b64encode(value).decode()}
    kind, text = ("string", value) if isinstance(value, str) else ("json", json.dumps(value))
    return {"type": kind, "value": text}


def blob_event(path: str, body: bytes, **properties: str) -> Event:
    """A blob as the host's storage extension gives it, e.g. with `ContentType="text/csv"`.

    The binding expressions come beside the metadata; a name stands here for all of them.
    """
    name = path.partition("/")[2].rpartition(".")[0]
    metadata = {
        "BlobTrigger": _typed(path),
        # A System.Uri goes as JSON: a string in quotation marks.
        "Uri": {"type": "json", "value": json.dumps(f"http://127.0.0.1:10000/account/{path}")},
        "Properties": _typed(
            {
                "LastModified": "2024-05-01T10:00:00+00:00",
                "CreatedOn": "2024-05-01T10:00:00+00:00",
                "Metadata": {},
                "BlobType": 0,
                "LeaseState": 0,
                "ContentLength": len(body),
                "ContentType": "application/octet-stream",
                "ContentEncoding": None,
                "ETag": {},
                **properties,
            }
        ),
        "Metadata": _typed({}),
        "blobname": _typed(name),
        "sys": _typed({"MethodName": "score_blob", "UtcNow": "2024-05-01T10:00:00Z"}),
    }
    return {"inputs": {"blob": _typed(body)}, "metadata": metadata}


def message_event(message: Any) -> Event:
    """A message that azure-servicebus has received as the host's extension gives it.

    .NET counts deliveries from 1, and what is null is left out.
    """
    properties = {
        _text(name): _text(value) for name, value in (message.application_properties or {}).items()
    }
    found = {
        "MessageId": message.message_id,
        "CorrelationId": message.correlation_id,
        "ContentType": message.content_type,
        "ReplyTo": message.reply_to,
        "ReplyToSessionId": message.reply_to_session_id,
        "SessionId": message.session_id,
        "Subject": message.subject,
        "Label": message.subject,
        "LockToken": str(message.lock_token),
        "DeliveryCount": (message.delivery_count or 0) + 1,
        "SequenceNumber": message.sequence_number,
        "EnqueuedTimeUtc": message.enqueued_time_utc.isoformat(),
        "ExpiresAtUtc": "9999-12-31T23:59:59.9999999Z",
        "ApplicationProperties": properties,
        "UserProperties": properties,
        "MessageActions": {},
        "Client": {"FullyQualifiedNamespace": "127.0.0.1", "IsClosed": False},
        "sys": {"MethodName": "score_message", "UtcNow": "2024-05-01T10:00:00Z"},
    }
    metadata = {name: _typed(value) for name, value in found.items() if value is not None}
    return {"inputs": {"message": _typed(b"".join(message.body))}, "metadata": metadata}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


@dataclass(frozen=True)
class Delivery:
    """How a function ended: its failure, or "", and what it gives to its output bindings."""

    failure: str = ""
    outputs: Mapping[str, bytes] = field(default_factory=dict)
    invocation_id: str = ""


@dataclass
class FunctionsHost:
    """A function app in a child process that has exactly `environ`; `url` is the host's root.

    `init()` is waited for longer than usual: on a busy machine nothing may be left of the 8 s.
    `seconds_to_start` is from the start of the process to the end of worker init and metadata.
    """

    app_dir: Path
    environ: Strings

    def __enter__(self) -> Self:
        began = time.monotonic()
        deadline = began + 120
        self._output = tempfile.TemporaryFile()
        command = [sys.executable, __file__, str(self.app_dir)]
        out, err = self._output, subprocess.STDOUT
        environ = {"SCORING_INIT_GRACE_SECONDS": "60", **self.environ}
        self.process = subprocess.Popen(command, env=environ, stdout=out, stderr=err)
        while not (ready := re.search(r'^(\{"port": .*)\n', self.log, re.MULTILINE)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"not ready (exit code {self.process.returncode}):\n{self.log}")
            time.sleep(0.02)
        report = json.loads(ready[1])
        self.url = f"http://127.0.0.1:{report['port']}"
        self.functions: list[dict[str, Any]] = report["functions"]
        self.seconds_to_start: float = report["indexed_at"] - began
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """All that the child has written to stdout and stderr; stays readable after `stop`."""
        if self._output.closed:
            return self._final_log
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def deliver(self, function: str, event: Event) -> Delivery:
        """Call a function with an event, as a listener of the host does."""
        url = f"{self.url}/__invoke__/{function}"
        with urllib.request.urlopen(url, json.dumps(event).encode(), timeout=60) as answer:
            said = json.load(answer)
        outputs = {name: base64.b64decode(data["value"]) for name, data in said["outputs"].items()}
        return Delivery(said["exception"] or "", outputs, said["invocation_id"])

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if the child is still there 10 seconds later."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._final_log: str = self.log
        self._output.close()


def host_of(script: Path | str, **settings: str) -> FunctionsHost:
    """This repository's app with a script and settings, and nothing of the machine's."""
    from tests.hosts.standalone import clean_environ

    environ = {"AZUREML_ENTRY_SCRIPT": str(script), **settings}
    return FunctionsHost(Path(__file__).parents[2], clean_environ(**environ))


class HostLog(logging.StreamHandler[Any]):
    """As the real host: records of the app that belong to no invocation are dropped."""

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.current_thread() is threading.main_thread():
            belongs = bool(_invocation.get())
        else:
            local = import_module("azure_functions_runtime.bindings.context")._invocation_id_local
            belongs = bool(getattr(local, "invocation_id", None))
        is_passed_on = belongs or record.name.startswith("azure.functions")
        return is_passed_on and bool(super().filter(record))


async def _serve(app_dir: Path) -> None:
    worker = Worker()
    try:
        await worker.start(app_dir)
    except Exception as exc:
        print(json.dumps({"error": str(exc)}), flush=True)
        sys.exit(1)
    indexed = time.monotonic()
    front = Front(worker, os.environ.get("FUNCTIONS_HOST_CHECK_KEYS") == "1")
    config = uvicorn.Config(front, port=0, lifespan="off", log_config=None, access_log=False)
    listener = config.bind_socket()
    listener.listen()
    functions = [function.describe() for function in worker.functions.values()]
    ready = {"port": listener.getsockname()[1], "functions": functions, "indexed_at": indexed}
    print(json.dumps(ready), flush=True)
    await uvicorn.Server(config).serve([listener])


def main() -> None:
    sys.path.pop(0)
    logging.basicConfig(level=logging.INFO, handlers=[HostLog()])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(_serve(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
