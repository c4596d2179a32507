"""onnx_row.py with @batched."""

import itertools
import json
import os

import numpy as np
import onnxruntime

from scoring_runtime import batched


def init():
    """Open the session."""
    global session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@batched(max_size=64)
def run(bodies):
    """One call of the session for all rows of all bodies."""
    rows = [json.loads(body)["data"] for body in bodies]
    label, probabilities = session.run(None, {"input": np.concatenate(rows, dtype=np.float32)})
    ends = np.cumsum([len(each) for each in rows])
    return [
        {"label": label[a:b].tolist(), "probabilities": probabilities[a:b].tolist()}
        for a, b in itertools.pairwise([0, *ends])
    ]
