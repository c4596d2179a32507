"""Only `@output_schema`: the input is a JSON object all the same."""

from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import output_schema


def init():
    pass


@output_schema(StandardPythonParameterType([1.5]))
def run(first, second=2):
    return [first, second]
