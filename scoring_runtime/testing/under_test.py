"""A script or a model on a loop of its own, and the three triggers as calls."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self, TypeVar

import orjson
from werkzeug.datastructures import Headers

from ..cache.build import Caching, caching
from ..connections.named import triggers
from ..errors import ConfigurationError, NotServing, StartError
from ..http.endpoint import create
from ..http.messages import HttpRequest
from ..scoring.diagnosis import diagnosis
from ..scoring.runtime import build
from ..script.entry_script import MODULE_NAME
from ..settings.settings import Settings, nearest_setting, setting_names
from ..telemetry.request_ids import RandomIds
from ..triggers.blob_paths import blob_paths
from ..triggers.messages import QueueMessage, QueueReply
from ..triggers.outcomes import (
    Health,
    Outcome,
    Scoring,
    Verdict,
    blob_request,
    directed,
    directions,
    failed,
)
from ..triggers.queue import QueueScoring
from ..values.wording import too_large
from .outcomes import BlobOutcome, HttpOutcome, MessageOutcome

_T = TypeVar("_T")
_EXPORTED = ("AML_APP_ROOT", "AZUREML_ENTRY_SCRIPT", "AZUREML_MODEL_DIR")
_STOP_SECONDS = 10.0
_JSON = "application/json"


def scoring(
    entry_script: str | os.PathLike[str] = "",
    *,
    model_dir: str | os.PathLike[str] = "",
    start_seconds: float = 300,
    **settings: object,
) -> UnderTest:
    """Load a script, or the models of a folder without one, to be scored with.

    The settings are ``settings``, and for the rest those of the environment, but for paths. Every
    trigger is there unless ``SCORING_TRIGGERS`` says otherwise; no connection is needed. The script
    finds ``AZUREML_MODEL_DIR`` in the environment.

    Args:
        entry_script: its path, from the working folder.
        model_dir: the folder of the model.
        start_seconds: how long ``init()`` may take.
        settings: by the names of their variables, such as ``SCORING_TIMEOUT_MS=500``.

    Raises:
        ConfigurationError: a setting has a wrong value, or there is none of that name.
        StartError: the script or the model cannot be loaded; the message is the diagnosis.
    """
    said = {name: _text(value) for name, value in settings.items()}
    _check_names(said)
    if entry_script:
        said["AZUREML_ENTRY_SCRIPT"] = os.path.realpath(entry_script)
    if model_dir:
        said["AZUREML_MODEL_DIR"] = os.path.abspath(model_dir)
    defaults = {"AML_APP_ROOT": os.getcwd(), "SCORING_TRIGGERS": "http,blob,service_bus"}
    environ = {name: value for name, value in os.environ.items() if name not in _EXPORTED}
    found = Settings.from_environ(environ, command_line=said, defaults=defaults)
    return UnderTest(found, start_seconds)


class UnderTest:
    """A runtime that was started; :meth:`stop` it, or use it in a ``with`` statement.

    Its calls wait for the outcome, in tests with a running event loop too: it has its own.

    Raises:
        StartError: it cannot be started; the message is the diagnosis.
    """

    def __init__(self, settings: Settings, start_seconds: float = 300) -> None:
        self.settings = settings
        self._loop = asyncio.new_event_loop()
        self._cached: Caching | None = None
        with ExitStack() as undo, _diagnosed(settings, start_seconds):
            undo.callback(_Process(settings).restore)
            undo.callback(self._loop.close)
            self.runtime = build(settings)
            thread = threading.Thread(target=self._loop.run_forever, name="scoring", daemon=True)
            thread.start()
            undo.callback(thread.join)
            undo.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            undo.callback(lambda: self.result_of(self._stopped()))
            self.result_of(self._started(), start_seconds)
            self._undo = undo.pop_all()

    def http(
        self,
        body: object = b"",
        path: str = "/score",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        content_type: str = "",
    ) -> HttpOutcome:
        """The response to a request: to ``/score``, or to any other path, with its query.

        ``body`` is bytes or text as they are, anything else becomes JSON, as in the other calls.
        """
        sent, kind = _sent(body, content_type)
        lines = {**({"content-type": kind} if kind else {}), **(headers or {})}
        wire = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in lines.items()]
        route, _, query = path.partition("?")
        request = HttpRequest(method, route, query.encode(), wire, sent, "127.0.0.1")
        return self.result_of(self._http(request))

    def blob(
        self,
        name: str,
        body: object = b"",
        *,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> BlobOutcome:
        """What becomes of a blob in the input container at its first try.

        ``name`` is without the container, as in ``a.json``; ``metadata`` may name the ``model``.

        Raises:
            ValueError: ``BLOB_INPUT_PATH`` does not match the name, so nothing would become of it.
        """
        sent, kind = _sent(body, content_type)
        return self.result_of(self._blob(name, sent, kind, dict(metadata or {})))

    def message(
        self,
        body: object = b"",
        *,
        content_type: str = "",
        message_id: str = "",
        correlation_id: str = "",
        reply_to: str = "",
        deliveries: int = 0,
        properties: Mapping[str, object] | None = None,
    ) -> MessageOutcome:
        """What becomes of a message in the input queue, delivered so often before.

        ``properties`` are those of the application, such as ``x-user`` or ``model``.
        """
        sent, kind = _sent(body, content_type)
        message = QueueMessage(
            sent,
            message_id,
            correlation_id,
            kind,
            reply_to,
            properties=dict(properties or {}),
            deliveries=deliveries,
            sequence_number=1,
        )
        return self.result_of(self._message(message))

    def blob_name(self) -> str:
        """A name that ``BLOB_INPUT_PATH`` matches, without the container."""
        return self._paths.input.fill(dict.fromkeys(self._paths.input.names, "sample"))

    def stop(self) -> None:
        """End it, once or more often; the process is as it was before."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def result_of(self, work: Awaitable[_T], seconds: float | None = None) -> _T:
        """What it gives on the loop of the runtime; TimeoutError after ``seconds``."""

        async def done() -> _T:
            return await work

        future = asyncio.run_coroutine_threadsafe(done(), self._loop)
        try:
            return future.result(seconds)
        except BaseException:
            future.cancel()
            raise

    async def _started(self) -> None:
        self._paths, self._new_id = blob_paths(self.settings), RandomIds()
        self._cached = cached = self._caching()
        self._handle = create(self.runtime, cached.score, cached.inputs, access_log=False)[1]
        self._scorings = {
            each: Scoring(self.runtime, each, cached.score, access_log=False)
            for each in triggers(self.settings)
            if each != "http"
        }
        self.runtime.start()
        await self.runtime.started()

    def _caching(self) -> Caching:
        return caching(self.runtime)

    async def _stopped(self) -> None:
        await self.runtime.stop(_STOP_SECONDS)
        if self._cached is not None:
            await self._cached.close()
        await self._loop.shutdown_asyncgens()

    async def _http(self, request: HttpRequest) -> HttpOutcome:
        reply = await self._handle(request)
        body = await self.runtime.whole(reply.body)
        lines = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in reply.headers]
        return HttpOutcome(reply.status, Headers(lines), body)

    def _scoring(self, trigger: str) -> Scoring:
        if trigger not in self._scorings:
            named = ", ".join(triggers(self.settings))
            raise ConfigurationError(
                f"The trigger {trigger} is not served: SCORING_TRIGGERS is {named}."
            )
        return self._scorings[trigger]

    async def _blob(
        self, name: str, body: bytes, content_type: str, metadata: dict[str, str]
    ) -> BlobOutcome:
        scoring, paths, settings = self._scoring("blob"), self._paths, self.settings
        names = paths.documents(name)
        if names is None:
            raise ValueError(
                f"A blob {name!r} is no input: BLOB_INPUT_PATH is {paths.input.text!r}."
            )
        if len(body) > settings.blob_max_bytes:
            outcome = failed(too_large("The blob", settings.blob_max_bytes, "BLOB_MAX_BYTES"))
        else:
            path = f"{paths.input.container}/{name}"
            key = metadata.get("x_input_key", "")
            new_id = self._new_id().decode()
            request = blob_request(path, body, content_type, "", key, request_id=new_id)
            said = {**paths.directions(name), **directions(metadata)}
            try:
                outcome = await scoring(directed(request, said), f"blob {path}")
            except NotServing as error:
                outcome = failed(error)
        document = f"{paths.output.container}/{names.output}"
        if outcome.verdict is Verdict.REFUSED:
            document = f"{paths.error.container}/{names.error}"
        return _of_blob(outcome, document)

    async def _message(self, message: QueueMessage) -> MessageOutcome:
        sent = _Sent()
        scoring = self._scoring("service_bus")
        score = QueueScoring(scoring, sent, self.settings, Health({}, "service_bus"), 0)
        try:
            answer = await score(message)
        except NotServing as error:
            return MessageOutcome(None, "abandon", type(error).__name__, str(error))
        reason, description = answer.reason, answer.description
        return MessageOutcome(sent.reply, answer.settlement.value, reason, description)


