"""Is the text of a picture upside down? rapidocr's model, from the bytes of a PNG."""

import io
import os

import numpy as np
import onnxruntime
from azureml.contrib.services.aml_request import rawhttp
from PIL import Image


def init():
    """Open the session."""
    global session, name
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name


@rawhttp
def run(request):
    """How likely it stands upright, and upside down."""
    picture = np.asarray(Image.open(io.BytesIO(request.get_data())), dtype=np.float32)
    picture = ((picture / 127.5) - 1).transpose(2, 0, 1)[None]
    return session.run(None, {name: picture})[0].tolist()
