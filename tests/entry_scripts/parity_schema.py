"""Typed arguments."""

import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema


def init():
    pass


@input_schema("data", NumpyParameterType(np.array([[0.5, 1.5]])))
@input_schema("name", StandardPythonParameterType("n"))
@output_schema(NumpyParameterType(np.array([1.0])))
def run(data, name):
    return {"sums": data.sum(axis=1), "name": name, "kind": str(data.dtype)}
