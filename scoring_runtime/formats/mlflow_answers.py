"""What ``mlflow models serve`` puts under ``predictions``."""

from __future__ import annotations

import base64
import datetime
import sys
from typing import Any


def to_json_ready(result: Any) -> Any:
    """What ``mlflow models serve`` puts under ``predictions``, in plain lists, dicts and scalars.

    A table or a series becomes a list of records, an array a list, dates ISO text (in arrays of
    nanoseconds: integers), bytes base64 in lines of 76 characters (``NumpyEncoder`` and
    ``_get_jsonable_obj`` in ``mlflow/utils/proto_json_utils.py``). What has no such form stays.
    """
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(result, pandas.Series):
        result = result.to_frame()
    if pandas is not None and isinstance(result, pandas.DataFrame):
        result = result.to_dict(orient="records")
    return _ready(result)


def _ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ready(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_ready(each) for each in value]
    if isinstance(value, bytes | bytearray):
        return base64.encodebytes(value).decode("ascii")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _ready(value.tolist())
    return _ready(value.model_dump()) if hasattr(value, "model_dump") else value
