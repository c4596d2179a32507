"""What both hosts of one service do with blobs and messages, beside HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import count
from typing import Any, Self

from azure.core.exceptions import ResourceNotFoundError
from azure.servicebus import ServiceBusClient
from azure.storage.blob import BlobServiceClient

from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.functions import FunctionsHost, blob_event, message_event
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until

_NUMBERS = count()


class Ways:
    """A standalone and a Functions host with a container and queues of their own each.

    Args:
        azurite: holds the blobs.
        standalone: makes the host for settings; started here.
        functions: the same.
        paths: of input and output below their containers.
    """

    def __init__(
        self,
        azurite: Azurite,
        standalone: Callable[[Mapping[str, str]], StandaloneHost],
        functions: Callable[[Mapping[str, str]], FunctionsHost],
        paths: tuple[str, str] = ("{blobname}.json", "{blobname}_out.json"),
    ) -> None:
        self._stack = ExitStack()
        self.storage = BlobServiceClient.from_connection_string(azurite.connection_string)
        number = next(_NUMBERS)
        self.input, self.output = f"ways{number}-in", f"ways{number}-out"
        self.storage.create_container(self.input)
        self.broker = ServiceBusBroker()
        self._make = standalone, functions
        self._environ = {
            "TriggerConnectionString": azurite.connection_string,
            "BLOB_INPUT_PATH": f"{self.input}/{paths[0]}",
            "BLOB_OUTPUT_PATH": f"{self.output}/{paths[1]}",
            "BLOB_POLL_SECONDS": "0.1-0.2",
        }

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        enter(self.storage)
        enter(self.broker)
        for name in ("input", "output", "input-functions", "output-functions"):
            self.broker.add_queue(name)
        string = self.broker.connection_string
        environ = {**self._environ, "ServiceBusConnectionString": string}
        self.standalone = enter(self._make[0](environ))
        queues = {
            "SERVICEBUS_INPUT_QUEUE": "input-functions",
            "SERVICEBUS_OUTPUT_QUEUE": "output-functions",
        }
        self.functions = enter(self._make[1]({**environ, **queues}))
        client = enter(ServiceBusClient.from_connection_string(string))
        self._receiver = enter(client.get_queue_receiver("input-functions"))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def blob(self, name: str, body: bytes, metadata: Mapping[str, str]) -> tuple[str, bytes]:
        """The document that the standalone host makes of a blob: ``out`` or ``error``, bytes."""
        blob = self.storage.get_blob_client(self.input, f"{name}.json")
        blob.upload_blob(body, metadata=dict(metadata))
        found: tuple[str, bytes] = until(lambda: self.document(name))
        return found

    def document(self, name: str) -> tuple[str, bytes] | None:
        """The same, if there is one yet."""
        for kind in ("out", "error"):
            blob = self.storage.get_blob_client(self.output, f"{name}_{kind}.json")
            try:
                return kind, blob.download_blob().readall()
            except ResourceNotFoundError:
                continue
        return None

    def functions_blob(
        self, name: str, body: bytes, metadata: Mapping[str, str]
    ) -> tuple[str, bytes]:
        """The same on the Functions host."""
        event = blob_event(f"{self.input}/{name}.json", body)
        event["metadata"]["Metadata"] = {"type": "json", "value": json.dumps(metadata)}
        done = self.functions.deliver("score_blob", event)
        assert done.failure == ""
        [(binding, content)] = done.outputs.items()
        return {"output": "out", "error": "error"}[binding], content

    def message(self, body: bytes, properties: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """The reply to a message on the standalone host, and the dead letters."""
        self.broker.send(
            "input", body, message_id="m", content_type="application/json", properties=properties
        )
        return self._replied("input", "output")

    def functions_message(
        self, body: bytes, properties: Mapping[str, Any]
    ) -> tuple[Any, list[Any]]:
        """The same on the Functions host."""
        self.broker.send("input-functions", body, message_id="m", properties=properties)
        [message] = self._receiver.receive_messages(1, max_wait_time=60)
        done = self.functions.deliver("score_message", message_event(message))
        assert done.failure == ""
        if self.broker.counts("input-functions").locked:
            self._receiver.complete_message(message)
        return self._replied("input-functions", "output-functions")

    def _replied(self, queue: str, answers: str) -> tuple[Any, list[Any]]:
        self.broker.wait_for(lambda: self.broker.counts(queue)[:2] == (0, 0), 180)
        [reply] = self.broker.take_all(answers)
        return reply, self.broker.take_all(f"{queue}/$deadletterqueue")
