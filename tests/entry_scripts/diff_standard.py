"""Standard and nested types, one parameter with a default, the headers as well."""

import datetime

import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema

NESTED = {
    "name": StandardPythonParameterType("rose"),
    "petals": NumpyParameterType(np.array([1, 2])),
    "day": StandardPythonParameterType(datetime.datetime(2026, 1, 2, 3, 4)),
}


def init():
    pass


@input_schema("many", StandardPythonParameterType([1, "two", 3.0]))
@input_schema("count", StandardPythonParameterType(3))
@input_schema("ratio", StandardPythonParameterType(0.5))
@input_schema("flower", StandardPythonParameterType(NESTED))
@output_schema(StandardPythonParameterType({"seen": "text"}))
def run(count, ratio, flower, request_headers, many=()):
    assert isinstance(flower["petals"], np.ndarray)
    assert isinstance(flower["day"], datetime.datetime)
    seen = {name: repr(value) for name, value in sorted(flower.items())}
    return {"count": count, "ratio": ratio, "seen": seen, "many": many, "h": len(request_headers)}
