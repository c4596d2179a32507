"""MLServer's way for a model that none of its runtimes knows: a custom runtime."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from predict import load, picture_of_base64


class Runtime(MLModel):
    """predict() gets what the adaptive batching joined along the first axis."""

    async def load(self):
        """Once, in the inference process."""
        self.predictor = load()
        return True

    async def predict(self, payload):
        """One call for all rows."""
        [given] = payload.inputs
        if given.datatype == "BYTES":
            rows = np.concatenate([picture_of_base64(each) for each in given.data])
        else:
            rows = NumpyCodec.decode_input(given)
        output = NumpyCodec.encode_output("output", self.predictor(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
