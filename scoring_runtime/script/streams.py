"""The parts of a streaming response, made in the scoring thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..errors import InputError
from .call import run_failed


def close_stream(body: Iterator[bytes]) -> None:
    """Close a generator that is left before its end."""
    close = getattr(body, "close", None)
    if close is not None:
        close()


def next_chunk(body: Iterator[bytes]) -> bytes | None:
    """The next part, None at the end; RunFailed when making it raised."""
    try:
        return next(body, None)
    except InputError:
        raise
    except BaseException as error:
        raise run_failed(error) from error


def joined_stream(body: Iterator[bytes]) -> bytes:
    """All parts as one, the stream closed after it."""
    try:
        return b"".join(iter(partial(next_chunk, body), None))
    finally:
        close_stream(body)
