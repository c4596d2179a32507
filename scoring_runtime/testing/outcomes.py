"""What becomes of an input, as users see it: a response, a document, a reply."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import Headers

from ..triggers.messages import QueueReply


class _Body:
    body: bytes

    def json(self) -> Any:
        """The body or the document, read as JSON.

        Raises:
            ValueError: it is none, or there is no document.
        """
        return json.loads(self.body)


@dataclass(frozen=True)
class HttpOutcome(_Body):
    """A response; ``headers`` are found in any case, several lines of a name with ``getlist``."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class BlobOutcome(_Body):
    """A document, the result's or an error's, or another try.

    ``document`` is its path, ``container/name``, and nothing when the blob is tried again
    (``is_retried``). ``reason`` is the name of the error, or the status that ``run()`` chose, as in
    ``Status422``; ``description`` is its text.
    """

    document: str
    body: bytes
    content_type: str
    is_error: bool
    is_retried: bool
    reason: str
    description: str


@dataclass(frozen=True)
class MessageOutcome:
    """A reply, if there is one, and then the settlement.

    ``settlement`` is ``complete``, ``dead-letter``, or ``abandon`` for a message that is delivered
    again. ``reason`` and ``description`` are those of the dead letter, or why it is tried again.
    """

    reply: QueueReply | None
    settlement: str
    reason: str
    description: str

    def json(self) -> Any:
        """The body of the reply, read as JSON.

        Raises:
            ValueError: it is none, or there is no reply.
        """
        return json.loads(self.reply.body if self.reply is not None else b"")
