"""Read handwritten digits: typed input by @input_schema, a list of digits out.

The import of joblib is the old one on purpose: scikit-learn removed `sklearn.externals.joblib`
in 0.23, and the runtime keeps the name working for scripts that were never changed.
"""

import os

import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.schema_decorators import input_schema, output_schema
from sklearn.externals import joblib
from sklearn.pipeline import Pipeline

model: Pipeline

input_sample = np.zeros((1, 64))
output_sample = np.array([0])


def init() -> None:
    global model
    model_path = os.path.join(os.getenv("AZUREML_MODEL_DIR"), "sklearn_mnist_model.pkl")
    model = joblib.load(model_path)


@input_schema("data", NumpyParameterType(input_sample))
@output_schema(NumpyParameterType(output_sample))
def run(data: np.ndarray) -> list[int]:
    result = model.predict(data)
    return result.tolist()
