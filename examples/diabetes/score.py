"""Predict diabetes progression: JSON text in, a list of numbers out."""

import json
import os

import joblib
import numpy as np
from sklearn.linear_model import Ridge

model: Ridge


def init() -> None:
    global model
    model_path = os.path.join(os.getenv("AZUREML_MODEL_DIR"), "sklearn_regression_model.pkl")
    model = joblib.load(model_path)


def run(raw_data: str) -> list[float]:
    data = np.array(json.loads(raw_data)["data"])
    result = model.predict(data)
    return result.tolist()
