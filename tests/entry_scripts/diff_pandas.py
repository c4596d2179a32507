# mypy: ignore-errors
"""A typed data frame in; columns of several kinds."""

import pandas as pd
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.schema_decorators import input_schema, output_schema

SAMPLE = pd.DataFrame({"size": [1.5], "petals": [3], "name": ["rose"]})


def init():
    pass


@input_schema("data", PandasParameterType(SAMPLE))
@output_schema(PandasParameterType(pd.DataFrame({"score": [0.5]})))
def run(data):
    scores = data["size"] * data["petals"]
    return {"names": data["name"].tolist(), "scores": scores.tolist()}
