"""Open Inference Protocol, V2: tritonclient reads what is written here, and the other way round."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scoring_runtime.errors import (
    InputError,
    InputTooLarge,
    NotAcceptable,
    ResultNotSerializable,
    SchemaMismatch,
    UndecodableInput,
)
from scoring_runtime.formats.open_inference import (
    InferRequest,
    RequestedOutput,
    decode,
    encode,
    is_infer_request,
    model_metadata,
    server_metadata,
)
from scoring_runtime.values.content import NUMPY_TYPES, Limits, Spec, Tensors

LIMITS = Limits(rows=1000, values=100_000, bytes=10_000_000)
INT32 = "INT32, whole numbers from -2147483648 to 2147483647"
FP32 = "FP32, numbers up to 3.4e+38"

# Values at the edges of each datatype, and the text that JSON has for them.
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 65535],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 1, 2**64 - 1],
    "INT8": [-128, 1, 127],
    "INT16": [-32768, 1, 32767],
    "INT32": [-(2**31), 1, 2**31 - 1],
    "INT64": [-(2**63), 1, 2**63 - 1],
    "FP16": [-65504.0, 0.5, 6e-08],
    "FP32": [-3.4028234663852886e38, 0.1, 1e-45],
    "FP64": [-1.7976931348623157e308, 0.1, 5e-324],
    "BYTES": ["", "a\0b", "é 日本 🙂"],
}


def array(datatype: str, values: list[Any] | None = None) -> np.ndarray[Any, Any]:
    given = VALUES[datatype] if values is None else values
    return np.array(given, dtype=NUMPY_TYPES[datatype])


def triton_request(
    arrays: dict[str, tuple[str, np.ndarray[Any, Any]]],
    binary: bool | dict[str, bool] = True,
    outputs: list[Any] | None = None,
    **more: Any,
) -> tuple[bytes, int | None]:
    """The body and header length that tritonclient sends."""
    inputs = []
    for name, (datatype, values) in arrays.items():
        each = triton.InferInput(name, list(values.shape), datatype)
        as_binary = binary if isinstance(binary, bool) else binary[name]
        each.set_data_from_numpy(values, binary_data=as_binary)
        inputs.append(each)
    made = triton.InferenceServerClient.generate_request_body(inputs, outputs=outputs, **more)
    return bytes(made[0]), made[1]


def triton_result(response: tuple[bytes, int | None]) -> Any:
    """What tritonclient reads."""
    body, length = response
    return triton.InferenceServerClient.parse_response_body(body, header_length=length)


def request(*outputs: tuple[str, bool], binary: bool = False, id: str = "") -> InferRequest:
    asked = tuple(RequestedOutput(*each) for each in outputs)
    return InferRequest(id, Tensors({}), {}, asked, binary)


def json_request(datatype: str, data: Any, shape: list[int], **more: Any) -> bytes:
    each = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return json.dumps({"inputs": [each], **more}).encode()


def binary_request(
    datatype: str, raw: bytes, shape: list[int], size: Any = None
) -> tuple[bytes, int]:
    parameters = {"binary_data_size": len(raw) if size is None else size}
    each = {"name": "x", "datatype": datatype, "shape": shape, "parameters": parameters}
    header = json.dumps({"inputs": [each]}).encode()
    return header + raw, len(header)


def decoded(
    body: bytes, length: int | None = None, limits: Limits = LIMITS
) -> np.ndarray[Any, Any]:
    made = decode(body, length, limits).tensors.tensors["x"]
    assert isinstance(made, np.ndarray)
    return made


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """To the bit, NaN included."""
    if one.dtype == object:
        return one.shape == other.shape and bool(one.tolist() == other.tolist())
    return (
        one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    )


# --- requests of tritonclient ---------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", VALUES)
def test_tritonclient_sends_and_reads_each_datatype(datatype: str, binary: bool) -> None:
    sent = array(datatype).reshape(1, 3)
    made = decode(*triton_request({"x": (datatype, sent)}, binary), LIMITS).tensors.tensors["x"]
    assert same(made, sent)
    response = encode({"y": made}, request(binary=binary), "m", "3")
    result = triton_result(response)
    assert result.get_output("y")["datatype"] == datatype
    assert result.get_output("y")["shape"] == [1, 3]
    back = result.as_numpy("y")
    if datatype == "BYTES" and binary:
        back = np.array([[each.decode() for each in back.reshape(-1)]], dtype=object)
    assert same(back, sent)
    assert (response.header_length is not None) is binary


def test_what_tritonclient_asks_for_is_read() -> None:
    """Id, parameters, and each output with its own way; without outputs all are binary."""
    one = {"x": ("FP32", array("FP32"))}
    outputs = [
        triton.InferRequestedOutput("p", binary_data=False),
        triton.InferRequestedOutput("q", binary_data=True),
    ]
    made = decode(
        *triton_request(one, outputs=outputs, request_id="r 1", parameters={"alpha": 0.5}), LIMITS
    )
    assert made.id == "r 1"
    assert made.params == {"alpha": 0.5}
    assert made.outputs == (RequestedOutput("p", False), RequestedOutput("q", True))
    assert made.binary_default is False
    plain = decode(*triton_request(one), LIMITS)
    assert (plain.id, plain.params, plain.outputs, plain.binary_default) == ("", {}, (), True)


def test_outputs_follow_binary_data_output_unless_they_say_otherwise() -> None:
    outputs = [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}]
    body = json_request(
        "BOOL", [True], [1], outputs=outputs, parameters={"binary_data_output": True}
    )
    assert decode(body, None, LIMITS).outputs == (
        RequestedOutput("a", True),
        RequestedOutput("b", False),
    )


def test_json_that_was_parsed_already_is_not_parsed_again() -> None:
    each = {"name": "ä 名", "datatype": "FP32", "shape": [1], "data": [1.5]}
    made = decode(b"never parsed", None, LIMITS, {"inputs": [each], "id": "7"})
    assert same(made.tensors.tensors["ä 名"], np.array([1.5], np.float32))
    assert made.id == "7"


def test_binary_tensors_are_aligned_and_share_the_body_where_they_can() -> None:
    """Spaces after the JSON move the tensor over each offset; the values never change."""
    sent = np.arange(6, dtype=np.float64)
    body, length = binary_request("FP64", sent.tobytes(), [6])
    shared = 0
    for spaces in range(8):
        padded = body[:length] + b" " * spaces + body[length:]
        made = decoded(padded, length + spaces)
        assert same(made, sent)
        assert made.flags.aligned
        assert not made.flags.writeable
        shared += np.shares_memory(made, np.frombuffer(padded, np.uint8))
    assert shared == 1


def test_bytes_that_are_no_text_stay_bytes() -> None:
    sent = np.array([b"\xff\xfe", b"plain", b""], dtype=object)
    body, length = triton_request({"x": ("BYTES", sent)})
    assert decoded(body, length).tolist() == [b"\xff\xfe", "plain", ""]


# --- JSON data ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datatype", "data", "shape", "expected"),
    [
        ("FP32", [[1, 2.5], [3, 4]], [2, 2], [[1, 2.5], [3, 4]]),
        ("INT8", [[[1], [2]], [[3], [4]]], [2, 2, 1], [[[1], [2]], [[3], [4]]]),
        ("BYTES", [["a", "b"]], [1, 2], [["a", "b"]]),
        ("FP64", 2.5, [], 2.5),
        ("INT64", [], [0, 3], []),
        ("INT32", [2.0, -0.0], [2], [2, 0]),
        ("FP64", [2**70], [1], [2.0**70]),
        ("FP16", [65519], [1], [65504]),
    ],
    ids=str,
)
def test_json_data_is_flat_or_nested(datatype: str, data: Any, shape: Any, expected: Any) -> None:
    made = decoded(json_request(datatype, data, shape))
    assert same(made, array(datatype, expected).reshape(shape))


def test_null_is_nan_where_floats_are() -> None:
    made = decoded(json_request("FP32", [None, 1], [2]))
    assert made.dtype == np.float32
    assert np.isnan(made).tolist() == [True, False]


def test_json_data_are_read_as_other_json() -> None:
    """Numbers written as text are numbers, true and false are 1 and 0."""
    assert decoded(json_request("FP32", ["1.5", True], [2])).tolist() == [1.5, 1.0]
    assert decoded(json_request("INT64", [0, True, 2.0], [3])).tolist() == [0, 1, 2]
    assert decoded(json_request("BOOL", [1, False], [2])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("datatype", "data", "shape", "message"),
    [
        ("INT8", [1, 128], [2], "at [1] is 128; expected is [2] of INT8, whole numbers from -128"),
        ("UINT8", [-1], [1], "at [0] is -1; expected is [1] of UINT8, whole numbers from 0 to 255"),
        ("INT32", [[1, 2], [3, 4.5]], [2, 2], f"at [1][1] is 4.5; expected is [2, 2] of {INT32}"),
        ("INT32", [None], [1], f"at [0] is null; expected is [1] of {INT32}"),
        ("FP32", ["a"], [1], f"at [0] is text 'a'; expected is [1] of {FP32}"),
        ("FP32", [1e39], [1], f"at [0] is 1e+39; expected is [1] of {FP32}"),
        ("FP64", [10**400], [1], "expected is [1] of FP64, numbers up to 1.8e+308"),
        ("FP16", [65520], [1], "expected is [1] of FP16, numbers up to 6.55e+04"),
        ("BOOL", [True, 2], [2], "at [1] is 2; expected is [2] of BOOL, true or false"),
        ("BYTES", ["a", 98], [2], "at [1] is 98; expected is [2] of BYTES, text"),
        ("BYTES", ["\ud800"], [1], "at [0] is text with half a character, which is no Unicode"),
        ("FP32", [1, [2]], [2], "at [1] is a list of 1; expected is [2] of FP32"),
        ("FP32", [[1], [2]], [2], "has the shape [2, 1]; expected is [2] of FP32"),
        ("FP32", [[1, 2], [3]], [2, 2], "at [1] are 1 values, where [0] has 2"),
        ("FP32", [[1, 2]], [2, 2], "has the shape [1, 2]; expected is [2, 2] of FP32"),
        ("FP32", [1, 2, 3], [2, 2], "has 3 values in data; its shape [2, 2] has 4"),
        ("FP32", 1, [1], "has 1 as data; expected is a list of values"),
    ],
)
def test_json_data_that_does_not_fit_is_named(
    datatype: str, data: Any, shape: Any, message: str
) -> None:
    """The input, the place, the value and what is allowed."""
    with pytest.raises(SchemaMismatch, match=re.escape(message)) as caught:
        decode(json_request(datatype, data, shape), None, LIMITS)
    assert str(caught.value).startswith("The input 'x'")


def test_a_number_beyond_all_floats_is_infinite_only_in_fp64() -> None:
    """JSON's 1e999 is what Python's parser makes of it, as Infinity is."""
    body = json_request("FP64", [0], [1]).replace(b"[0]", b"[1e999]")
    assert decoded(body).tolist() == [float("inf")]


# --- requests that are wrong ----------------------------------------------------------------------

GOOD = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "missing": (None, "The V2 request has nothing as inputs; expected is a list of at least one"),
    "empty": ([], "The V2 request has a list of 0 as inputs"),
    "no objects": ([1], "inputs[0] is 1; expected is an object with a name"),
    "no name": ([GOOD | {"name": None}], "inputs[0] has nothing as name; expected is text"),
    "name a number": ([GOOD, GOOD | {"name": 3}], "inputs[1] has 3 as name"),
    "name too long": ([GOOD | {"name": "n" * 1001}], "as name; expected is text of 1 to 1000"),
    "same name": ([GOOD, GOOD], "The input 'x' is there twice"),
    "no datatype": (
        [GOOD | {"datatype": None}],
        "The input 'x' has nothing as datatype; expected is one of BOOL, UINT8, UINT16, UINT32, "
        "UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BYTES.",
    ),
    "datatype a list": ([GOOD | {"datatype": ["FP32"]}], "has a list of 1 as datatype"),
    "shape a number": ([GOOD | {"shape": 1}], "has 1 as shape; expected is a list"),
    "shape negative": (
        [GOOD | {"shape": [-1]}],
        "has a list of 1 as shape; expected is a list of at most 32 lengths from 0",
    ),
    "shape a boolean": (
        [GOOD | {"shape": [True]}],
        "has a list of 1 as shape; expected is a list of",
    ),
    "shape of 33": ([GOOD | {"shape": [1] * 33}], "expected is a list of at most 32 lengths"),
    "parameters a list": ([GOOD | {"parameters": []}], "has a list of 0 as parameters"),
    "no data": (
        [GOOD | {"data": None}],
        "The input 'x' has neither data nor the parameter binary_data_size; exactly one",
    ),
    "data twice": (
        [GOOD | {"parameters": {"binary_data_size": 4}}],
        "The input 'x' has both data and the parameter binary_data_size; exactly one is expected",
    ),
    "size without header": (
        [GOOD | {"data": None, "parameters": {"binary_data_size": 4}}],
        "but the header Inference-Header-Content-Length, which says where the binary data begins, "
        "is missing",
    ),
    "shared memory": (
        [GOOD | {"data": None, "parameters": {"shared_memory_region": "r"}}],
        "The input 'x': the parameter shared_memory_region is not supported",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_wrong_input_is_a_mismatch_that_says_what_is_expected(case: str) -> None:
    inputs, message = BAD_INPUTS[case]
    with pytest.raises(SchemaMismatch, match=re.escape(message)):
        decode(json.dumps({"inputs": inputs}).encode(), None, LIMITS)


def output(**parameters: Any) -> list[Any]:
    return [{"name": "y", "parameters": parameters}]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", 7, "The V2 request has 7 as id; expected is text"),
        ("parameters", 1, "The request has 1 as parameters; expected is an object"),
        ("parameters", {"binary_data_output": 1}, "has 1 as binary_data_output; expected is true"),
        ("outputs", {}, "The V2 request has an object as outputs; expected is a list"),
        ("outputs", ["y"], "outputs[0] is text 'y'; expected is an object with a name"),
        ("outputs", output() * 2, "The output 'y' is asked for twice"),
        ("outputs", output(binary_data="yes"), "The output 'y' has text 'yes' as binary_data"),
        ("outputs", output(classification=3), "'y': the parameter classification is not supported"),
    ],
)
def test_a_wrong_field_is_a_mismatch_that_says_what_is_expected(
    field: str, value: Any, message: str
) -> None:
    with pytest.raises(SchemaMismatch, match=re.escape(message)):
        decode(json.dumps({"inputs": [GOOD], field: value}).encode(), None, LIMITS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "The V2 request could not be decoded as JSON: "),
        (b"[" * 100_000, "The V2 request is JSON that is nested too deeply."),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "The V2 request could not be decoded as JSON: "),
    ],
    ids=["cut", "deep", "long number"],
)
def test_what_is_no_json_cannot_be_decoded(body: bytes, message: str) -> None:
    with pytest.raises(UndecodableInput, match=f"^{re.escape(message)}"):
        decode(body, None, LIMITS)
    with pytest.raises(SchemaMismatch, match='expected is an object with "inputs"'):
        decode(b"[]", None, LIMITS)


# --- binary data that is wrong --------------------------------------------------------------------


MISMATCH, CUT = SchemaMismatch, UndecodableInput


@pytest.mark.parametrize(
    ("datatype", "raw", "shape", "size", "error", "message"),
    [
        ("FP32", b"1234", [2], None, MISMATCH, "has binary_data_size 4; [2] of FP32 are 8 bytes"),
        ("FP32", b"1234", [1], 5, CUT, "has 5 as binary_data_size, but only 4 bytes"),
        ("FP32", b"12345", [1], 4, CUT, "The body has 1 bytes after the binary data"),
        ("FP32", b"1234", [1], -4, MISMATCH, "has -4 as binary_data_size; expected"),
        ("UINT8", b"1", [1], True, MISMATCH, "has true as binary_data_size; expected"),
        ("BOOL", b"\0\1\2", [3], None, MISMATCH, "its byte 2 is 2; BOOL is a byte of 0 or 1"),
        ("BYTES", b"\1\0\0\0", [1], None, CUT, "element 0 of BYTES goes beyond the 4 bytes"),
        ("BYTES", b"\4\0\0\0abcd\0\0\0", [2], None, CUT, "element 1 of BYTES goes beyond the 11"),
        ("BYTES", b"\0\0\0\0a", [1], None, CUT, "has 1 bytes left after the 1 elements"),
        ("BYTES", b"\0\0\0", [1], None, MISMATCH, "[1] of BYTES are at least 4"),
    ],
)
def test_binary_data_must_be_as_long_as_it_says(
    datatype: str, raw: bytes, shape: Any, size: Any, error: type[InputError], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        decode(*binary_request(datatype, raw, shape, size), LIMITS)


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "setting"),
    [
        ([5, 1], "SCORING_MAX_ROWS"),
        ([4, 3], "SCORING_MAX_VALUES"),
        ([0, 9], "SCORING_MAX_VALUES"),
        ([4, 2**31, 2**31, 2**31], "SCORING_MAX_VALUES"),
        ([0, 10**4000, 10**4000], "SCORING_MAX_VALUES"),
    ],
    ids=["rows", "values", "empty", "product", "digits"],
)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_more_is_too_large_and_names_the_setting(
    shape: list[int], setting: str, binary: bool
) -> None:
    limits = Limits(rows=4, values=8, bytes=1000)
    sent = binary_request("INT8", b"", shape) if binary else (json_request("INT8", [], shape), None)
    with pytest.raises(InputTooLarge, match=setting):
        decode(sent[0], sent[1], limits)


def test_the_limit_of_values_is_for_all_inputs_together() -> None:
    each = {"datatype": "INT8", "shape": [4], "data": [1, 2, 3, 4]}
    body = json.dumps({"inputs": [{"name": name, **each} for name in "abc"]}).encode()
    assert len(decode(body, None, Limits(4, 12, 1000)).tensors.tensors) == 3
    with pytest.raises(InputTooLarge, match=r"The V2 request has 12 values; at most 11"):
        decode(body, None, Limits(4, 11, 1000))


@pytest.mark.parametrize(
    ("junk", "message"),
    [
        (b"1," * 600_000, "has 600003 values; at most 100000 are"),
        (b"[]" * 600_000, r"of memory once read; at most 10 times SCORING_MAX_BODY_BYTES \(1000\)"),
    ],
    ids=["values", "lists"],
)
def test_json_that_would_take_much_memory_is_not_parsed(junk: bytes, message: str) -> None:
    body = b'{"inputs": [' + junk + b'1], "a": 1, "b": 2}'
    with pytest.raises(InputTooLarge, match=message):
        decode(body, len(body), Limits(1000, 100_000, 1000))


def test_json_of_more_than_a_megabyte_is_read_within_the_limits() -> None:
    values = list(range(90_000))
    body = json_request("INT64", values, [900, 100]).replace(b", ", b"," + b" " * 10)
    assert len(body) > 1024 * 1024
    assert decoded(body).reshape(-1).tolist() == values


@pytest.mark.parametrize("datatype", ["FP64", "BYTES"])
def test_a_small_body_never_takes_much_memory(datatype: str) -> None:
    """A shape of 10 million values that are not there is refused before any memory is taken."""
    body, length = binary_request(datatype, b"\0" * 100, [10, 1_000_000])
    tracemalloc.start()
    try:
        with pytest.raises(SchemaMismatch, match="has binary_data_size 100"):
            decode(body, length, Limits(10**9, 10**9, 10**9))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


# --- responses ------------------------------------------------------------------------------------


def test_the_bytes_of_a_response() -> None:
    """JSON alone, and JSON with a binary tensor after it."""
    outputs = {"y": np.array([[1.5, np.nan]], np.float32), "t": np.array(["a"], object)}
    body, length = encode(outputs, request(id="i"), "m", "2")
    assert length is None
    assert body == (
        b'{"model_name":"m","model_version":"2","id":"i","outputs":['
        b'{"name":"y","datatype":"FP32","shape":[1,2],"data":[1.5,null]},'
        b'{"name":"t","datatype":"BYTES","shape":[1],"data":["a"]}]}'
    )
    body, length = encode(outputs, request(("t", True), ("y", True)), "m", "")
    header = (
        b'{"model_name":"m","outputs":['
        b'{"name":"t","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}},'
        b'{"name":"y","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    )
    assert length == len(header)
    assert body == header + b"\1\0\0\0a" + struct.pack("<2f", 1.5, float("nan"))


def test_only_what_is_asked_for_is_answered_in_that_order() -> None:
    outputs = {name: np.array([index]) for index, name in enumerate("abc")}
    response = encode(outputs, request(("c", False), ("a", True)), "m", "1")
    result = triton_result(response)
    assert [each["name"] for each in result.get_response()["outputs"]] == ["c", "a"]
    assert result.as_numpy("c").tolist() == [2]
    assert result.as_numpy("a").tolist() == [0]
    assert result.as_numpy("b") is None


def test_an_output_that_there_is_not_is_a_mismatch_that_lists_those_there_are() -> None:
    outputs = {"label": np.array([1]), "probabilities": np.array([0.5])}
    message = "Unknown outputs are asked for: 'z'. There are: 'label', 'probabilities'."
    with pytest.raises(SchemaMismatch, match=re.escape(message)):
        encode(outputs, request(("label", False), ("z", False)), "m", "1")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize(
    "given",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12.0).reshape(2, 6)[:, ::2],
        np.arange(6, dtype=">f8").reshape(2, 3),
        np.arange(6, dtype=np.longdouble).reshape(2, 3),
    ],
    ids=["columns first", "strides", "big-endian", "longdouble"],
)
def test_arrays_in_any_memory_order_are_written_row_major(
    given: np.ndarray[Any, Any], binary: bool
) -> None:
    result = triton_result(encode({"y": given}, request(binary=binary), "m", "1"))
    assert same(result.as_numpy("y"), np.array(given.tolist(), np.float64))


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        (np.array(["é", "b"]), ["é", "b"]),
        (np.array([b"a", b"bc"]), ["a", "bc"]),
        (np.array(["a", None, b"b", 1.5], dtype=object), ["a", None, "b", "1.5"]),
        (np.array(["2024-02-29", "NaT"], "M8[D]"), ["2024-02-29T00:00:00", None]),
        (np.array(["2024-02-29T12:00:00.000001"], "M8[ns]"), ["2024-02-29T12:00:00.000001"]),
        (np.array([90], "m8[s]"), ["0:01:30"]),
        (np.array([1 + 2j]), ["(1+2j)"]),
    ],
    ids=["unicode", "bytes", "objects", "days", "moments", "durations", "complex"],
)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_anything_else_is_text(
    given: np.ndarray[Any, Any], texts: list[str | None], binary: bool
) -> None:
    """What is missing is null, and empty where there is no null."""
    result = triton_result(encode({"y": given}, request(binary=binary), "m", "1"))
    assert result.get_output("y")["datatype"] == "BYTES"
    made = result.as_numpy("y").tolist()
    assert made == ([(text or "").encode() for text in texts] if binary else texts)


@pytest.mark.parametrize("value", [b"\xff", "\ud800"], ids=["bytes", "half a pair"])
def test_what_is_no_text_goes_out_as_binary_data_only(value: Any) -> None:
    outputs = {"y": np.array([value], dtype=object)}
    with pytest.raises(NotAcceptable, match=r"The output 'y' .* \"binary_data\": true"):
        encode(outputs, request(), "m", "1")
    sent = value if isinstance(value, bytes) else b"\xed\xa0\x80"
    made = triton_result(encode(outputs, request(binary=True), "m", "1")).as_numpy("y")
    assert made.tolist() == [sent]


@pytest.mark.parametrize(
    ("nan", "data"),
    [
        ("null", b"[0.5,null,null]"),
        ("string", b'[0.5,"NaN","-Infinity"]'),
        ("raw", b"[0.5,NaN,-Infinity]"),
    ],
)
def test_nan_in_json_is_what_the_setting_says(nan: str, data: bytes) -> None:
    given = array("FP16", [0.5, np.nan, -np.inf])
    assert data in encode({"y": given}, request(), "m", "1", nan=nan).body


def test_nan_in_json_is_an_error_if_the_setting_says_so() -> None:
    """Finite numbers and binary data are none of its business."""
    finite, other = {"y": np.array([0.5])}, {"y": np.array([np.nan])}
    assert b"[0.5]" in encode(finite, request(), "m", "1", nan="error").body
    with pytest.raises(ResultNotSerializable, match="SCORING_NAN"):
        encode(other, request(), "m", "1", nan="error")
    result = triton_result(encode(other, request(binary=True), "m", "1", nan="error"))
    assert np.isnan(result.as_numpy("y")).all()


# --- metadata, and what a request is --------------------------------------------------------------


def test_the_metadata_are_those_of_the_protocol() -> None:
    assert server_metadata("scoring-runtime", "1.2") == {
        "name": "scoring-runtime",
        "version": "1.2",
        "extensions": ["binary_tensor_data"],
    }
    inputs = [Spec("x", "FP32", (-1, 4)), Spec("s", "BYTES", (-1,), optional=True)]
    made = model_metadata("m", ("1", "2"), "onnxruntime_onnx", inputs, [Spec("y", "INT64", (-1,))])
    assert made == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "s", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"inputs": [GOOD]}, True),
        ({"inputs": [{"name": "x", "shape": [1]}]}, True),
        ({"inputs": [{"datatype": "FP32", "shape": [1], "data": [1]}]}, True),
        ({"inputs": [{"name": "x", "datatype": "float"}]}, True),
        ({"inputs": [{"name": "Ann", "shape": "round"}]}, False),
        ({"inputs": [{"name": "x", "data": [1]}]}, False),
        ({"inputs": [[1, 2]]}, False),
        ({"inputs": {"x": [1]}}, False),
        ([GOOD], False),
    ],
    ids=str,
)
def test_a_v2_request_is_told_from_other_json(value: Any, expected: bool) -> None:
    assert is_infer_request(value) is expected


# --- properties -----------------------------------------------------------------------------------

TENSORS = st.sampled_from([each for each in NUMPY_TYPES if each != "BYTES"]).flatmap(
    lambda datatype: st.tuples(
        st.just(datatype),
        hnp.arrays(
            NUMPY_TYPES[datatype],
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
    )
)
TEXTS = hnp.arrays(
    object,
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    elements=st.text(st.characters(codec="utf-8"), max_size=5),
).map(lambda each: ("BYTES", each))


def is_same_number(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """As :func:`same`, but one NaN is like another: JSON has one only."""
    if one.dtype.kind == "f":
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    return same(one, other)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    tensors=st.lists(st.one_of(TENSORS, TEXTS), min_size=1, max_size=4),
    ways=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_what_tritonclient_sends_comes_back(
    tensors: list[tuple[str, np.ndarray[Any, Any]]], ways: list[bool]
) -> None:
    """Any tensors, each in binary or JSON, are read, written and read again as they were."""
    named = {f"t{index}": each for index, each in enumerate(tensors)}
    binary = dict(zip(named, ways, strict=False))
    outputs = [triton.InferRequestedOutput(name, binary_data=binary[name]) for name in named]
    asked = decode(*triton_request(named, binary, outputs), LIMITS)
    result = triton_result(encode(asked.tensors.tensors, asked, "m", "1", nan="raw"))
    for name, (datatype, sent) in named.items():
        assert is_same_number(asked.tensors.tensors[name], sent)
        back = result.as_numpy(name)
        if datatype == "BYTES":
            flat = [t.decode() if isinstance(t, bytes) else t for t in back.reshape(-1).tolist()]
            assert (flat, back.shape) == (sent.reshape(-1).tolist(), sent.shape)
        else:
            assert is_same_number(back, sent)
