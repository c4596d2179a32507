"""Files that settings name, read again when they change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

from ..errors import ConfigurationError
from ..telemetry.logs import log

Read = TypeVar("Read")
_LOOK_SECONDS = 0.1


class Watched(Generic[Read]):
    """What ``read()`` makes of the files, anew when one of them, or where a link leads, is another.

    What cannot be read then leaves what there was, and the log says what is wrong with it.

    Args:
        what: they hold, in the plural.
        paths: of the files; with none, it is read once.
        read: makes it of them.

    Raises:
        ConfigurationError: by ``read``, the first time.
    """

    def __init__(self, what: str, paths: Sequence[str], read: Callable[[], Read]) -> None:
        self._what, self._paths, self._read = what, paths, read
        self._seen, self._next = self._signatures(), 0.0
        self.value = read()
        """What was read last."""

    def look(self) -> None:
        """Read it again if a file has changed; at most ten times a second."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + _LOOK_SECONDS
        if (found := self._signatures()) == self._seen:
            return
        self._seen = found
        try:
            self.value = self._read()
        except ConfigurationError as error:
            log.error("The %s stay as they were: %s", self._what, error)
        else:
            log.info("The %s were read again, as %s changed.", self._what, ", ".join(self._paths))

    def _signatures(self) -> list[tuple[int, ...]]:
        return [_signature(path) for path in self._paths]


def _signature(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
