"""The digits' model as ONNX, on rows of 64 numbers."""

import json
import os

import numpy as np
import onnxruntime


def init():
    """Open the session; one thread, as few rows have nothing to share out."""
    global session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(data):
    """The digit of each row, and how likely each digit is."""
    rows = np.array(json.loads(data)["data"], dtype=np.float32)
    label, probabilities = session.run(None, {"input": rows})
    return {"label": label.tolist(), "probabilities": probabilities.tolist()}
