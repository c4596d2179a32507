"""Any bytes as an Arrow stream: a table that can be written again, or an input error."""

from __future__ import annotations

import sys

import atheris
import numpy as np

with atheris.instrument_imports(include=["scoring_runtime.formats"]):
    from scoring_runtime.errors import InputError, NotAcceptable
    from scoring_runtime.formats import arrow_stream
    from scoring_runtime.values.content import Limits

LIMITS = Limits(rows=1_000, values=10_000, bytes=100_000)


def fuzz(data: bytes) -> None:
    """Read it and every value in it; write it, and read as many rows again."""
    try:
        content = arrow_stream.decode(data, LIMITS)
    except InputError:
        return
    arrays = {}
    for name, values in content[0].items():
        listed = values.tolist() if isinstance(values, np.ndarray) else values
        assert len(repr(listed)) >= 0
        assert len(listed) <= LIMITS.rows
        arrays[name] = values if isinstance(values, np.ndarray) else objects(listed)
    try:
        body = arrow_stream.encode(arrays)
    except NotAcceptable:
        return
    again = arrow_stream.decode(body, LIMITS._replace(bytes=1_000_000))[0]
    assert [len(each) for each in again.values()] == [len(each) for each in arrays.values()]


def objects(values: list[object]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """One object a row, whatever it is."""
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
