"""The Open Inference Protocol, V2: requests and responses in JSON and with binary tensors.

JSON as in https://github.com/kserve/open-inference-protocol,
``specification/protocol/inference_rest.md``. Binary tensors follow the JSON in the body, in the
order in which it names them; the HTTP header ``Inference-Header-Content-Length`` says where they
begin: https://github.com/triton-inference-server/server/blob/main/docs/protocol/
extension_binary_data.md. They are little-endian, row-major, nothing between the elements; BOOL is a
byte of 0 or 1, BYTES a length in 4 bytes and then the text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from ..errors import NotAcceptable, SchemaMismatch, UndecodableInput
from ..values.arrays import array
from ..values.content import NUMPY_TYPES, UNLIMITED, Limits, Spec, Tensors
from ..values.inputs import texts
from ..values.json_results import encoder
from ..values.wording import HALF_A_CHARACTER, check_columns, check_rows, check_values, short
from .guarded_json import parse

HEADER_LENGTH = "Inference-Header-Content-Length"
_BINARY_OUTPUT = "binary_data_output"
_OUTPUTS = {np.dtype(each): name for name, each in NUMPY_TYPES.items() if name != "BYTES"}
_MOST_DIMENSIONS = 32
_LONGEST_NAME = 1000
_DATATYPES = f"one of {', '.join(NUMPY_TYPES)}"
_SHAPES = f"a list of at most {_MOST_DIMENSIONS} lengths from 0"
_NAMES = f"text of 1 to {_LONGEST_NAME} characters"
_WIRE: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(numpy).newbyteorder("<")
    for name, numpy in NUMPY_TYPES.items()
    if name != "BYTES"
}
_TEXT_LENGTH = struct.Struct("<I")


class RequestedOutput(NamedTuple):
    """An output that the client asks for, and whether as binary data."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """A request as read.

    ``params`` are those of the request without ``binary_data_output``, which is
    ``binary_default``: whether outputs are binary when ``outputs`` names none.
    """

    id: str
    tensors: Tensors
    params: dict[str, Any]
    outputs: tuple[RequestedOutput, ...]
    binary_default: bool


class InferResponse(NamedTuple):
    """The body, and the length of its JSON part if binary tensors follow it."""

    body: bytes
    header_length: int | None


def is_infer_request(value: Any) -> bool:
    """Whether JSON is meant as a V2 request, complete or not: its first input looks like one."""
    inputs = value.get("inputs") if isinstance(value, dict) else None
    if not isinstance(inputs, list) or not inputs or not isinstance(inputs[0], dict):
        return False
    fields = (("name", str), ("datatype", str), ("shape", list))
    return sum(isinstance(inputs[0].get(field), kind) for field, kind in fields) >= 2


def header_length(value: bytes, body: bytes) -> int:
    """The length of the JSON in ``body`` that the header of this value says.

    Raises:
        UndecodableInput: it is none.
    """
    length = int(value) if value.isdigit() and len(value) < 19 else 0
    if not 0 < length <= len(body):
        raise UndecodableInput(
            f"{HEADER_LENGTH} is {value[:50].decode('latin-1')!r}; expected is the length in bytes "
            f"of the JSON that the body begins with, of its {len(body)}. Raw tensors without JSON "
            "are not supported."
        )
    return length


def decode(
    body: bytes, header_length: int | None, limits: Limits, parsed: Any = None
) -> InferRequest:
    """The request in a body: JSON (``parsed``, if it was read already) of ``header_length`` bytes,
    then the binary tensors; None: there are none.

    Rows are the first length of a shape, values those of all inputs together.

    Raises:
        UndecodableInput: not JSON, or not as many bytes as it says follow.
        SchemaMismatch: not a request of V2, or data that is not what its datatype and shape say.
        InputTooLarge: more than the limits allow; nothing was allocated.
    """
    instead = "Send binary data, or fewer rows at once."
    request = parsed
    if parsed is None:
        request = parse(body[:header_length], limits, "The V2 request", instead)
    if not isinstance(request, dict):
        raise SchemaMismatch(
            f'The V2 request is {short(request)}; expected is an object with "inputs".'
        )
    params = _parameters(request, "The request")
    binary = _flag(params, _BINARY_OUTPUT, False, "The request")
    tensors = _Inputs(body, header_length, limits).read(request.get("inputs"))
    identifier = request.get("id")
    _expect(identifier is None or _is_text(identifier), "The V2 request", identifier, "id", "text")
    return InferRequest(
        identifier or "",
        Tensors(tensors),
        {key: value for key, value in params.items() if key != _BINARY_OUTPUT},
        _requested(request.get("outputs"), binary),
        binary,
    )


def encode(
    outputs: Mapping[str, NDArray[Any]],
    request: InferRequest,
    model_name: str,
    model_version: str,
    nan: str = "null",
) -> InferResponse:
    """The response with the outputs that the request asks for, in its order.

    Numbers and booleans keep their datatype, anything else is BYTES. Data in JSON is flat; NaN and
    Infinity become what ``nan`` says, as in :func:`scoring_runtime.values.json_results.encoder`.

    Raises:
        SchemaMismatch: an output is asked for that there is not.
        NotAcceptable: an output holds what is no text, and is to be JSON.
        ResultNotSerializable: NaN, when ``nan`` says so.
    """
    document: dict[str, Any] = {"model_name": model_name}
    if model_version:
        document["model_version"] = model_version
    if request.id:
        document["id"] = request.id
    described: list[dict[str, Any]] = []
    tail: list[Any] = []
    for name, binary in _wanted(outputs, request):
        output, data = _output_tensor(name, outputs[name], binary, nan)
        described.append(output)
        if data is not None:
            tail.append(data)
    document["outputs"] = described
    header = orjson.dumps(document, None, orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return InferResponse(header, None)
    return InferResponse(b"".join((header, *tail)), len(header))


def model_metadata(
    name: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
) -> dict[str, Any]:
    """The model metadata response; -1 in a shape goes for any length."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": [_tensor_metadata(spec) for spec in inputs],
        "outputs": [_tensor_metadata(spec) for spec in outputs],
    }


