"""BentoML with its adaptive batching: ``bentoml serve service:Digits``."""

import bentoml
import numpy as np
from predict import load, picture_of_base64


@bentoml.service(workers=1)
class Digits:
    """Batches along the first axis."""

    def __init__(self) -> None:
        self.predictor = load()

    @bentoml.api(batchable=True, max_batch_size=64)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """One call for all rows that wait."""
        return self.predictor(rows)

    @bentoml.api(batchable=True, max_batch_size=64)
    def classify(self, images: list[str]) -> list[list[float]]:
        """One call for all pictures that wait."""
        pixels = [picture_of_base64(each) for each in images]
        return self.predictor(np.concatenate(pixels)).tolist()
