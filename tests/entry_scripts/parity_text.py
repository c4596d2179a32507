"""Text in; what comes out depends on the text."""

import numpy as np
import pandas as pd
from werkzeug.exceptions import abort

from scoring_runtime import InputError


def init():
    pass


def run(data):
    if data == "fail":
        raise ValueError("the details are for the log")
    if data == "exit":
        raise SystemExit(1)
    if data == "abort":
        abort(418)
    if data == "refuse":
        raise InputError("not this one")
    results = {
        "object": object(),
        "numpy": {"a": np.arange(3), "b": np.float32(1.5), "c": float("nan")},
        "frame": pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
        "nothing": None,
    }
    return results.get(data, {"got": data})