def server_metadata(name: str, version: str) -> dict[str, Any]:
    """The server metadata response, with the one extension of the protocol that there is here."""
    return {"name": name, "version": version, "extensions": ["binary_tensor_data"]}


# --- the request ----------------------------------------------------------------------------------


def _expect(ok: object, where: str, value: Any, field: str, expected: str) -> None:
    if not ok:
        got = "nothing" if value is None else short(value)
        raise SchemaMismatch(f"{where} has {got} as {field}; expected is {expected}.")


def _requested(outputs: Any, binary: bool) -> tuple[RequestedOutput, ...]:
    outputs = [] if outputs is None else outputs
    _expect(isinstance(outputs, list), "The V2 request", outputs, "outputs", "a list")
    asked: dict[str, RequestedOutput] = {}
    for index, each in enumerate(outputs):
        name = _named(each, f"outputs[{index}]")
        where = f"The output {name!r}"
        if name in asked:
            raise SchemaMismatch(f"{where} is asked for twice.")
        asked[name] = RequestedOutput(
            name, _flag(_parameters(each, where), "binary_data", binary, where)
        )
    return tuple(asked.values())


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not HALF_A_CHARACTER.search(value)


def _named(holder: Any, where: str) -> str:
    """The name of an input or output."""
    if not isinstance(holder, dict):
        raise SchemaMismatch(f"{where} is {short(holder)}; expected is an object with a name.")
    name: Any = holder.get("name")
    ok = _is_text(name) and 0 < len(name) <= _LONGEST_NAME
    _expect(ok, where, name, "name", _NAMES)
    return str(name)


def _parameters(holder: dict[str, Any], where: str) -> dict[str, Any]:
    """The parameters of a request, an input or an output; none are empty."""
    params = holder.get("parameters")
    params = {} if params is None else params
    _expect(isinstance(params, dict), where, params, "parameters", "an object")
    for name in ("shared_memory_region", "classification"):
        if name in params:
            raise SchemaMismatch(
                f"{where}: the parameter {name} is not supported; tensors go in the body, as JSON "
                "or binary data."
            )
    return dict(params)


def _flag(params: dict[str, Any], key: str, default: bool, where: str) -> bool:
    """A parameter that is true or false."""
    value = params.get(key, default)
    _expect(type(value) is bool, where, value, key, "true or false")
    return bool(value)


# --- JSON and binary data -------------------------------------------------------------------------


