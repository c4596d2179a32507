"""Bodies that were valid until some bytes of them were changed, cut out or put in."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from scoring_runtime.errors import InputError

_TELLING = [
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"\x00" * 8,
]


@st.composite
def mutated(draw: st.DrawFn, bodies: Sequence[bytes]) -> bytes:
    """One of ``bodies`` with one to four changes."""
    body = bytearray(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        kind = draw(st.sampled_from(("flip", "cut", "end", "insert", "overwrite")))
        if kind == "flip" and at < len(body):
            body[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del body[at : at + draw(st.integers(1, 16))]
        elif kind == "end":
            del body[at:]
        else:
            piece = draw(st.sampled_from(_TELLING) | st.binary(min_size=1, max_size=8))
            body[at : at + (len(piece) if kind == "overwrite" else 0)] = piece
    return bytes(body)


def only_input_errors(read: Callable[[bytes], Any], body: bytes, most_memory: int) -> None:
    """``read`` gives a value or an InputError, and takes at most ``most_memory`` bytes for it."""
    tracemalloc.start()
    try:
        read(body)
    except InputError as error:
        assert str(error).endswith((".", ")"))
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < most_memory
