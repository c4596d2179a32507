"""What the blob trigger needs of the place it watches: a container, or a local folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Protocol


class Found(NamedTuple):
    """An input as a listing shows it; its name without the container.

    ``held`` means that a watcher scores it just now or that it is still being copied, ``dropped``
    that one did and never let go: its process was killed. ``directions`` is what its metadata say
    of how to score it. ``state`` is what can change without its etag, such as ``archived``;
    ``changed`` when the input itself did last, in seconds since 1970.
    """

    name: str
    etag: str
    size: int
    attempts: int = 0
    content_type: str = ""
    content_encoding: str = ""
    input_key: str = ""
    held: bool = False
    dropped: bool = False
    directions: Mapping[str, str] = {}
    state: str = ""
    changed: float = 0.0

    @property
    def version(self) -> str:
        """It may be scored when this changes, although it could not be before."""
        return f"{self.etag} {self.state}".rstrip()


class Document(NamedTuple):
    """What is written for an input: its result or its error, with the receipt in ``metadata``.

    ``replaces`` says that a document of this name was there when the pass began. ``details`` are
    what an error document can say besides, for those who have the log.
    """

    name: str
    body: bytes
    content_type: str
    metadata: Mapping[str, str]
    replaces: bool
    details: Mapping[str, str] = {}


class Claim(Protocol):
    """An input that nobody else scores until it is released.

    Every method may raise InputTrouble or, if that is certain, TriggerTrouble.
    """

    @property
    def etag(self) -> str:
        """What the receipt has to say."""

    @property
    def attempts(self) -> int:
        """Tries that have failed before."""

    async def read(self) -> bytes | None:
        """The whole input; None when it has changed or is gone since it was claimed."""

    async def count(self, attempts: int) -> None:
        """Keep the number of tries that have failed."""

    async def write(self, document: Document) -> None:
        """Write a document at once, wholly or not at all."""

    async def release(self, *, done: bool) -> None:
        """Let go; ``done`` when a document has been written. Never raises."""


class Place(Protocol):
    """Where inputs are found and documents are written; names of documents are paths.

    Methods may raise TriggerTrouble, which says which setting to look at; those that are about one
    input or document raise InputTrouble unless it is certain that the place is in trouble.
    """

    where: str

    async def open(self) -> None:
        """Connect, and make what is missing and may be made.

        When it is called again it tells whether the place as such can be used.
        """

    async def close(self) -> None:
        """Let go of everything."""

    async def receipts(self) -> dict[str, str]:
        """The etag of the input that each document was made from, by the document's path."""

    def inputs(self) -> AsyncIterator[Found]:
        """Every blob that may be an input."""

    async def changed(self, least: float, most: float) -> None:
        """Wait so many seconds, and then until inputs may have changed, or so many at most."""

    async def claim(self, found: Found, receipts: tuple[str, ...]) -> Claim | None:
        """Take an input; None when it has changed, is gone, held, or has one of these receipts."""

    async def leave(self, found: Found, document: Document) -> None:
        """Write the error document of an input that could not be claimed, read or written for."""

    async def remove(self, document: str) -> None:
        """Remove a document that is no longer true."""
