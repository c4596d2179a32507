"""image.py with @batched."""

import io
import os

import numpy as np
import onnxruntime
from azureml.contrib.services.aml_request import rawhttp
from PIL import Image

from scoring_runtime import batched


def init():
    """Open the session."""
    global session, name
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name


@rawhttp
@batched(max_size=64)
def run(requests):
    """One call of the session for all pictures."""
    pictures = [Image.open(io.BytesIO(each.get_data())) for each in requests]
    stacked = np.stack([np.asarray(each, dtype=np.float32) for each in pictures])
    found = session.run(None, {name: ((stacked / 127.5) - 1).transpose(0, 3, 1, 2)})[0]
    return found[:, None].tolist()
