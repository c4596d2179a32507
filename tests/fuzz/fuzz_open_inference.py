"""Any bytes as a V2 request: it is one that can be written again, or an input error.

The first byte says which: bytes as they come, after two for the length of the header; or inputs
described by the fuzzer, mostly with as many bytes as they should have, which gets further. Run it
with ``-runs=100000`` and the options of libFuzzer.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["scoring_runtime"]):
    from scoring_runtime.errors import InputError, NotAcceptable
    from scoring_runtime.formats.open_inference import InferRequest, decode, encode, header_length
    from scoring_runtime.values.content import NUMPY_TYPES, Limits

LIMITS = Limits(rows=100, values=1000, bytes=10_000)
SIZES = {name: int(kind[-2:]) // 8 for name, kind in NUMPY_TYPES.items() if kind[-2:].isdigit()}
DATATYPES = [*NUMPY_TYPES, "FP8"]


def fuzz(data: bytes) -> None:
    """Read it, write what was read as binary tensors, and read those: the same."""
    body, length = as_it_comes(data[1:]) if data[:1] < b"\x80" else described(data[1:])
    try:
        if length is not None:
            length = header_length(b"%d" % length, body)
        request = decode(body, length, LIMITS)
    except InputError:
        return
    arrays = request.tensors.tensors
    count = sum(each.size for each in arrays.values())
    assert count <= LIMITS.values, count
    again = rewritten(request).tensors.tensors
    for name, values in arrays.items():
        assert (again[name].shape, again[name].dtype) == (values.shape, values.dtype), name
        if values.dtype == object:
            assert again[name].tolist() == values.tolist(), name
        else:
            assert again[name].tobytes() == values.tobytes(), name


def as_it_comes(data: bytes) -> tuple[bytes, int | None]:
    if len(data) < 2:
        return data, None
    length = struct.unpack("<h", data[:2])[0]
    return data[2:], None if length == 0 else length


def described(data: bytes) -> tuple[bytes, int]:
    """Up to three inputs, and bytes for them."""
    provider = atheris.FuzzedDataProvider(data)
    inputs, total = [], 0
    for name in "abc"[: provider.ConsumeIntInRange(1, 3)]:
        each, size = one_input(provider, name)
        inputs.append(each)
        total += max(size, 0)
    header = json.dumps({"inputs": inputs}).encode()
    raw = provider.ConsumeBytes(total).ljust(total, b"\0")
    return header + raw + provider.ConsumeBytes(provider.ConsumeIntInRange(0, 1)), len(header)


def one_input(provider: Any, name: str) -> tuple[dict[str, Any], int]:
    datatype = provider.PickValueInList(DATATYPES)
    shape = [provider.ConsumeIntInRange(0, 6) for _ in range(provider.ConsumeIntInRange(0, 3))]
    size = math.prod(shape) * SIZES.get(datatype, 1)
    if datatype == "BYTES" or provider.ConsumeIntInRange(0, 9) == 0:
        size = provider.ConsumeIntInRange(-1, 64)
    each = {"name": name, "datatype": datatype, "shape": shape}
    return each | {"parameters": {"binary_data_size": size}}, size


def rewritten(request: InferRequest) -> InferRequest:
    """The inputs as a response, which has the form of a request but for the name of its list."""
    arrays = request.tensors.tensors
    try:
        encode(arrays, request._replace(outputs=(), binary_default=False), "m", "1")
    except NotAcceptable:
        assert any(each.dtype == object for each in arrays.values())
    body, length = encode(arrays, request._replace(outputs=(), binary_default=True), "m", "1")
    assert length is not None
    response = json.loads(body[:length])
    header = json.dumps({"inputs": response["outputs"]}).encode()
    return decode(header + body[length:], len(header), LIMITS)


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
