"""The model of BENCH_MODEL as a folder of MLflow: ``python save.py FOLDER``."""

import os
import sys

import mlflow
import numpy as np
from predict import load


class Echo(mlflow.pyfunc.PythonModel):
    """Always 1."""

    def predict(self, context, model_input, params=None):
        """For each row."""
        return [1] * len(model_input)


path, folder = os.environ["BENCH_MODEL"], sys.argv[1]
rows = np.zeros((1, 64), dtype=np.float32 if path.endswith(".onnx") else np.float64)
if not path:
    mlflow.pyfunc.save_model(folder, python_model=Echo(), pip_requirements=[])
elif path.endswith(".pkl"):
    import joblib

    signature = mlflow.models.infer_signature(rows, load()(rows))
    kinds = {"serialization_format": "pickle", "pip_requirements": []}
    mlflow.sklearn.save_model(joblib.load(path), folder, signature=signature, **kinds)
else:
    import onnx

    signature = mlflow.models.infer_signature(rows)
    options = {"intra_op_num_threads": 1}
    mlflow.onnx.save_model(
        onnx.load(path),
        folder,
        signature=signature,
        onnx_session_options=options,
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=[],
    )
