"""The Open Inference Protocol, V2: requests and responses in JSON and with binary tensors.

JSON as in https://github.com/kserve/open-inference-protocol,
``specification/protocol/inference_rest.md``. Binary tensors follow the JSON in the body, in the
order in which it names them; the HTTP header ``Inference-Header-Content-Length`` says where they
begin: https://github.com/triton-inference-server/server/blob/main/docs/protocol/
extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from numpy.typing import NDArray

from ..errors import SchemaMismatch, UndecodableInput
from ..values.content import Limits, Spec, Tensors
from .guarded_json import parse
from .infer_tensors import HEADER_LENGTH, Inputs, flag, named, output_tensor, parameters
from .json_tensors import is_utf8, shown

_BINARY_OUTPUT = "binary_data_output"


class RequestedOutput(NamedTuple):
    """An output that the client asks for, and whether as binary data."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """A request as read.

    ``datatypes`` are as sent: an input of BF16 is an array of float32. ``params`` are those of the
    request without ``binary_data_output``, which is ``binary_default``: whether outputs are binary
    when ``outputs`` names none.
    """

    id: str
    tensors: Tensors
    datatypes: dict[str, str]
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


def decode(
    body: bytes, header_length: int | None, limits: Limits, parsed: Any = None
) -> InferRequest:
    """The request in a body.

    Args:
        body: JSON, then the binary tensors if there are any.
        header_length: of the JSON, in bytes; None: there is nothing else.
        limits: rows are the first length of a shape, values those of all inputs together.
        parsed: the JSON, if it was read already.

    Raises:
        UndecodableInput: not JSON, or not as many bytes as it says follow.
        SchemaMismatch: not a request of V2, or data that is not what its datatype and shape say.
        InputTooLarge: more than the limits allow; nothing was allocated.
    """
    _check_header_length(header_length, body)
    request = _parsed(body[:header_length], limits) if parsed is None else parsed
    if not isinstance(request, dict):
        raise SchemaMismatch(
            f'The V2 request is {shown(request)}; expected is an object with "inputs".'
        )
    params = parameters(request, "The request")
    binary = flag(params, _BINARY_OUTPUT, False, "The request")
    tensors, datatypes = Inputs(body, header_length, limits).read(request.get("inputs"))
    return InferRequest(
        _identifier(request.get("id")),
        Tensors(tensors),
        datatypes,
        {key: value for key, value in params.items() if key != _BINARY_OUTPUT},
        _requested(request.get("outputs"), binary),
        binary,
    )


def encode(
    outputs: Mapping[str, NDArray[Any]],
    request: InferRequest,
    model_name: str,
    model_version: str,
    parameters: Mapping[str, Any] | None = None,
    nan: str = "null",
) -> InferResponse:
    """The response with the outputs that the request asks for, in its order.

    Numbers and booleans keep their datatype, anything else is BYTES. Data in JSON is flat.

    Args:
        outputs: the arrays by name.
        request: what they answer.
        model_name: of the model.
        model_version: empty: it has none.
        parameters: of the response.
        nan: what NaN and Infinity become in JSON, as in
            :func:`scoring_runtime.values.json_results.encoder`.

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
    if parameters:
        document["parameters"] = parameters
    described: list[dict[str, Any]] = []
    tail: list[Any] = []
    for name, binary in _wanted(outputs, request):
        output, data = output_tensor(name, outputs[name], binary, nan)
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


def _check_header_length(length: int | None, body: bytes) -> None:
    if length is not None and not 0 < length <= len(body):
        raise UndecodableInput(
            f"{HEADER_LENGTH} is {length} for a body of {len(body)} bytes; expected is the length "
            "of the JSON that it begins with. Raw tensors without JSON are not supported."
        )


def _parsed(text: bytes, limits: Limits) -> Any:
    return parse(text, limits, "The V2 request", "Send binary data, or fewer rows at once.")


def _requested(outputs: Any, binary: bool) -> tuple[RequestedOutput, ...]:
    if outputs is None:
        return ()
    if not isinstance(outputs, list):
        raise SchemaMismatch(
            f'The V2 request has {shown(outputs)} as "outputs"; a list is expected.'
        )
    asked: dict[str, RequestedOutput] = {}
    for index, each in enumerate(outputs):
        name = named(each, f"outputs[{index}]")
        where = f"The output {name!r}"
        if name in asked:
            raise SchemaMismatch(f"{where} is asked for twice.")
        params = parameters(each, where)
        if "classification" in params:
            raise SchemaMismatch(f"{where}: the parameter classification is not supported.")
        asked[name] = RequestedOutput(name, flag(params, "binary_data", binary, where))
    return tuple(asked.values())


def _identifier(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not is_utf8(value):
        raise SchemaMismatch(f"The V2 request has {shown(value)} as id; expected is text.")
    return value


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
