"""What a user's score.py does with a batch: json.loads, an array, the session, lists."""

import json
import os

import numpy as np
import onnxruntime


def init():
    global session
    path = os.path.join(os.environ["AZUREML_MODEL_DIR"], "digits.onnx")
    session = onnxruntime.InferenceSession(path)


def run(data):
    rows = np.array(json.loads(data)["data"], dtype=np.float32)
    label, probabilities = session.run(None, {"input": rows})
    return {"label": label.tolist(), "probabilities": probabilities.tolist()}
