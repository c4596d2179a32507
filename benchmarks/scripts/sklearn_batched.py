"""sklearn_row.py with @batched."""

import itertools
import json
import os

import joblib
import numpy as np

from scoring_runtime import batched


def init():
    """Load the model."""
    global model
    model = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.pkl"))


@batched(max_size=64)
def run(bodies):
    """One predict() for all rows of all bodies."""
    rows = [json.loads(body)["data"] for body in bodies]
    digits = model.predict(np.concatenate(rows)).tolist()
    ends = np.cumsum([len(each) for each in rows]).tolist()
    return [digits[a:b] for a, b in itertools.pairwise([0, *ends])]