class _Inputs:
    """Reads the inputs of a request one after the other; ``start`` is where its binary tensors
    begin, None if there is only JSON."""

    def __init__(self, body: bytes, start: int | None, limits: Limits) -> None:
        self._body = body
        self._binary = start is not None
        self._at = len(body) if start is None else start
        self._limits = limits
        self._values = 0

    def read(self, inputs: Any) -> dict[str, NDArray[Any]]:
        expected = "a list of at least one object with name, datatype, shape and data"
        ok = isinstance(inputs, list) and inputs
        _expect(ok, "The V2 request", inputs, "inputs", expected)
        check_columns(len(inputs), self._limits, "The V2 request", "inputs")
        tensors: dict[str, NDArray[Any]] = {}
        for index, each in enumerate(inputs):
            spec = self._described(each, f"inputs[{index}]")
            if spec.name in tensors:
                raise SchemaMismatch(f"The input {spec.name!r} is there twice.")
            tensors[spec.name] = self._tensor(each, spec)
        if self._at != len(self._body):
            raise UndecodableInput(
                f"The body has {len(self._body) - self._at} bytes after the binary data of its "
                f"inputs. The JSON part ({HEADER_LENGTH}) and binary_data_size of the inputs must "
                "add up to the body."
            )
        return tensors

    def _described(self, each: Any, where: str) -> Spec:
        name = _named(each, where)
        where = f"The input {name!r}"
        datatype, shape = each.get("datatype"), each.get("shape")
        known = isinstance(datatype, str) and datatype in NUMPY_TYPES
        _expect(known, where, datatype, "datatype", _DATATYPES)
        ok = isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS
        ok = ok and all(type(length) is int and length >= 0 for length in shape)
        _expect(ok, where, shape, "shape", _SHAPES)
        check_rows(shape[0] if shape else 0, self._limits, where)
        # A length of 0 must not hide that numpy cannot hold the others.
        self._values += math.prod(length or 1 for length in shape)
        check_values(self._values, self._limits, "The V2 request")
        return Spec(name, datatype, tuple(shape))

    def _tensor(self, each: dict[str, Any], spec: Spec) -> NDArray[Any]:
        where = f"The input {spec.name!r}"
        params, data = _parameters(each, where), each.get("data")
        size = params.get("binary_data_size")
        if (size is None) == (data is None):
            both = "neither data nor" if data is None else "both data and"
            raise SchemaMismatch(
                f"{where} has {both} the parameter binary_data_size; exactly one is expected."
            )
        if size is None:
            return _from_json(data, spec)
        start = self._at
        self._at = self._end(size, where)
        return _from_bytes(self._body, start, size, spec)

    def _end(self, size: Any, where: str) -> int:
        ok = type(size) is int and size >= 0
        _expect(ok, where, size, "binary_data_size", "a number of bytes")
        if not self._binary:
            raise SchemaMismatch(
                f"{where} has binary_data_size, but the header {HEADER_LENGTH}, which says where "
                "the binary data begins, is missing."
            )
        if size > len(self._body) - self._at:
            raise UndecodableInput(
                f"{where} has {short(size)} as binary_data_size, but only "
                f"{len(self._body) - self._at} bytes are left in the body."
            )
        return self._at + int(size)


def _from_json(data: Any, spec: Spec) -> NDArray[Any]:
    """The tensor that JSON values give, read as other JSON, flat in row-major order or nested as
    the shape says; null is None among BYTES, a single value is the data of the shape ``()``."""
    data = [data] if not spec.shape and type(data) is not list else data
    where = f"The input {spec.name!r}"
    _expect(type(data) is list, where, data, "data", "a list of values")
    if data and type(data[0]) is list and spec.datatype != "BYTES":
        return array(data, spec, UNLIMITED)
    if spec.datatype == "BYTES":
        data = np.array(data, dtype=object).reshape(-1).tolist()
    count = math.prod(spec.shape)
    if len(data) != count:
        raise SchemaMismatch(
            f"The input {spec.name!r} has {len(data)} values in data; its shape "
            f"{list(spec.shape)} has {count}."
        )
    flat = spec._replace(shape=(count,))
    made = (
        texts(data, flat, UNLIMITED) if spec.datatype == "BYTES" else array(data, flat, UNLIMITED)
    )
    return made.reshape(spec.shape)


def _from_bytes(body: bytes, start: int, size: int, spec: Spec) -> NDArray[Any]:
    """The tensor in the ``size`` bytes of ``body`` from ``start``; read-only unless it is text.

    It shares the memory of ``body``, except where its elements would not be aligned. BYTES become
    ``str``, or ``bytes`` where they are not UTF-8.
    """
    count = math.prod(spec.shape)
    if spec.datatype == "BYTES":
        return _texts_of(body, start, size, spec, count)
    wire = _WIRE[spec.datatype]
    if size != count * wire.itemsize:
        raise SchemaMismatch(
            f"The input {spec.name!r} has binary_data_size {size}; {list(spec.shape)} of "
            f"{spec.datatype} are {count * wire.itemsize} bytes."
        )
    flat: NDArray[Any] = np.frombuffer(body, wire, count, start)
    if spec.datatype == "BOOL":
        if count and (raw := flat.view(np.uint8)).max() > 1:
            at = int(np.argmax(raw > 1))
            raise SchemaMismatch(
                f"The input {spec.name!r}: its byte {at} is {raw[at]}; BOOL is a byte of 0 or 1."
            )
    elif not flat.flags.aligned:
        flat = flat.copy()  # Cython refuses what is not aligned
    flat.flags.writeable = False
    return flat.reshape(spec.shape)


