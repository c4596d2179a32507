"""Any bytes as npy: an array that can be written again, or an input error."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["scoring_runtime.formats.npy"]):
    from scoring_runtime.errors import InputError
    from scoring_runtime.formats import npy
    from scoring_runtime.values.content import Limits

LIMITS = Limits(rows=1_000, values=10_000, bytes=100_000)


def fuzz(data: bytes) -> None:
    """Read it, and read what is written of it: the same array, to the bit."""
    try:
        content = npy.decode(data, LIMITS)
    except InputError:
        return
    values = content.values
    values.tolist()
    assert values.flags.aligned and values.dtype.isnative, values.dtype
    again = npy.decode(npy.encode({"y": values}), LIMITS)
    assert (again.values.shape, again.values.dtype) == (values.shape, values.dtype)
    assert again.values.tobytes() == values.tobytes()


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