@contextmanager
def _diagnosed(settings: Settings, seconds: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        said = f"It is not loaded after {seconds:g} s: init() has not returned."
        raise StartError(said) from None
    except StartError as error:
        raise type(error)(diagnosis(error, settings)) from error.__cause__


class _Sent:
    """Takes the reply, as the output queue would."""

    def __init__(self) -> None:
        self.reply: QueueReply | None = None

    async def send(self, reply: QueueReply) -> None:
        self.reply = reply


class _Process:
    """What a script's load changes in this process, to be put back."""

    def __init__(self, settings: Settings) -> None:
        self._environ = {name: os.environ.get(name) for name in _EXPORTED}
        self._modules = dict(sys.modules)
        root, script = Path(settings.app_root), settings.script_path
        places = [root, root / settings.source_dir, *([script.parent] if script else [])]
        self._added = {*map(str, places)} - {*sys.path}
        values = (settings.app_root, settings.entry_script, settings.model_dir)
        os.environ.update({n: v for n, v in zip(_EXPORTED, values, strict=True) if v})

    def restore(self) -> None:
        """Variables, the path, and without the modules that only the script's path finds."""
        for name, value in self._environ.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        sys.path[:] = [each for each in sys.path if each not in self._added]
        new = {name: _place(name.partition(".")[0]) for name in {*sys.modules} - {*self._modules}}
        for name, place in new.items():
            if name == MODULE_NAME or place in self._added:
                del sys.modules[name]
        if MODULE_NAME in self._modules:
            sys.modules[MODULE_NAME] = self._modules[MODULE_NAME]


def _place(name: str) -> str:
    """The folder on the path that a module of this name was found in."""
    module = sys.modules.get(name)
    folder = os.path.dirname(getattr(module, "__file__", None) or "")
    return os.path.dirname(folder) if hasattr(module, "__path__") else folder


def _of_blob(outcome: Outcome, document: str) -> BlobOutcome:
    about = (outcome.reason, outcome.description)
    if outcome.verdict is Verdict.FAILED:
        return BlobOutcome("", b"", "", False, True, *about)
    is_error = outcome.verdict is Verdict.REFUSED
    return BlobOutcome(document, outcome.body, outcome.content_type, is_error, False, *about)


def _sent(body: object, content_type: str) -> tuple[bytes, str]:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), content_type
    if isinstance(body, str):
        return body.encode(), content_type
    written = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return written, content_type or _JSON


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_names(said: Mapping[str, str]) -> None:
    for name in sorted(said.keys() - setting_names()):
        near = nearest_setting(name)
        raise ConfigurationError(
            f"There is no setting {name}{f': did you mean {near}?' if near else '.'}"
        )
