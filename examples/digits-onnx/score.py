"""Read handwritten digits with ONNX Runtime: JSON text in, digits and their probabilities out."""

import json
import os

import numpy as np
import onnxruntime

session: onnxruntime.InferenceSession


def init() -> None:
    global session
    model_path = os.path.join(os.getenv("AZUREML_MODEL_DIR"), "digits.onnx")
    options = onnxruntime.SessionOptions()
    # One request is one small matrix: more threads would only wait for each other.
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model_path, options, providers=["CPUExecutionProvider"])


def run(data: str) -> dict[str, list]:
    images = np.array(json.loads(data)["data"], dtype=np.float32)
    labels, probabilities = session.run(None, {"data": images})
    return {
        "digits": labels.tolist(),
        "probabilities": [round(float(row.max()), 4) for row in probabilities],
    }
