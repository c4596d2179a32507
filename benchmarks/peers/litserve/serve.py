"""LitServe with its batching: ``python serve.py PORT``."""

import sys

import litserve
import numpy as np
from predict import load, picture_of_base64


class Digits(litserve.LitAPI):
    """Rows of all that waits, in one call."""

    def setup(self, device):
        """In the inference process."""
        self.predictor = load()

    def decode_request(self, request):
        """The rows, or the one picture, of a request."""
        if "image" in request:
            return picture_of_base64(request["image"])
        return np.array(request["data"])

    def batch(self, inputs):
        """Join, and keep in mind where each ends."""
        self.ends = np.cumsum([len(each) for each in inputs])[:-1]
        return np.concatenate(inputs)

    def predict(self, batch):
        """One call."""
        return self.predictor(batch)

    def unbatch(self, output):
        """What each request gets."""
        return np.split(output, self.ends)

    def encode_response(self, output):
        """As JSON."""
        return output.tolist()


if __name__ == "__main__":
    api = Digits(max_batch_size=64, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", num_api_servers=1, log_level="warning")
