"""Parts of an input as the place of the blob trigger.

Claims, counts of tries and receipts are those of :mod:`..standalone.folder`, in a folder beside the
output: ``scored.csv.parts`` has a document for each part, until they are joined. What rows of a
part have no result lies beside its document, and is written before it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputTrouble
from ..settings.settings import Settings
from ..standalone.files import claim_name
from ..standalone.folder import Folder, FolderClaim
from ..standalone.place import Document, Found
from ..triggers.blob_paths import BlobPaths, Template
from ..triggers.outcomes import Outcome
from .plan import Part, changed, of_all

_WHOLE = "input//whole"
_MESSAGE = 500
Tell = Callable[[int, Sequence["Missing"]], object]
"""Is told how many inputs (rows, files) have a result now, and which have none."""


class Missing(NamedTuple):
    """``rows`` inputs from number ``row`` (from 1) on that have no result, and why."""

    row: int
    rows: int
    status: int
    reason: str
    message: str


def missing(first: int, rows: int, outcome: Outcome) -> Missing:
    """Why so many inputs from number ``first`` on have no result."""
    message = outcome.exception or outcome.description
    return Missing(first, rows, outcome.status, outcome.reason, message[:_MESSAGE])


class Parts(Folder):
    """The parts of an input, and the folder of their documents.

    Args:
        settings: as those of the trigger.
        parts: in order.
        target: the file that the documents are joined to; its modification time is the receipt.
        directions: how each part is scored, as the metadata of a blob say it.
        begin_at: the share of the parts after which this process begins, from 0 to 1, so that
            several do not claim the same.
    """

    def __init__(
        self,
        settings: Settings,
        parts: Sequence[Part],
        target: Path,
        directions: Mapping[str, str],
        begin_at: float = 0.0,
    ) -> None:
        self.folder = target.with_name(f"{target.name}.parts")
        self.paths = BlobPaths(
            Template("BLOB_INPUT_PATH", "input/{blobname}.part").compile(),
            Template("BLOB_OUTPUT_PATH", "output/{blobname}.out"),
            Template("BLOB_ERROR_PATH", "output/{blobname}.error.json"),
        )
        own = {"blob_input_folder": str(target.parent), "blob_output_folder": str(self.folder)}
        super().__init__(replace(settings, **own), self.paths)  # type: ignore[arg-type]
        self._is_told = False  # nothing comes that is not known
        self.parts = {f"{each.name}.part": each for each in parts}
        self.target = target
        self.missing: dict[str, list[Missing]] = {}
        self.tell: Tell = lambda done, missing: None
        self.where = f"{len(parts)} parts; their documents go to {self.folder}"
        self._moment = of_all(parts)
        self._directions, self._begin = directions, round(begin_at * len(parts))

    async def inputs(self) -> AsyncIterator[Found]:
        """The parts, unless they have been joined.

        Raises:
            InputTrouble: a file has changed since the parts were made.
        """
        names = [*self.parts]
        try:
            claims = await asyncio.to_thread(os.listdir, self.folder / ".scoring")
        except FileNotFoundError:
            names = []  # joined, just now
        if self.is_joined():
            return
        for name in names[self._begin :] + names[: self._begin]:
            part = self.parts[name]
            if changed(part) != part.moment:
                raise InputTrouble(
                    f"{', '.join(part.paths[:3])} changed while it was scored. Start again."
                )
            yield Found(
                name,
                self.etag_at(part.moment),
                part.size,
                content_type=part.content_type or "application/json",
                dropped=claim_name(name) in claims,
                directions=self._directions,
            )

    def etag_at(self, moment: int) -> str:
        """The etag of a moment, in nanoseconds since 1970."""
        return str(moment // self._granularity)

    def etag_of(self, path: str) -> str:
        """The etag of a part, of the whole, or of a document."""
        if path == _WHOLE:
            return self.etag_at(self.target.stat().st_mtime_ns) if self.target.is_file() else ""
        container, _, name = path.partition("/")
        if container == "input":
            return self.etag_at(changed(self.parts[name]))
        return super().etag_of(path)

    def is_joined(self) -> bool:
        """Whether the whole output is there, of this very input."""
        return self.etag_of(_WHOLE) == self.etag_at(self._moment)

    @property
    def receipt(self) -> int:
        """The modification time of the whole output."""
        return self.moment(self.etag_at(self._moment))

    def made_claim(self, found: Found, path: str) -> FolderClaim:
        """That of a part."""
        return PartClaim(self, found, path)

    def written(self, part: Part, kind: str) -> bytes | None:
        """A document of a part, ``out``, ``rows.json`` or ``error.json``, if there is one."""
        name = f"{part.name}.{kind}"
        there = self.etag_of(f"output/{name}") == self.etag_at(part.moment)
        return (self.folder / name).read_bytes() if there else None

    def has_receipt(self, part: Part) -> bool:
        """Whether it is done with."""
        documents = (f"output/{part.name}.{kind}" for kind in ("out", "error.json"))
        return self.etag_at(part.moment) in map(self.etag_of, documents)

    def told(self, document: Document, part: Part) -> list[Missing]:
        """What the document of a part leaves out."""
        if document.name.endswith(".out"):
            return self.missing.pop(part.name, [])
        said = json.loads(document.body)
        status = int(document.metadata["status"])
        found = Missing(part.first, part.rows, status, "", str(said.get("message", ""))[:_MESSAGE])
        return self.missing.pop(part.name, None) or [found]

    async def leave(self, found: Found, document: Document) -> None:
        """Write an error document without a claim."""
        await self.write(document, found.etag, f"{claim_name(found.name)}.left")
        part = self.parts[found.name]
        self.tell(0, self.told(document, part))

    def _quiet_for(self, found: Found) -> float | None:
        return None

    def _claim(self, found: Found, receipts: tuple[str, ...]) -> Any:
        claim = super()._claim(found, receipts)
        if claim is not None and self.is_joined():  # and so are the parts' receipts
            claim.unlock(done=True)  # type: ignore[attr-defined]
            return None
        return claim


class PartClaim(FolderClaim):
    """The locked claim file of a part."""

    def __init__(self, parts: Parts, found: Found, path: str) -> None:
        super().__init__(parts, found, path)
        self._parts, self._part = parts, parts.parts[found.name]

    async def write(self, document: Document) -> None:
        """Write what has no result, then the document, which is the receipt."""
        missing = self._parts.missing.get(self._part.name, [])
        told = self._parts.told(document, self._part)
        try:
            if told:
                rows = json.dumps([each._asdict() for each in told]).encode()
                beside = document._replace(
                    name=f"output/{self._part.name}.rows.json", body=rows, details={}
                )
                await super().write(beside)
            await super().write(document)
        except BaseException:
            self._parts.missing[self._part.name] = missing  # it is written again later
            raise
        self._parts.tell(self._part.rows - sum(each.rows for each in told), told)

    def _read(self) -> bytes | None:
        body = self._part.body()
        return body if changed(self._part) == self._part.moment else None
