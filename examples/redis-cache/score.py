"""The measurements wait in Redis; a request names the keys of those to score.

As scripts beside Azure Cache for Redis have always been written: a client of their own.
"""

import json
import os

import joblib
import numpy as np
import redis
from sklearn.linear_model import Ridge

model: Ridge
cache: redis.StrictRedis


def init() -> None:
    global model, cache
    cache = redis.StrictRedis(
        host=os.environ["REDIS_HOST"],
        port=int(os.getenv("REDIS_PORT", "6380")),
        password=os.getenv("REDIS_KEY"),
        ssl=os.getenv("REDIS_SSL", "true") == "true",
    )
    model_path = os.path.join(os.getenv("AZUREML_MODEL_DIR"), "sklearn_regression_model.pkl")
    model = joblib.load(model_path)


def run(raw_data: str) -> dict:
    keys = json.loads(raw_data)["keys"]
    kept = {key: cache.get(key) for key in keys}
    missing = [key for key, value in kept.items() if value is None]
    if missing:
        return {"error": f"not in Redis: {', '.join(missing)}"}
    data = np.array([json.loads(value) for value in kept.values()])
    return dict(zip(kept, model.predict(data).tolist(), strict=True))
