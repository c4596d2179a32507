"""A scikit-learn model on rows of 64 numbers."""

import json
import os

import joblib
import numpy as np


def init():
    """Load the model."""
    global model
    model = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.pkl"))


def run(data):
    """The digit of each row."""
    return model.predict(np.array(json.loads(data)["data"])).tolist()
