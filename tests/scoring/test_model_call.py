"""The shortest way of a request to a model without a script gives what the long way gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from sklearn.linear_model import LinearRegression

from scoring_runtime import ScoringRequest, Settings
from scoring_runtime.errors import InputError
from scoring_runtime.no_code.onnx import OnnxModel
from scoring_runtime.no_code.scikit_learn import ScikitLearnModel
from scoring_runtime.scoring.model_call import ModelInvocation
from tests.no_code.test_onnx import echo, saved

SETTINGS = Settings(max_rows=3, max_values=7)
ROWS = {
    "usual": b'{"data": [[1.5, 2], [3, 4]]}',
    "a bare list": b"[[1, 2]]",
    "booleans and null": b"[[true, null]]",
    "text": b'[["1.5", "2"]]',
    "no number": b'[["a", 2]]',
    "too large for float32": b"[[1e39, 2]]",
    "text too large for float32": b'[["1e39", 2]]',
    "infinite": b"[[1, Infinity]]",
    "an integer of 30 digits": b"[[1, 100000000000000000000000000000]]",
    "uneven": b"[[1, 2], [3]]",
    "too narrow": b"[[1]]",
    "one row without its list": b"[1, 2]",
    "too deep": b"[[[1, 2]]]",
    "objects": b'[{"a": 1, "b": 2}]',
    "no row": b'{"data": []}',
    "too many rows": b"[[1, 2], [1, 2], [1, 2], [1, 2]]",
    "another name": b'{"instances": [[1, 2]]}',
    "two names": b'{"data": [[1, 2]], "params": {}}',
    "no list": b'{"data": 1}',
    "cut off": b'{"data": [[1, 2',
    "empty": b"",
}
HEADERS: dict[str, list[tuple[bytes, bytes]]] = {
    "plain": [(b"content-type", b"application/json"), (b"accept", b"*/*")],
    "none": [],
    "parameters": [(b"content-type", b"application/json; charset=utf-8")],
    "CSV wanted": [(b"accept", b"text/csv")],
    "nothing acceptable": [(b"accept", b"image/png")],
    "CSV said": [(b"content-type", b"text/csv")],
    "any type said": [(b"content-type", b"*/*")],
    "compressed, they say": [(b"content-encoding", b"gzip")],
}


@pytest.fixture(scope="module", params=["onnx", "scikit-learn"])
def both(request: pytest.FixtureRequest, tmp_path_factory: Any) -> list[ModelInvocation]:
    model: Any
    if request.param == "onnx":
        file = saved(echo(TensorProto.FLOAT, [None, 2]), tmp_path_factory.mktemp("model"))
        model = OnnxModel(file, SETTINGS)
    else:
        estimator = LinearRegression().fit(np.array([[1.0, 2], [2, 1], [3, 3]]), [1.0, 2, 3])
        model = ScikitLearnModel(estimator, SETTINGS.limits)
    assert model.quick is not None
    short = ModelInvocation(model, "m", "1", SETTINGS)
    model.quick = None
    return [short, ModelInvocation(model, "m", "1", SETTINGS)]


def answer(model: ModelInvocation, request: ScoringRequest) -> Any:
    try:
        response = model(request)
    except InputError as error:
        return type(error), str(error)
    return response.status, response.body, response.headers


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize("rows", ROWS)
def test_the_short_way_answers_as_the_long_one(
    both: list[ModelInvocation], rows: str, headers: str
) -> None:
    request = ScoringRequest(ROWS[rows], HEADERS[headers], "POST", "/score")
    short, long = (answer(each, request) for each in both)
    assert short == long


def test_the_short_way_is_taken(both: list[ModelInvocation]) -> None:
    """The long way is not asked for the usual request."""
    short = both[0]
    usual = ScoringRequest(ROWS["usual"], HEADERS["plain"], "POST", "/score")
    expected = short(usual).body
    model, short.model = short.model, None  # type: ignore[assignment]
    try:
        assert short(usual).body == expected
    finally:
        short.model = model
