"""The tensors of V2 requests and responses: how they are described, and where their data is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ..errors import InputTooLarge, NotAcceptable, SchemaMismatch, UndecodableInput
from ..values.content import NUMPY_TYPES, Limits, Spec
from ..values.json_results import encoder
from .binary_tensors import from_bytes, to_bytes
from .guarded_json import check_columns
from .json_tensors import from_json, is_utf8, shown

HEADER_LENGTH = "Inference-Header-Content-Length"
_INPUTS = (*NUMPY_TYPES, "BF16")
_OUTPUTS = {np.dtype(each): name for name, each in NUMPY_TYPES.items() if name != "BYTES"}
_MOST_DIMENSIONS = 32
_LONGEST_NAME = 1000


class Inputs:
    """Reads the inputs of a request one after the other.

    Args:
        body: the request.
        start: where its binary tensors begin; None: there is only JSON.
        limits: rows are the first length of a shape, values those of all inputs together.
    """

    def __init__(self, body: bytes, start: int | None, limits: Limits) -> None:
        self._body = body
        self._binary = start is not None
        self._at = len(body) if start is None else start
        self._limits = limits
        self._values_left = limits.values

    def read(self, inputs: Any) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """The arrays and the datatypes by name.

        Raises:
            SchemaMismatch, UndecodableInput, InputTooLarge.
        """
        if not isinstance(inputs, list) or not inputs:
            raise SchemaMismatch(
                f'The V2 request has {_got(inputs)} as "inputs"; expected is a list of at least '
                "one object with name, datatype, shape and data."
            )
        check_columns(len(inputs), self._limits, "The V2 request", "inputs")
        tensors: dict[str, NDArray[Any]] = {}
        datatypes: dict[str, str] = {}
        for index, each in enumerate(inputs):
            spec = self._described(each, f"inputs[{index}]")
            if spec.name in tensors:
                raise SchemaMismatch(f"The input {spec.name!r} is there twice.")
            tensors[spec.name] = self._tensor(each, spec)
            datatypes[spec.name] = spec.datatype
        if self._at != len(self._body):
            raise UndecodableInput(
                f"The body has {len(self._body) - self._at} bytes after the binary data of its "
                f"inputs. The JSON part ({HEADER_LENGTH}) and binary_data_size of the inputs must "
                "add up to the body."
            )
        return tensors, datatypes

    def _described(self, each: Any, where: str) -> Spec:
        name = named(each, where)
        datatype = each.get("datatype")
        if not isinstance(datatype, str) or datatype not in _INPUTS:
            raise SchemaMismatch(
                f"The input {name!r} has {_got(datatype)} as datatype; allowed are "
                f"{', '.join(_INPUTS)}."
            )
        shape = each.get("shape")
        if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
            raise SchemaMismatch(
                f"The input {name!r} has {_got(shape)} as shape; expected is a list of at most "
                f"{_MOST_DIMENSIONS} lengths."
            )
        for length in shape:
            if type(length) is not int or length < 0:
                raise SchemaMismatch(
                    f"The input {name!r} has {shown(shape)} as shape; its lengths are whole "
                    "numbers from 0."
                )
        self._check_limits(shape, name)
        return Spec(name, datatype, tuple(shape))

    def _check_limits(self, shape: list[int], name: str) -> None:
        if shape and shape[0] > self._limits.rows:
            raise InputTooLarge(
                f"The input {name!r} has the shape {shown(shape)}; at most {self._limits.rows} "
                "rows are scored at once (SCORING_MAX_ROWS)."
            )
        # A length of 0 must not hide that numpy cannot hold the others.
        self._values_left -= math.prod(length or 1 for length in shape)
        if self._values_left < 0:
            raise InputTooLarge(
                f"The input {name!r} has the shape {shown(shape)}, with which the request has more "
                f"than {self._limits.values} values, the most that are scored at once "
                "(SCORING_MAX_VALUES)."
            )

    def _tensor(self, each: dict[str, Any], spec: Spec) -> NDArray[Any]:
        where = f"The input {spec.name!r}"
        params, data = parameters(each, where), each.get("data")
        size = params.get("binary_data_size")
        if (size is None) == (data is None):
            both = "neither data nor" if data is None else "both data and"
            raise SchemaMismatch(
                f"{where} has {both} the parameter binary_data_size; exactly one is expected."
            )
        if size is None:
            return from_json(data, spec)
        start = self._at
        self._at = self._end(size, where)
        return from_bytes(self._body, start, size, spec)

    def _end(self, size: Any, where: str) -> int:
        if type(size) is not int or size < 0:
            raise SchemaMismatch(
                f"{where} has {shown(size)} as binary_data_size; expected is a number of bytes."
            )
        if not self._binary:
            raise SchemaMismatch(
                f"{where} has binary_data_size, but the header {HEADER_LENGTH}, which says where "
                "the binary data begins, is missing."
            )
        if size > len(self._body) - self._at:
            raise UndecodableInput(
                f"{where} has {shown(size)} as binary_data_size, but only "
                f"{len(self._body) - self._at} bytes are left in the body."
            )
        return self._at + size


def named(holder: Any, where: str) -> str:
    """The name of an input or output."""
    if not isinstance(holder, dict):
        raise SchemaMismatch(f"{where} is {shown(holder)}; expected is an object with a name.")
    name = holder.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not is_utf8(name):
        raise SchemaMismatch(
            f"{where} has {_got(name)} as name; expected is text of 1 to {_LONGEST_NAME} "
            "characters."
        )
    return name


def parameters(holder: dict[str, Any], where: str) -> dict[str, Any]:
    """The parameters of a request, an input or an output; none are empty."""
    params = holder.get("parameters")
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise SchemaMismatch(f"{where} has {shown(params)} as parameters; expected is an object.")
    if "shared_memory_region" in params:
        raise SchemaMismatch(
            f"{where}: the parameter shared_memory_region is not supported; tensors go in the "
            "body, as JSON or binary data."
        )
    return params


def flag(params: dict[str, Any], key: str, default: bool, where: str) -> bool:
    """A parameter that is true or false."""
    value = params.get(key, default)
    if type(value) is not bool:
        raise SchemaMismatch(f"{where} has {shown(value)} as {key}; expected is true or false.")
    return value


def output_tensor(
    name: str, given: NDArray[Any], binary: bool, nan: str
) -> tuple[dict[str, Any], bytes | NDArray[Any] | None]:
    """An output as the response describes it, and its binary data if it is to be that.

    Numbers and booleans keep their datatype, anything else is BYTES. Data in JSON is flat. Missing
    text is null there, and empty in binary data, which has no other way to say it.

    Raises:
        NotAcceptable: it holds what is no text, and is to be JSON.
        ResultNotSerializable: NaN or Infinity in JSON, where ``nan`` is ``error``.
    """
    datatype, values = _typed(given)
    output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": given.shape}
    if not binary:
        output["data"] = _texts(values, name) if datatype == "BYTES" else _numbers(values, nan)
        return output, None
    data = to_bytes(values)
    size = len(data) if isinstance(data, bytes) else data.nbytes
    output["parameters"] = {"binary_data_size": size}
    return output, data


def _typed(values: NDArray[Any]) -> tuple[str, NDArray[Any]]:
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
    texts = np.empty(values.size, dtype=object)
    texts[:] = [_text(value) for value in values.reshape(-1).tolist()]
    return "BYTES", texts


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
        texts = [each.decode() if isinstance(each, bytes) else each for each in values.tolist()]
        "".join(filter(None, texts)).encode()
    except UnicodeError:
        raise NotAcceptable(
            f"The output {name!r} holds bytes that are not UTF-8, which JSON cannot carry: ask for "
            'it with the parameter "binary_data": true.'
        ) from None
    return texts


def _got(value: Any) -> str:
    return "nothing" if value is None else shown(value)