def _texts_of(body: bytes, start: int, size: int, spec: Spec, count: int) -> NDArray[np.object_]:
    if count * _TEXT_LENGTH.size > size:
        raise SchemaMismatch(
            f"The input {spec.name!r} has binary_data_size {size}; {list(spec.shape)} of BYTES "
            f"are at least {count * _TEXT_LENGTH.size} bytes, as each has a length of 4 bytes."
        )
    end = start + size
    made = np.empty(count, dtype=object)
    for index in range(count):
        text = start + _TEXT_LENGTH.size
        start = text + _TEXT_LENGTH.unpack_from(body, start)[0] if text <= end else end + 1
        if start > end:
            raise UndecodableInput(
                f"The input {spec.name!r}: element {index} of BYTES goes beyond the {size} bytes "
                "of its binary_data_size. Each is a little-endian length in 4 bytes and its text."
            )
        made[index] = _decoded(body[text:start])
    if start != end:
        raise UndecodableInput(
            f"The input {spec.name!r} has {end - start} bytes left after the {count} elements "
            f"that its shape {list(spec.shape)} has."
        )
    return made.reshape(spec.shape)


def _decoded(encoded: bytes) -> str | bytes:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded


# --- the response ---------------------------------------------------------------------------------


def _wanted(
    outputs: Mapping[str, NDArray[Any]], request: InferRequest
) -> Sequence[RequestedOutput]:
    if not request.outputs:
        return [RequestedOutput(name, request.binary_default) for name in outputs]
    unknown = [repr(each.name) for each in request.outputs if each.name not in outputs]
    if unknown:
        raise SchemaMismatch(
            f"Unknown outputs are asked for: {', '.join(unknown[:10])}. There are: "
            f"{', '.join(map(repr, outputs))}."
        )
    return request.outputs


def _tensor_metadata(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _output_tensor(
    name: str, given: NDArray[Any], binary: bool, nan: str
) -> tuple[dict[str, Any], bytes | NDArray[Any] | None]:
    """An output as the response describes it, and its binary data if it is to be that.

    Missing text is null in JSON, and empty in binary data, which has no other way to say it.
    """
    datatype, values = _as_sent(given)
    output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": given.shape}
    if not binary:
        output["data"] = _texts(values, name) if datatype == "BYTES" else _numbers(values, nan)
        return output, None
    data = _to_bytes(values)
    size = len(data) if isinstance(data, bytes) else data.nbytes
    output["parameters"] = {"binary_data_size": size}
    return output, data


def _as_sent(values: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """The datatype, and the values in it; text is flat, as objects."""
    datatype = _OUTPUTS.get(values.dtype)
    if datatype is not None:
        return datatype, values
    if values.dtype.kind in "fiu":
        long = values.dtype.itemsize > 8
        values = values.astype(np.float64 if long else values.dtype.newbyteorder("="))
        return _OUTPUTS[values.dtype], values
    if values.dtype.kind in "mM":
        values = values.astype(f"{values.dtype.kind}8[us]")
    made = np.empty(values.size, dtype=object)
    made[:] = [_text(value) for value in values.reshape(-1).tolist()]
    return "BYTES", made


def _text(value: Any) -> str | bytes | None:
    if value is None or isinstance(value, str | bytes):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _numbers(values: NDArray[Any], nan: str) -> Any:
    if nan != "null" and values.dtype.kind == "f" and not np.isfinite(values).all():
        return orjson.Fragment(encoder(nan)(values.reshape(-1).tolist()))
    return np.ascontiguousarray(values).reshape(-1)


def _texts(values: NDArray[Any], name: str) -> list[str | None]:
    try:
        made = [each.decode() if isinstance(each, bytes) else each for each in values.tolist()]
        "".join(filter(None, made)).encode()
    except UnicodeError:
        raise NotAcceptable(
            f"The output {name!r} holds bytes that are not UTF-8, which JSON cannot carry: ask for "
            'it with the parameter "binary_data": true.'
        ) from None
    return made


def _to_bytes(values: NDArray[Any]) -> bytes | NDArray[Any]:
    """A tensor as the bytes, or as an array that lies in memory like them."""
    if values.dtype.kind != "O":
        return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    parts: list[bytes] = []
    for value in values.reshape(-1).tolist():
        text = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value or b""
        parts += (_TEXT_LENGTH.pack(len(text)), text)
    return b"".join(parts)
