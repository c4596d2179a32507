"""A scikit-learn pipeline on one row of 64 numbers."""

import json
import os

import joblib
import numpy as np


def init() -> None:
    """Load the pipeline."""
    global model
    model = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "digits.pkl"))


def run(data: str) -> list[int]:
    """The digit of each row."""
    predicted: list[int] = model.predict(np.array(json.loads(data)["data"])).tolist()
    return predicted
