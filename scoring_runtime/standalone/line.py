"""A line between the supervisor and a worker: messages in JSON, each of them whole."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, TypeAlias

_MOST_BYTES = 128 * 1024
Message: TypeAlias = dict[str, Any]


class Line:
    """Made before the worker is forked, which has the other end then."""

    def __init__(self) -> None:
        self._own, self._other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._own.setblocking(False)

    def turn(self) -> None:
        """In the worker: from now on its own end is meant."""
        self._own.close()
        self._own = self._other
        self._own.setblocking(False)

    def fileno(self) -> int:
        """What can be read when there is a message."""
        return self._own.fileno()

    def send(self, message: Message, descriptor: int = -1) -> bool:
        """Send a message, with an open file; whether it could be sent."""
        data = json.dumps(message).encode()
        try:
            if descriptor < 0:
                self._own.send(data)
            else:
                socket.send_fds(self._own, [data], [descriptor])
        except OSError:  # the process has ended, or takes no message
            return False
        return True

    def received(self) -> list[tuple[Message, list[int]]]:
        """The messages that have come, with their open files."""
        found: list[tuple[Message, list[int]]] = []
        while True:
            try:
                data, files, _, _ = socket.recv_fds(self._own, _MOST_BYTES, 1)
            except OSError:
                return found
            if not data:
                return found
            found.append((json.loads(data), files))

    def close(self) -> None:
        """In the supervisor: the worker has ended."""
        self._own.close()
        self._other.close()


def memory_file() -> int:
    """An open file that is in memory alone; what is forked has it, others are sent it."""
    return os.memfd_create("scoring-golden")


def whole(descriptor: int) -> bytes:
    """All that such a file holds."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
