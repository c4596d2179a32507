"""The same model as ONNX, on one row of 64 numbers."""

import json
import os

import numpy as np
import onnxruntime


def init() -> None:
    """Open the session; one thread, as one row has nothing to share out."""
    global session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = os.path.join(os.environ["AZUREML_MODEL_DIR"], "digits.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(data: str) -> list[int]:
    """The digit of each row."""
    rows = np.array(json.loads(data)["data"], dtype=np.float32)
    digits: list[int] = session.run(["label"], {"input": rows})[0].tolist()
    return digits
